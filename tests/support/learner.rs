//! P2PFL as it is on PyPI, in the environment that `tests/run` makes: see `judges/p2pfl/learner.py`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Judge, Network, json, root};

/// P2PFL's own Python.
pub fn interpreter() -> PathBuf {
    let folder = std::env::var_os("FASTNESS_TEST_P2PFL")
        .map_or_else(|| root().join(".venv-p2pfl"), PathBuf::from);
    let python = folder.join("bin/python");
    assert!(
        python.exists(),
        "{} is not there: run ./tests/run, which makes it",
        python.display()
    );
    python
}

/// A P2PFL node that follows the test.
pub struct Learner {
    judge: Judge,
    /// Its address, which is its name among its peers.
    pub address: String,
}

impl Learner {
    /// Starts one on a host of `network`, logging to `folder/learner.log`.
    #[track_caller]
    pub fn start(
        network: &Network,
        host: &str,
        folder: &Path,
        address: &str,
        options: &[&str],
    ) -> Self {
        let mut command = network.command(host, interpreter());
        Self::begin(&mut command, folder, address, options)
    }

    fn begin(command: &mut Command, folder: &Path, address: &str, options: &[&str]) -> Self {
        let judges = root().join("tests/judges/p2pfl");
        let log = std::fs::File::create(folder.join("learner.log")).expect("a log");
        command
            .arg("-B")
            .arg(judges.join("learner.py"))
            .arg(address)
            .args(options)
            .env("PYTHONPATH", judges.join("stubs"))
            .current_dir(folder)
            .stderr(log);
        let mut judge = Judge::start(command);
        assert_eq!(judge.hear(), "\"serving\"");
        Self {
            judge,
            address: address.to_owned(),
        }
    }

    /// Lets it do something, and returns what it answers.
    #[track_caller]
    pub fn ask(&mut self, words: &[&str]) -> Value {
        self.begin_asking(words);
        self.answer()
    }

    /// Lets it begin something; the answer is asked for later.
    pub fn begin_asking(&mut self, words: &[&str]) {
        self.judge.tell(&words.join(" "));
    }

    /// What it answers to [`Learner::begin_asking`].
    #[track_caller]
    pub fn answer(&mut self) -> Value {
        let answer = json(&self.judge.hear());
        assert_eq!(answer.get("error"), None, "{}: {answer}", self.address);
        answer
    }
}
