//! `fastness p2pfl doctor`: what is open is found, and what is not is not.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::fleet::{Fleet, LEARNERS};
use crate::support::learner::interpreter;
use crate::support::network::address;
use crate::support::{FASTNESS, Judge, Learner, Network, json, run, said};

/// Hosts of which the doctor sees no other processes than those of its test.
fn fleet(names: &[&str]) -> Fleet {
    Fleet::on(Network::new(names).part(), names)
}

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
    let mut fleet = fleet(&["a", "b"]);
    let open = format!("{}:{LEARNERS}", address(0));
    let folder = fleet.mesh.path("a");
    let learner = Learner::start(&fleet.network, "a", &folder, &open, &[]);
    // A container has a network namespace of its own, as the other host has here.
    for host in ["a", "b"] {
        for arguments in [&[][..], &["--address", &open]] {
            let found = findings(&fleet, host, arguments);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0]["key"], *open);
            let problem = found[0]["problem"].as_str().expect("text");
            assert!(problem.contains("listens there in plaintext"), "{problem}");
            assert!(problem.contains("learner.py"), "{problem}");
            let elsewhere = problem.contains("in another network namespace");
            assert_eq!(elsewhere, host == "b", "{problem}");
        }
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
        assert!(text.contains("for what runs beside it alone"), "{text}");
    }
}

#[test]
fn what_cannot_be_seen_is_not_said_to_be_closed() {
    let fleet = fleet(&["a"]);
    let confined = |arguments: &[&str]| {
        let mut command = fleet.network.command("a", "setpriv");
        command.args(["--bounding-set", "-all", FASTNESS, "p2pfl", "doctor"]);
        command.args(arguments).output().expect("setpriv")
    };
    let output = confined(&[]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let text = said(&output);
    assert!(text.contains("processes cannot be seen"), "{text}");
    assert!(text.contains("CAP_SYS_PTRACE"), "{text}");
    for untrue in ["nothing is open", "as root"] {
        assert!(!text.contains(untrue), "{text}");
    }

    // A learner that was named is found all the same.
    let _learner = like_a_learner(&fleet, &[], "127.77.0.9:6666");
    let output = confined(&["--address", "127.77.0.9:6666"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = confined(&["--address", "127.77.0.9:6667"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
}

#[test]
fn a_learner_in_a_network_that_leads_nowhere_is_in_order() {
    let fleet = fleet(&["a"]);
    let alone = [
        "unshare",
        "--net",
        "sh",
        "-c",
        "ip link set lo up && exec \"$@\"",
        "sh",
    ];
    let _learner = like_a_learner(&fleet, &alone, "0.0.0.0:6666");
    let output = doctor(&fleet, "a", &[]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("nothing is open"), "{text}");
    assert!(text.contains(":6666: process "), "{text}");
}

#[test]
fn settings_that_mean_plaintext_and_keys_that_others_read_are_found() {
    let fleet = fleet(&["a"]);
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

/// A process like a learner, which listens where its argument says.
const LIKE_A_LEARNER: &str = "
import grpc, sys
from concurrent import futures
server = grpc.server(futures.ThreadPoolExecutor(1))
assert server.add_insecure_port(sys.argv[1])
server.start()
print('serving', flush=True)
sys.stdin.read()
";

/// Starts one on host `a` through other programs.
fn like_a_learner(fleet: &Fleet, through: &[&str], at: &str) -> Judge {
    let python = interpreter();
    let words = [through, &[python.to_str().expect("UTF-8")]].concat();
    let mut command = fleet.network.command("a", words[0]);
    command.args(&words[1..]).args(["-c", LIKE_A_LEARNER, at]);
    let mut learner = Judge::start(&mut command);
    assert_eq!(learner.hear(), "serving");
    learner
}

#[test]
fn keys_beside_a_running_learners_package_are_found() {
    let fleet = fleet(&["a"]);
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
    let packages = format!("PYTHONPATH={}", own.display());
    let start = |through: &[&str]| {
        let through = [through, &["env", &packages]].concat();
        like_a_learner(&fleet, &through, "127.77.0.9:6666")
    };
    let learner = start(&[]);
    let output = doctor(&fleet, "a", &[]);
    assert!(output.status.success(), "{}", said(&output));
    drop(learner);
    for file in ["server.key", "ca.key"] {
        mesh.write(
            &format!("site-packages/p2pfl/certificates/{file}"),
            "not read",
        );
    }
    // A container has other files at the same paths.
    for (through, contained) in [(&[][..], false), (&["unshare", "--mount"][..], true)] {
        let _learner = start(through);
        let found = findings(&fleet, "a", &[]);
        assert_eq!(found.len(), 2, "{found:?}");
        let words = [
            "server.key is a private key in a file",
            "the authority's own key",
        ];
        for (fault, words) in found.iter().zip(words) {
            let problem = fault["problem"].as_str().unwrap();
            assert!(problem.contains(words), "{problem}");
            assert_eq!(problem.contains("/proc/"), contained, "{problem}");
        }
    }
}
