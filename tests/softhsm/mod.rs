//! A SoftHSM of its own for one test: its folder, its configuration, its PIN files.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something fails"
)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub(crate) const PIN: &str = "271828";
pub(crate) const SO_PIN: &str = "31415926";

pub(crate) struct SoftHsm {
    folder: tempfile::TempDir,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl SoftHsm {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tokens = folder.path().join("tokens");
        fs::create_dir(&tokens).unwrap();
        let configuration = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nlibrary.reset_on_fork = true\n",
            tokens.display()
        );
        fs::write(folder.path().join("softhsm2.conf"), configuration).unwrap();
        let hsm = Self { folder };
        hsm.secret("pin", PIN, 0o600);
        hsm.secret("so-pin", SO_PIN, 0o600);
        hsm
    }

    /// With a token "node" that has its PINs.
    pub(crate) fn with_token() -> Self {
        let hsm = Self::new();
        hsm.fastness(&[
            "token",
            "init",
            "--module",
            MODULE,
            "--label",
            "node",
            "--so-pin",
            "file:so-pin",
            "--pin",
            "file:pin",
        ])
        .good();
        hsm
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn secret(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        fs::write(&path, format!("{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A command in this folder, with this SoftHSM.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .env_remove("CREDENTIALS_DIRECTORY");
        command
    }

    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Ran {
        Ran::of(self.command(program).args(args).output().unwrap())
    }

    pub(crate) fn fastness(&self, args: &[&str]) -> Ran {
        self.run(env!("CARGO_BIN_EXE_fastness"), args)
    }

    /// `fastness token …` with module and user PIN.
    pub(crate) fn token(&self, command: &str, args: &[&str]) -> Ran {
        let mut all = vec!["token", command, "--module", MODULE, "--pin", "file:pin"];
        all.extend(args);
        self.fastness(&all)
    }

    pub(crate) fn keygen(&self, label: &str, kind: &str) -> Ran {
        self.token(
            "keygen",
            &[
                "--token",
                "pkcs11:token=node",
                "--purpose",
                "server",
                "--label",
                label,
                "--kind",
                kind,
            ],
        )
    }

    /// The one key of `fastness token list` that has this label.
    pub(crate) fn listed(&self, label: &str) -> serde_json::Value {
        let ran = self
            .token(
                "list",
                &["--token", "pkcs11:token=node", "--format", "json"],
            )
            .good();
        let list: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        let keys = list["keys"].as_array().unwrap();
        let mut named = keys.iter().filter(|key| key["label"] == label);
        let key = named
            .next()
            .unwrap_or_else(|| panic!("no key {label} in {list}"));
        assert!(named.next().is_none());
        key.clone()
    }

    pub(crate) fn pkcs11_tool(&self, args: &[&str]) -> Ran {
        let mut all = vec![
            "--module",
            MODULE,
            "--token-label",
            "node",
            "--login",
            "--pin",
            PIN,
        ];
        all.extend(args);
        self.run("pkcs11-tool", &all)
    }
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    #[track_caller]
    pub(crate) fn good(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// It failed with a code (not by a signal), said all of `words`, and no PIN.
    #[track_caller]
    pub(crate) fn refused(self, words: &[&str]) -> Self {
        assert!(self.code.is_some_and(|code| code > 0), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
        for pin in [PIN, SO_PIN] {
            assert!(
                !self.err.contains(pin) && !self.out.contains(pin),
                "a PIN in {self:?}"
            );
        }
        self
    }
}
