//! Two nodes: what they say to each other, what a reload changes, and what they survive.

use std::process::Command;

use rustix::process::Signal;

use crate::support::{
    FASTNESS, Judge, Mesh, Options, PATIENCE, eventually, free_port, id_of, json, node, run, said,
};

const KILL: Signal = Signal::KILL;

#[test]
fn each_node_calls_the_other_and_both_agree_on_who_is_who() {
    let mesh = Mesh::new();
    let (a, b) = mesh.start_both();
    for (from, to, own, other) in [(&a, &b, "a", "b"), (&b, &a, "b", "a")] {
        let pong = from.ping(other);
        let connection = &pong["connection"];
        assert_eq!(connection["peer_id"], id_of(other));
        assert_eq!(connection["peer_name"], other);
        assert_eq!(connection["peer_role"], "server");
        assert_eq!(connection["tls_version"], "TLSv1.3");
        assert_eq!(connection["group"], "X25519MLKEM768");
        assert_eq!(connection["pin_label"], "active");
        assert_eq!(
            connection["spki_pin"],
            mesh.pins[&format!("{other}/server")]
        );
        assert_eq!(connection["address"], to.address().to_string());
        assert_eq!(connection["signed_by_pid"], from.pid("keeper"));
        assert_eq!(connection["signed_in_token"], own);
        let seen = &pong["seen_as"];
        assert_eq!(seen["peer_id"], id_of(own));
        assert_eq!(seen["pin_label"], "active");
        assert_eq!(seen["spki_pin"], mesh.pins[&format!("{own}/client")]);
        assert_eq!(seen["cipher_suite"], connection["cipher_suite"]);
        assert_eq!(pong["peer_node_id"], id_of(other));
    }
}

#[test]
fn bulk_goes_both_ways_over_the_one_pooled_connection() {
    let mesh = Mesh::new();
    let (a, b) = mesh.start_both();
    let pong = a
        .ask(&["ping", "b", "--transfer", "8MiB"])
        .expect("it works");
    assert_eq!(
        (&pong["bytes_sent"], &pong["bytes_received"]),
        (&(8 << 20).into(), &(8 << 20).into())
    );
    a.ping("b");
    let (out, incoming) = (a.status(), b.status());
    assert_eq!(out["connections"].as_array().map(Vec::len), Some(1));
    assert_eq!(incoming["connections"].as_array().map(Vec::len), Some(1));
    assert_eq!(incoming["connections"][0]["peer_role"], "client");
    assert_eq!(incoming["connections"][0]["signed_in_token"], "b");
}

#[test]
fn status_names_processes_keys_and_sockets() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    let status = a.status();
    assert_eq!(
        (&status["state"], &status["node_id"]),
        (&"ready".into(), &id_of("a").into())
    );
    assert_eq!(status["listening"][0], a.address().to_string());
    assert_eq!(a.pid("supervisor"), a.supervisor());
    let pids: std::collections::BTreeSet<_> = ["supervisor", "keeper", "node"]
        .map(|role| a.pid(role))
        .into();
    assert_eq!(pids.len(), 3, "three processes");
    for (key, role) in status["keys"]
        .as_array()
        .expect("keys")
        .iter()
        .zip(["server", "client"])
    {
        assert_eq!(key["role"], role);
        assert_eq!(key["spki_pin"], mesh.pins[&format!("a/{role}")]);
        assert_eq!(key["token_label"], "a");
    }
    let shown = a.admin(&["status"]);
    assert!(
        said(&shown).contains(&mesh.pins["a/server"]),
        "{}",
        said(&shown)
    );
}

