//! What one peer, or one call, does to the others: nothing. With the default limits.

use super::{application, call, flooder, joined, told};
use crate::judges::python_peer;
use crate::support::{Judge, Mesh, run};

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
    let said = run(&mut flooder(&a, &peer.folder, "connections"));
    assert_eq!(said, "2 of 4\n");
    a.wait_log("peer-connections-full");
    assert_eq!(call(&mesh, "unary"), told());
}
