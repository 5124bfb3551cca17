//! P2PFL 0.4.4 as it is on PyPI, beside nodes whose keys are in tokens: learners that know nothing of TLS,
//! on hosts (network namespaces) of their own. `./tests/run p2pfl` runs these alone, with the long ones.

mod doctor;
pub mod fleet;
mod mixed;
mod own_network;
mod to_token;

use std::time::{Duration, Instant};

use fleet::{Fleet, connect, learn, learner_at, no_private_key_below};
use rustix::process::Signal;

use crate::support::Learner;
use crate::support::node::signal;

/// What a busy test machine may take for what P2PFL wants within 5 and 10 seconds.
const PATIENT: [&str; 2] = ["--patience", "60"];

#[test]
fn two_learners_learn_two_rounds_and_the_wire_shows_tls_alone() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let wire = fleet.watch();
    fleet.start_nodes();
    let (mut a, mut b) = (fleet.learner("a", &PATIENT), fleet.learner("b", &PATIENT));
    connect(&mut [&mut a, &mut b]);
    let model = learn(&mut [&mut a, &mut b], 2, |_| {});
    // Both steps, averaged, in each of two rounds.
    assert_eq!(model["first"], 3888.0);
    let seen = wire.saw_tls_alone();
    println!("the model on both: {model}; the wire: {seen}");
    for host in ["a", "b"] {
        no_private_key_below(&fleet.mesh.path(host));
        let log = fleet.nodes[host].log();
        assert!(!log.contains("was refused"), "{log}");
        // However many messages: one connection each way, one signature each.
        let connections = log.lines().filter(|line| line.contains(" connected peer="));
        assert_eq!(connections.count(), 2, "{log}");
    }
}

#[test]
fn what_a_peer_says_in_anothers_name_is_refused_and_its_own_words_arrive() {
    let mut fleet = Fleet::new(&["a", "b"]);
    fleet.allow_blobs();
    fleet.start_nodes();
    let (mut a, mut b) = (fleet.learner("a", &PATIENT), fleet.learner("b", &PATIENT));
    connect(&mut [&mut a, &mut b]);
    let (own, theirs) = (a.address.clone(), b.address.clone());
    let strange = learner_at(2);

    assert_eq!(a.ask(&["direct", &theirs, "in", "person"]), "noted");
    a.ask(&["gossip", "by", "gossip"]);
    let sent = a.ask(&["weights", &theirs, "16777216"]);
    let received = b.ask(&["received"]);
    assert_eq!(received[0]["args"], serde_json::json!(["in", "person"]));
    assert_eq!(received[1]["args"], serde_json::json!(["by", "gossip"]));
    assert_eq!(received[2]["sha256"], sent["sha256"]);
    for message in received.as_array().unwrap() {
        assert_eq!(message["source"], *own);
    }

    let bound = "PERMISSION_DENIED: this certificate does not stand for that address";
    for what in ["handshake", "disconnect", "direct", "weights"] {
        // A stranger's name, and the learner's own.
        for claimed in [&strange, &theirs] {
            assert_eq!(a.ask(&["forge", &theirs, what, claimed]), bound, "{what}");
        }
    }
    let words = ["forge", &theirs, "direct", &own, "rm"];
    let unlisted = "PERMISSION_DENIED: this command is not on the list of this peer";
    assert_eq!(a.ask(&words), unlisted);
    let words = ["forge", &theirs, "gossip", &strange, "PRE_SEND_MODEL"];
    assert_eq!(
        a.ask(&words),
        "PERMISSION_DENIED: this command does not travel so"
    );
    // Its source is whoever made it: this one is not bound, and the documents say so.
    assert_eq!(a.ask(&["forge", &theirs, "gossip", &strange]), "OK");

    let log = fleet.nodes["b"].log();
    let refused = log
        .lines()
        .filter(|line| line.contains("a P2PFL request was refused"));
    assert_eq!(refused.count(), 10, "{log}");
    let received = b.ask(&["received"]);
    assert_eq!(received.as_array().unwrap().len(), 4, "{received}");
    assert_eq!(b.ask(&["neighbors"]), serde_json::json!([own]));
    // Its own disconnect is its right.
    assert_eq!(a.ask(&["forge", &theirs, "disconnect", &own]), "OK");
}