#[test]
fn a_peer_that_nobody_lists_is_not_pinged_and_the_known_ones_are_named() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    let output = a.ask(&["ping", "zeppelin"]).expect_err("not listed");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(
        said(&output).contains("the policy lists: b"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_peer_that_is_down_is_named_with_the_reason_and_found_again() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    let output = a.ask(&["ping", "b"]).expect_err("b is down");
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert!(said(&output).contains("refused"), "{}", said(&output));
    let peers = a.ask(&["peers"]).expect("peers");
    assert!(
        !peers["peers"][0]["last_error"]
            .as_str()
            .expect("text")
            .is_empty(),
        "{peers}"
    );
    let _b = mesh.start("b");
    a.ping("b");
    assert_eq!(
        a.ask(&["peers"]).expect("peers")["peers"][0]["dial_state"],
        "connected"
    );
}

#[test]
fn a_reload_takes_a_new_peer_policy() {
    let mesh = Mesh::new();
    mesh.write("a/peers.toml", "");
    let ports = format!("[sandbox]\ndial_ports = [{}]\n", mesh.ports["b"]);
    mesh.section("a", &ports);
    let (a, _b) = mesh.start_both();
    assert!(a.ask(&["ping", "b"]).is_err(), "b is not listed yet");
    mesh.write_peers("a");
    let reloaded = a.ask(&["reload"]).expect("a good policy");
    assert_eq!(reloaded["generation"], 2);
    a.ping("b");
    // And by signal.
    mesh.write("a/peers.toml", "");
    let before = a.log_length();
    node::signal(a.supervisor(), Signal::HUP);
    a.wait_log_after(before, "reloaded");
    assert!(a.ask(&["ping", "b"]).is_err(), "b is not listed any more");
}

#[test]
fn a_reload_with_a_fault_keeps_the_old_state_and_says_what_is_wrong() {
    let mesh = Mesh::new();
    let (a, _b) = mesh.start_both();
    a.ping("b");
    mesh.edit(
        "a/peers.toml",
        "[peer.server]\nactive = \"sha256/",
        "[peer.server]\nactive = \"sha512/",
    );
    let output = a.ask(&["reload"]).expect_err("a bad policy");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    for words in ["peers.toml:6", "peer[0].server.active", "stays in force"] {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    a.ping("b");
    assert_eq!(a.status()["state"], "ready");
}

#[test]
fn a_reload_with_a_port_that_the_sealed_node_may_not_dial_is_refused_whole() {
    let mesh = Mesh::new();
    let (a, _b) = mesh.start_both();
    a.ping("b");
    let (port, other) = (mesh.ports["b"], free_port());
    let address = format!("\"127.0.0.1:{port}\"");
    let both = format!("{address}, \"127.0.0.1:{other}\"");
    mesh.edit("a/peers.toml", &address, &both);
    let output = a.ask(&["reload"]).expect_err("another port");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    for words in [
        &*format!("TCP port {other}"),
        "restart the node",
        "dial_ports of [sandbox]",
        "stays in force",
    ] {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    a.ping("b");
    assert_eq!(
        a.ask(&["peers"]).expect("peers")["peers"][0]["addresses"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    // Another address at a port that it knows is another matter.
    mesh.edit(
        "a/peers.toml",
        &format!("127.0.0.1:{other}"),
        &format!("127.0.0.2:{port}"),
    );
    a.ask(&["reload"]).expect("a good policy");
}

#[test]
fn the_ports_that_a_node_may_dial_are_shown() {
    let mesh = Mesh::new();
    let (upstream, stated) = (free_port(), free_port());
    mesh.section("a", &format!("[application]\nupstream = \"127.0.0.1:{upstream}\"\n[sandbox]\ndial_ports = [{stated}]\n"));
    let mut ports = [mesh.ports["b"], upstream, stated];
    ports.sort_unstable();
    let [one, two, three] = ports;
    let text = format!("connects to only TCP ports {one}, {two}, {three}");
    let file = mesh.path("a/node.toml");
    let file = file.to_str().expect("UTF-8");
    let of = |arguments: &[&str]| {
        run(Command::new(FASTNESS)
            .args(arguments)
            .args(["--config", file]))
    };
    let checked = of(&["check"]);
    assert!(checked.contains(&text), "{checked}");
    let checked = json(&of(&["check", "--format", "json"]));
    assert_eq!(checked["landlock"]["connect_tcp"], serde_json::json!(ports));
    let _a = mesh.start("a");
    let shown = json(&of(&["sandbox", "show", "--format", "json"]));
    let roles = shown["roles"].as_array().expect("a list");
    let node = roles
        .iter()
        .find(|one| one["role"] == "node")
        .expect("it is shown");
    assert_eq!(node["landlock"]["connect_tcp"], serde_json::json!(ports));
    assert_eq!(
        node["mismatches"],
        serde_json::json!([]),
        "the running one says the same"
    );
    assert!(of(&["sandbox", "show"]).contains(&text));
    mesh.edit("a/node.toml", &format!("[{stated}]"), "[0]");
    let output = mesh.check("a");
    assert!(
        said(&output).contains("sandbox.dial_ports[0]"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_reload_that_changes_the_frame_asks_for_a_restart() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    mesh.edit("a/node.toml", "drain_ms = 60000", "drain_ms = 60001");
    let output = a.ask(&["reload"]).expect_err("limits changed");
    assert!(
        said(&output).contains("restart the node"),
        "{}",
        said(&output)
    );
}

#[test]
fn sigterm_lets_a_running_call_end_and_takes_no_new_one() {
    let mut mesh = Mesh::new();
    let (mut a, mut judge) = judge_with_an_open_transfer(&mut mesh);
    let before = a.log_length();
    node::signal(a.supervisor(), Signal::TERM);
    a.wait_log_after(before, "draining");
    eventually("the port is closed", || {
        std::net::TcpStream::connect(a.address()).err()
    });
    judge.tell("go on");
    assert_eq!(judge.hear(), "ended well");
    judge.end();
    assert_eq!(a.wait_exit().code(), Some(0));
    assert!(
        !mesh.path("a/admin.sock").exists(),
        "the socket's file went with it"
    );
}

#[test]
fn drain_on_the_command_line_ends_the_node() {
    let mesh = Mesh::new();
    let mut a = mesh.start("a");
    let pids = ["supervisor", "keeper", "node"].map(|role| a.pid(role));
    assert!(a.admin(&["drain"]).status.success());
    a.wait_log("stopped");
    assert!(!a.log().contains("WARN keeper"), "{}", a.log());
    assert_eq!(a.wait_exit().code(), Some(0));
    assert!(
        !pids.into_iter().any(node::is_alive),
        "nothing is left running"
    );
    let output = a.admin(&["status"]);
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
}

/// Node `a` and a grpcio client of it, in the middle of a Transfer.
fn judge_with_an_open_transfer(mesh: &mut Mesh) -> (node::Node, Judge) {
    let identity = crate::judges::python_peer(mesh, "python", None);
    let a = mesh.start("a");
    let mut judge = Judge::start(&mut crate::judges::client(
        mesh,
        &a,
        &identity,
        "slow-transfer",
    ));
    assert_eq!(judge.hear(), "under way");
    (a, judge)
}

#[test]
fn a_killed_node_process_comes_back_on_the_same_port() {
    let mesh = Mesh::new();
    let (a, b) = mesh.start_both();
    b.ping("a");
    let (old, keeper) = (a.pid("node"), a.pid("keeper"));
    node::signal(old, KILL);
    a.wait_replaced("node", old);
    b.ping("a");
    a.ping("b");
    assert_eq!(a.pid("keeper"), keeper, "the keeper was not touched");
    let restarts = a.status()["processes"][2]["restarts"].clone();
    assert_eq!(restarts, 1);
}

#[test]
fn a_node_process_that_cannot_be_started_now_is_started_later() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    let (old, keeper, supervisor) = (a.pid("node"), a.pid("keeper"), a.supervisor().to_string());
    let descriptors = |most: &str| {
        let limit = format!("--nofile={most}:");
        run(Command::new("prlimit").args(["--pid", &supervisor, &limit]));
    };
    descriptors("3");
    node::signal(old, KILL);
    a.wait_log("cannot start the node again");
    descriptors("1024");
    a.wait_replaced("node", old);
    assert_eq!(a.pid("keeper"), keeper, "the keeper was not touched");
}

#[test]
fn a_killed_keeper_comes_back_and_signs() {
    let mesh = Mesh::new();
    let (a, b) = mesh.start_both();
    b.ping("a");
    let (old, node) = (a.pid("keeper"), a.pid("node"));
    node::signal(old, KILL);
    let new = a.wait_replaced("keeper", old);
    // The old connections live on; new ones are signed by the new process.
    b.ping("a");
    assert_eq!(a.ping("b")["connection"]["signed_by_pid"], new);
    assert_eq!(a.pid("node"), node, "the node was not touched");
}

#[test]
fn a_handshake_waits_for_a_keeper_that_is_being_replaced() {
    let mesh = Mesh::new();
    let (a, _b) = mesh.start_both();
    let old = a.pid("keeper");
    node::signal(old, KILL);
    // At once: within the signature's deadline the new keeper takes the request over.
    let pong = a.ping("b");
    assert_ne!(pong["connection"]["signed_by_pid"], old);
}

#[test]
fn a_killed_supervisor_leaves_no_process_behind() {
    let mesh = Mesh::new();
    let mut a = mesh.start("a");
    let pids = ["keeper", "node"].map(|role| a.pid(role));
    node::signal(a.supervisor(), KILL);
    a.wait_exit();
    eventually("the children end", || {
        (!pids.into_iter().any(node::is_alive)).then_some(())
    });
    // And the place is free for a new one, the stale socket's file included.
    let again = mesh.start("a");
    assert_eq!(again.status()["state"], "ready");
}

#[test]
fn a_second_start_of_the_same_node_is_refused() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    let output = mesh.check("a");
    assert_eq!(output.status.code(), Some(8), "{}", said(&output));
    assert!(
        said(&output).contains("another process listens"),
        "{}",
        said(&output)
    );
    a.status();
}

#[test]
fn a_stopped_keeper_is_killed_and_replaced_when_it_hangs() {
    let mesh = Mesh::new();
    mesh.edit(
        "a/node.toml",
        "drain_ms = 60000",
        "drain_ms = 60000\nsign_deadline_ms = 500",
    );
    let (a, _b) = mesh.start_both();
    let old = a.pid("keeper");
    node::signal(old, Signal::STOP);
    let output = a.ask(&["ping", "b"]).expect_err("nobody signs");
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert!(PATIENCE.as_secs() > 10);
    node::signal(old, Signal::CONT);
    a.ping("b");
}

#[test]
fn a_node_that_starts_at_a_low_priority_lowers_that_of_handshakes_alone() {
    /// Name and nice(2) of each thread (proc_pid_stat(5)).
    fn threads(pid: u32) -> Vec<(String, i32)> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
        tasks
            .map(|task| {
                let stat = task.expect("a task").path().join("stat");
                let stat = std::fs::read_to_string(stat).expect("it runs");
                let (name, rest) = stat.rsplit_once(") ").expect("a name");
                let nice = rest.split(' ').nth(16).expect("a field");
                let name = name.split_once('(').expect("a name").1;
                (name.to_owned(), nice.parse().expect("a number"))
            })
            .collect()
    }
    let mesh = Mesh::new();
    let options = Options {
        through: ["nice", "-n", "15"].map(str::to_owned).into(),
        ..Options::default()
    };
    let a = mesh.start_with("a", options);
    mesh.start("b").ping("a");
    let (lane, serving): (Vec<_>, Vec<_>) = threads(a.pid("node"))
        .into_iter()
        .partition(|(name, _)| name.starts_with("lane-"));
    assert!(lane.len() > 1 && serving.len() > 1, "{lane:?} {serving:?}");
    // The lowest there is, and what it was started at.
    assert!(lane.iter().all(|(_, nice)| *nice == 19), "{lane:?}");
    assert!(serving.iter().all(|(_, nice)| *nice >= 15), "{serving:?}");
    assert!(serving.iter().any(|(_, nice)| *nice < 19), "{serving:?}");
}
