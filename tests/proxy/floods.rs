//! A peer that went bad sends what costs it little, or takes nothing: its connection ends, and nobody else notices.

use std::process::Command;

use super::{application, call, cpu, joined, memory, told};
use crate::judges::python_peer;
use crate::support::{Judge, Mesh, Node, python, run};

/// What [`flooder`] can send too much of.
const FLOODS: [&str; 11] = [
    "rapid_reset",
    "continuations",
    "empty_continuations",
    "settings",
    "pings",
    "priorities",
    "window_updates",
    "broken_calls",
    "unknown",
    "empty_data",
    "header_bomb",
];
/// What each of them may cost, in thousands of calls: far less than its five million frames if all of them were read,
/// the cheapest of which cost as much as seventeen.
const MOST_CPU: u64 = 4;

#[test]
fn floods_end_the_connection_and_nobody_else_notices() {
    let mut mesh = Mesh::new();
    let _application = application(&mesh);
    let peer = python_peer(&mut mesh, "python", None);
    let (a, _b) = joined(&mesh);
    assert_eq!(call(&mesh, "unary"), told());
    let before = memory(&a);
    let calls = cost_of_calls(&a, || flooder(&a, &peer.folder, "calls"));
    for flood in FLOODS {
        let began = cpu(&a);
        let ended = run(&mut flooder(&a, &peer.folder, flood));
        assert_eq!(ended, "closed\n", "{flood}");
        let spent = cpu(&a) - began;
        assert!(spent < MOST_CPU * calls, "{flood}: {spent} of {calls}");
        assert_eq!(call(&mesh, "unary"), told(), "after {flood}");
    }
    let grown = memory(&a).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
    assert_eq!(a.status()["processes"][2]["restarts"], 0);
}

#[test]
fn a_peer_that_takes_nothing_holds_no_more_than_its_windows() {
    let mut mesh = Mesh::new();
    let _application = application(&mesh);
    let peer = python_peer(&mut mesh, "python", None);
    mesh.edit(
        "a/node.toml",
        "drain_ms = 60000",
        "drain_ms = 60000\nstall_ms = 3000",
    );
    let (a, _b) = joined(&mesh);
    let before = memory(&a);
    let mut greedy = Judge::start(&mut flooder(&a, &peer.folder, "no_window"));
    assert_eq!(call(&mesh, "unary"), told());
    assert_eq!(greedy.hear(), "served");
    assert_eq!(call(&mesh, "unary"), told());
    assert_eq!(greedy.hear(), "thrown out");
    a.wait_log("takes nothing of what it asked for");
    let grown = memory(&a).saturating_sub(before);
    // 900 answers of 60 kB are not held: only what the connections' windows allow.
    assert!(grown < 32 << 10, "{grown} KiB more");
    assert_eq!(call(&mesh, "unary"), told());
    greedy.end();
}

#[test]
fn floods_end_the_connection_to_a_node_without_an_application_too() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let (a, b) = mesh.start_both();
    b.ping("a");
    let before = memory(&a);
    let says = |flood| {
        let mut flooder = flooder(&a, &peer.folder, flood);
        flooder.arg("/fastness.peer.v1.Peer/Ping");
        flooder
    };
    let calls = cost_of_calls(&a, || says("calls"));
    for flood in FLOODS {
        let began = cpu(&a);
        let ended = run(&mut says(flood));
        assert_eq!(ended, "closed\n", "{flood}");
        let spent = cpu(&a) - began;
        assert!(spent < MOST_CPU * calls, "{flood}: {spent} of {calls}");
        let pinged = b.ask(&["ping", "a"]);
        assert!(pinged.is_ok(), "after {flood}");
    }
    let grown = memory(&a).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
    let dials = b.log().matches("we dialled").count();
    assert_eq!(dials, 1, "the other peer has the same connection");
    assert_eq!(a.status()["processes"][2]["restarts"], 0);
}

/// CPU time of a thousand calls, clock ticks.
fn cost_of_calls(node: &Node, mut calls: impl FnMut() -> Command) -> u64 {
    let began = cpu(node);
    assert_eq!(run(&mut calls()), "1000 answered\n");
    cpu(node) - began
}

/// A listed peer that went bad, in the way that `flood` names.
pub fn flooder(node: &Node, folder: &std::path::Path, flood: &str) -> Command {
    let mut command = python("flood.py");
    command
        .args([
            node.address().ip().to_string(),
            node.address().port().to_string(),
        ])
        .arg(folder.join("client.pem"))
        .arg(folder.join("client.key"))
        .arg(flood);
    command
}