#[test]
fn weights_beyond_the_limit_are_refused_and_harm_nothing_else() {
    let mut fleet = Fleet::new(&["a", "b"]);
    fleet.allow_blobs();
    let limits = "drain_ms = 60000\nweights_bytes = 2000000";
    fleet.mesh.edit("b/node.toml", "drain_ms = 60000", limits);
    fleet.start_nodes();
    let (mut a, mut b) = (fleet.learner("a", &PATIENT), fleet.learner("b", &PATIENT));
    connect(&mut [&mut a, &mut b]);
    let theirs = b.address.clone();

    // All at once, on one connection.
    let ended = a.ask(&["sized", &theirs, "2000000", "2000001", "2000000", "9000000"]);
    let long = "RESOURCE_EXHAUSTED: the message is longer than this node's limit";
    assert_eq!(ended, serde_json::json!(["OK", long, "OK", long]));
    assert_eq!(a.ask(&["direct", &theirs, "afterwards"]), "noted");

    let received = b.ask(&["received"]);
    let received = received.as_array().unwrap();
    assert_eq!(received.len(), 3, "{received:?}");
    for whole in &received[..2] {
        assert!(whole["bytes"].as_u64() > Some(1_999_000), "{whole}");
    }
    let log = fleet.nodes["b"].log();
    let refused = log.lines().filter(|line| {
        line.contains("a P2PFL request was refused")
            && line.contains("longer than this node's limit")
    });
    assert_eq!(refused.count(), 2, "{log}");
    let connections = log.lines().filter(|line| line.contains(" connected peer="));
    assert_eq!(connections.count(), 2, "one each way: {log}");
}

#[test]
#[ignore = "a minute, and alone: ./tests/run starts it after the others"]
fn hearts_beat_for_a_minute_and_nobody_is_lost() {
    let mut fleet = Fleet::new(&["a", "b"]);
    fleet.start_nodes();
    // P2PFL's own time-outs: a heart that is silent for 5 seconds is dead.
    let (mut a, mut b) = (fleet.learner("a", &[]), fleet.learner("b", &[]));
    connect(&mut [&mut a, &mut b]);
    for learner in [&mut a, &mut b] {
        learner.begin_asking(&["watch", "65"]);
    }
    for (learner, other) in [(&mut a, learner_at(1)), (&mut b, learner_at(0))] {
        let heard = learner.answer();
        assert_eq!(heard["lost"], serde_json::json!([]), "{heard}");
        let beats = heard["beats"][&other].as_u64().unwrap();
        println!("beats of {other} in 65 s: {beats}");
        assert!(beats >= 12, "{heard}");
    }
}

#[test]
#[ignore = "a minute, and alone: ./tests/run starts it after the others"]
fn models_of_200_mb_arrive_whole_both_ways() {
    let mut fleet = Fleet::new(&["a", "b"]);
    fleet.allow_blobs();
    let wire = fleet.watch();
    fleet.start_nodes();
    let (mut a, mut b) = (fleet.learner("a", &PATIENT), fleet.learner("b", &PATIENT));
    connect(&mut [&mut a, &mut b]);
    let size = (200_u64 << 20).to_string();
    for _ in 0..2 {
        let (theirs, own) = (b.address.clone(), a.address.clone());
        whole(&mut a, &mut b, &theirs, &size);
        whole(&mut b, &mut a, &own, &size);
    }
    let seen = wire.saw_no_plaintext();
    assert!(seen["bytes"].as_u64() > Some(800 << 20), "{seen}");
    println!("the wire: {seen}");
    for (name, node) in &fleet.nodes {
        let status = format!("/proc/{}/status", node.pid("node"));
        let status = std::fs::read_to_string(status).unwrap();
        let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
        let peak = peak
            .and_then(|line| line.split_whitespace().nth(1))
            .unwrap();
        println!("the most memory that the node of {name} had: {peak} KiB");
        // No model is held, nor a large part of one.
        assert!(peak.parse::<u64>().unwrap() < 100 << 10, "{peak} KiB");
    }
}

