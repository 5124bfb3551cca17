//! `fastness p2pfl doctor`: what is open is found, and what is not is not.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::fleet::{Fleet, LEARNERS};
use crate::support::learner::interpreter;
use crate::support::network::address;
use crate::support::{FASTNESS, Judge, Learner, json, run, said};

/// The doctor on a host.
fn doctor(fleet: &Fleet, host: &str, arguments: &[&str]) -> Output {
    let mut command = fleet.network.command(host, FASTNESS);
    command.args(["p2pfl", "doctor"]).args(arguments);
    command.output().expect("the binary runs")
}

/// What it finds, in JSON, with exit code 3.
#[track_caller]
fn findings(fleet: &Fleet, host: &str, arguments: &[&str]) -> Vec<Value> {
    let output = doctor(fleet, host, &[arguments, &["--format", "json"]].concat());
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let found = json(&String::from_utf8_lossy(&output.stdout));
    assert_eq!((&found["ok"], &found["exit"]), (&false.into(), &3.into()));
    let faults = found["faults"].as_array().expect("faults").clone();
    for fault in &faults {
        assert_ne!(fault["mend"], "", "{fault}");
    }
    faults
}

#[test]
fn a_learner_that_peers_reach_without_us_is_found_and_one_behind_us_is_in_order() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let open = format!("{}:{LEARNERS}", address(0));
    let folder = fleet.mesh.path("a");
    let learner = Learner::start(&fleet.network, "a", &folder, &open, &[]);
    for arguments in [&[][..], &["--address", &open]] {
        let found = findings(&fleet, "a", arguments);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0]["key"], *open);
        let problem = found[0]["problem"].as_str().expect("text");
        assert!(problem.contains("listens there in plaintext"), "{problem}");
        assert!(problem.contains("learner.py"), "{problem}");
    }
    drop(learner);

    fleet.start_nodes();
    let _a = fleet.learner("a", &[]);
    let virtual_place = super::fleet::learner_at(0);
    for arguments in [&[][..], &["--address", &virtual_place]] {
        let output = doctor(&fleet, "a", arguments);
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("nothing is open"), "{text}");
        assert!(text.contains("for this host alone"), "{text}");
    }
}

#[test]
fn settings_that_mean_plaintext_and_keys_that_others_read_are_found() {
    let fleet = Fleet::new(&["a"]);
    let settings = fleet.mesh.path("experiment.yaml");
    let key = fleet.mesh.write("server.key", "not read");
    crate::support::files::only_ours(&key, 0o644);
    let text = format!(
        "settings:\n  ssl:\n    use_ssl: true\n    server_key: {key}\n    server_crt: {key}.none\n    \
         ca_crt: {key}\n    client_crt: {key}\n    client_key: {key}.none\n",
        key = key.display()
    );
    fs::write(&settings, text).unwrap();
    let settings = settings.display().to_string();
    let found = findings(&fleet, "a", &["--settings", &settings]);
    let about = |line: u64, words: &str| {
        let is_it = |fault: &&Value| {
            fault["line"] == line && fault["problem"].as_str().unwrap().contains(words)
        };
        found.iter().filter(is_it).count()
    };
    assert_eq!(about(5, "listens and dials in plaintext"), 1, "{found:?}");
    assert_eq!(about(8, "reaches nobody"), 1, "{found:?}");
    assert_eq!(
        about(4, "other users of this host can read"),
        1,
        "{found:?}"
    );
    assert_eq!(found.len(), 3, "{found:?}");

    let output = doctor(&fleet, "a", &["--settings", "/nowhere"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let output = doctor(&fleet, "a", &["--address", "nowhere"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

/// A process like a learner, which listens for its own host alone.
const LIKE_A_LEARNER: &str = "
import grpc, sys
from concurrent import futures
server = grpc.server(futures.ThreadPoolExecutor(1))
assert server.add_insecure_port('127.77.0.9:6666')
server.start()
print('serving', flush=True)
sys.stdin.read()
";

#[test]
fn keys_beside_a_running_learners_package_are_found() {
    let fleet = Fleet::new(&["a"]);
    let (mesh, python) = (&fleet.mesh, interpreter());
    let packages = run(Command::new(&python).args(["-c", "import grpc; print(grpc.__path__[0])"]));
    let packages = Path::new(packages.trim()).parent().unwrap();
    let own = mesh.path("site-packages");
    fs::create_dir(&own).unwrap();
    for name in ["grpc", "p2pfl"] {
        run(Command::new("cp")
            .arg("-r")
            .arg(packages.join(name))
            .arg(&own));
    }
    let start = || {
        let mut command = fleet.network.command("a", &python);
        command.args(["-c", LIKE_A_LEARNER]).env("PYTHONPATH", &own);
        let mut learner = Judge::start(&mut command);
        assert_eq!(learner.hear(), "serving");
        learner
    };
    let learner = start();
    let output = doctor(&fleet, "a", &[]);
    assert!(output.status.success(), "{}", said(&output));
    drop(learner);
    for file in ["server.key", "ca.key"] {
        mesh.write(
            &format!("site-packages/p2pfl/certificates/{file}"),
            "not read",
        );
    }
    let _learner = start();
    let found = findings(&fleet, "a", &[]);
    let problems: Vec<_> = found
        .iter()
        .map(|fault| fault["problem"].as_str().unwrap())
        .collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        problems[0].contains("server.key is a private key in a file"),
        "{problems:?}"
    );
    assert!(
        problems[1].contains("the authority's own key"),
        "{problems:?}"
    );
}
