//! What one peer, or one call, does to the others: nothing. With the default limits, unless a test is about one.

use rustix::process::Signal;

use super::floods::flooder;
use super::{application, call, door, joined, told};
use crate::judges::python_peer;
use crate::support::node::signal;
use crate::support::{Judge, Mesh, eventually, python, run};

#[test]
fn answers_and_uploads_that_nobody_reads_are_in_nobodys_way() {
    let mut mesh = Mesh::new();
    let _application = application(&mesh);
    let peer = python_peer(&mut mesh, "python", None);
    let (a, _b) = joined(&mesh);
    // 80 MiB of answers, of which the peer takes nothing.
    let mut greedy = Judge::start(&mut flooder(&a, &peer.folder, "unread"));
    assert_eq!(greedy.hear(), "served");
    for _ in 0..5 {
        assert_eq!(call(&mesh, "unary"), told());
    }
    assert_eq!(call(&mesh, "uploads"), "answered beside 8 uploads\n");
    greedy.tell("enough");
    greedy.end();
}

#[test]
fn calls_that_are_taken_back_cost_nobody_else_theirs() {
    let mesh = Mesh::new();
    let _application = application(&mesh);
    let (_a, b) = joined(&mesh);
    assert_eq!(call(&mesh, "restless"), "not disturbed\n");
    assert_eq!(b.log().matches("we dialled").count(), 1);
}

/// More of them than calls at once, before the other side looks at the first.
#[test]
fn calls_that_are_taken_back_unseen_end_no_connection() {
    let mesh = Mesh::new();
    let _application = application(&mesh);
    let (a, b) = joined(&mesh);
    assert_eq!(call(&mesh, "unary"), told());
    let mut caller = Judge::start(
        python("caller.py")
            .arg(door(&mesh))
            .arg("taken_back_unseen"),
    );
    assert_eq!(caller.hear(), "ready");
    // Its supervisor too, which would put another in its place.
    let (node, supervisor) = (a.pid("node"), a.supervisor());
    for pid in [supervisor, node] {
        signal(pid, Signal::STOP);
    }
    caller.tell("nobody looks");
    assert_eq!(caller.hear(), "taken back");
    for pid in [node, supervisor] {
        signal(pid, Signal::CONT);
    }
    // gRPC's server cancels calls at random while a thousand wait in it (grpc.server.max_pending_requests).
    eventually("the application has got over it", || {
        (call(&mesh, "unary") == told()).then_some(())
    });
    assert_eq!(b.log().matches("we dialled").count(), 1, "{}", b.log());
    assert!(!a.log().contains("connection was closed"), "{}", a.log());
    // Each had come before it was taken back: more of them than h2 keeps by its default.
    eventually("they have come", || {
        let metrics = String::from_utf8(a.admin(&["metrics"]).stdout).ok()?;
        let line = "fastness_proxied_calls_total{direction=\"ingress\",outcome=\"cancelled\"} ";
        let (_, count) = metrics.split_once(line)?;
        let count = count.lines().next()?.parse::<u64>().ok()?;
        (count > 1024).then_some(())
    });
}

#[test]
fn a_ping_for_each_piece_of_an_answer_is_no_flood() {
    let mut mesh = Mesh::new();
    let _application = application(&mesh);
    let peer = python_peer(&mut mesh, "python", None);
    let (a, _b) = joined(&mesh);
    let said = run(&mut flooder(&a, &peer.folder, "pings_with_data"));
    let thousands = said.strip_prefix("whole after ").expect("it is whole");
    let thousands = thousands.split(' ').next().expect("a number");
    assert!(thousands.parse::<u32>().expect("a number") >= 2, "{said}");
}

#[test]
fn one_peer_cannot_have_all_connections() {
    let mut mesh = Mesh::new();
    let _application = application(&mesh);
    let peer = python_peer(&mut mesh, "python", None);
    mesh.edit(
        "a/node.toml",
        "drain_ms = 60000",
        "drain_ms = 60000\npeer_connections = 2",
    );
    let (a, _b) = joined(&mesh);
    let connections = || run(&mut flooder(&a, &peer.folder, "connections"));
    assert_eq!(connections(), "2 of 4\n");
    a.wait_log("peer-connections-full");
    // Those that ended leave room for as many.
    eventually("two more are let in", || {
        (connections() == "2 of 4\n").then_some(())
    });
    assert_eq!(call(&mesh, "unary"), told());
}

#[test]
fn an_application_that_stands_still_costs_its_callers_their_deadlines_and_no_more() {
    let mesh = Mesh::new();
    let application = application(&mesh);
    let (a, b) = joined(&mesh);
    assert_eq!(call(&mesh, "unary"), told());
    signal(application.pid(), Signal::STOP);
    let late = call(&mesh, "hasty");
    assert!(late.starts_with("DEADLINE_EXCEEDED"), "{late}");
    b.ping("a");
    assert_eq!(a.status()["state"], "ready");
    signal(application.pid(), Signal::CONT);
    assert_eq!(call(&mesh, "unary"), told());
}

/// A stopped node is one behind a cable that was pulled: its kernel takes what is sent, and nothing
/// comes back.
#[test]
fn a_peer_that_falls_silent_is_given_up_in_time_and_found_again() {
    let mesh = Mesh::new();
    let _application = application(&mesh);
    mesh.edit(
        "b/node.toml",
        "drain_ms = 60000",
        "drain_ms = 60000\nkeepalive_ms = 3000\nhandshake_deadline_ms = 3000",
    );
    let (a, b) = joined(&mesh);
    let mut caller = Judge::start(python("caller.py").arg(door(&mesh)).arg("patient"));
    assert_eq!(caller.hear(), "hello");
    // Its supervisor too, which would put another in its place.
    let silent = [a.supervisor(), a.pid("node")];
    silent.into_iter().for_each(|pid| signal(pid, Signal::STOP));
    caller.tell("a call that is under way when the connection is given up");
    let lost = caller.hear();
    assert!(lost.starts_with("UNAVAILABLE"), "{lost}");
    b.wait_log("the other side is silent");
    caller.tell("a call that finds no connection");
    let refused = caller.hear();
    assert!(refused.starts_with("UNAVAILABLE"), "{refused}");
    assert_eq!(b.status()["state"], "ready");
    silent.into_iter().for_each(|pid| signal(pid, Signal::CONT));
    eventually("the peer is found again", || {
        (call(&mesh, "unary") == told()).then_some(())
    });
}