/// The deny to every "TLS alone": the watch does see plaintext.
#[test]
fn learners_without_fastness_are_seen_on_the_wire() {
    let fleet = Fleet::new(&["a", "b"]);
    let wire = fleet.watch();
    let at = |index: usize| {
        format!(
            "{}:{}",
            crate::support::network::address(index),
            fleet::LEARNERS
        )
    };
    let [mut a, mut b] = [("a", 0), ("b", 1)].map(|(name, index)| {
        let folder = fleet.mesh.path(name);
        Learner::start(&fleet.network, name, &folder, &at(index), &PATIENT)
    });
    connect(&mut [&mut a, &mut b]);
    assert_eq!(b.ask(&["direct", &at(0), "x"]), "noted");
    let seen = wire.report();
    assert!(!seen["not_tls"].as_array().unwrap().is_empty(), "{seen}");
    let words = seen["plaintext"].as_array().unwrap();
    for word in ["PRI * HTTP/2.0", "note-what-came"] {
        assert!(words.iter().any(|seen| seen == word), "{seen}");
    }
}

/// Weights from one to the other, whose hash must be the same there.
#[track_caller]
fn whole(from: &mut Learner, to: &mut Learner, address: &str, size: &str) {
    let sent = from.ask(&["weights", address, size]);
    let received = to.ask(&["received"]);
    let last = received.as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["sha256"], &last["bytes"]),
        (&sent["sha256"], &sent["bytes"])
    );
    println!("{} to {address}: {sent}", from.address);
}

#[test]
#[ignore = "a minute, and alone: ./tests/run starts it after the others"]
fn a_keeper_that_is_killed_for_five_seconds_costs_no_round() {
    let mut fleet = Fleet::new(&["a", "b"]);
    fleet.start_nodes();
    let options = [&PATIENT[..], &["--train", "3"]].concat();
    let (mut a, mut b) = (fleet.learner("a", &options), fleet.learner("b", &options));
    connect(&mut [&mut a, &mut b]);
    let (node, mut kills, mut until) = (&fleet.nodes["a"], 0, None);
    let model = learn(&mut [&mut a, &mut b], 2, |all| {
        if all[0]["now"] != "TrainStage" && until.is_none() {
            return;
        }
        let until = *until.get_or_insert_with(|| Instant::now() + Duration::from_secs(5));
        while Instant::now() < until {
            match node.pid("keeper") {
                0 => {}
                pid => {
                    signal(pid, Signal::KILL);
                    kills += 1;
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    assert_eq!(model["first"], 3888.0);
    assert!(kills >= 2, "{kills}");
    println!("the keeper was killed {kills} times; the model on both: {model}");
    // And the token signs again.
    node.ping("b");
}

#[test]
#[ignore = "a minute, and alone: ./tests/run starts it after the others"]
fn three_learners_agree_on_a_model() {
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    let wire = fleet.watch();
    fleet.start_nodes();
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(|name| fleet.learner(name, &PATIENT));
    connect(&mut [&mut a, &mut b, &mut c]);
    let model = learn(&mut [&mut a, &mut b, &mut c], 2, |_| {});
    assert_eq!(model["first"], 5184.0);
    println!("the model on all three: {model}");
    wire.saw_tls_alone();
}

/// The deny to every "no private key": both forms are found.
#[test]
fn a_private_key_is_found_in_either_form() {
    let folder = tempfile::tempdir().expect("a folder");
    for form in ["DER", "PEM"] {
        let key = folder.path().join("key");
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["genpkey", "-algorithm", "ED25519", "-outform", form, "-out"]);
        crate::support::run(openssl.arg(&key));
        let found = std::panic::catch_unwind(|| no_private_key_below(folder.path()));
        assert!(found.is_err(), "{form}");
        std::fs::remove_file(key).expect("it is there");
        no_private_key_below(folder.path());
    }
}
