//! Nobody asks anything: timers, probes and keep-alives go on, and no filter, deadline or time-out ends what works.
//!
//! A minute with the other tests; `tests/soak idle` waits for thirty.

use std::time::Duration;

use serde_json::Value;

use crate::support::Mesh;
use crate::support::node::pid_in;

/// How long, in minutes.
const MINUTES: &str = "FASTNESS_IDLE_MINUTES";

#[test]
fn two_nodes_that_nobody_asks_stay_as_they_are() {
    let minutes = std::env::var(MINUTES).map_or(1, |text| text.parse().expect("a number"));
    let mesh = Mesh::new();
    let (a, b) = mesh.start_both();
    a.ping("b");
    b.ping("a");
    let state = || {
        [&a, &b].map(|node| {
            let status = node.status();
            let pids = ["supervisor", "keeper", "node"].map(|role| pid_in(&status, role));
            let ready = status["state"].clone();
            let connections = status["connections"].as_array().expect("a list");
            let of = |one: &Value| ["peer_role", "address"].map(|key| one[key].to_string());
            let mut connections: Vec<_> = connections.iter().map(of).collect();
            connections.sort();
            assert_eq!(connections.len(), 2);
            (pids, ready, connections)
        })
    };
    let before = state();
    std::thread::sleep(Duration::from_secs(60 * minutes));
    assert_eq!(state(), before);
    for (from, to) in [(&a, "b"), (&b, "a")] {
        from.ask(&["ping", to, "--transfer", "8MiB"])
            .expect("the old connection carries it");
    }
    assert_eq!(state(), before);
}
