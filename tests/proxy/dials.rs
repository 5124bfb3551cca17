//! Dials of a node for its application: one that nobody waits for any more, and one that a peer refuses.

use std::net::TcpListener;

use super::{Mesh, call, joined, told};
use crate::support::{FaultModule, Judge, Node, eventually, python, run};

fn signatures(node: &Node) -> u64 {
    let text = String::from_utf8(node.admin(&["metrics"]).stdout).expect("text");
    let own = "fastness_signatures_total{class=\"own\"} ";
    let count = text.lines().find_map(|line| line.strip_prefix(own));
    count.map_or(0, |count| count.parse().expect("a number"))
}

#[test]
fn calls_that_wait_less_long_than_the_token_takes_do_not_end_its_dial() {
    let mesh = Mesh::new();
    let mut behind = Judge::start(
        python("application.py").arg(format!("unix:{}", mesh.path("b/app.sock").display())),
    );
    assert_eq!(behind.hear(), "serving");
    let fault = FaultModule::before(&mesh);
    mesh.section("b", "[application]\nupstream = \"unix:app.sock\"\n");
    mesh.section("a", "[application]\negress = { b = \"unix:b.sock\" }\n");
    let (a, _b) = mesh.start_both();
    fault.order("set C_Sign delay=1500ms");
    let door = format!("unix:{}", mesh.path("a/b.sock").display());
    // Each waits for a second.
    let hasty = || run(python("caller.py").arg(&door).arg("hasty"));
    assert!(hasty().starts_with("DEADLINE_EXCEEDED"));
    eventually("a call finds the connection", || {
        hasty().is_empty().then_some(())
    });
    assert_eq!(signatures(&a), 1);
}

#[test]
fn a_peer_that_is_silent_is_told_of_before_its_handshake_has_had_its_time() {
    let mesh = Mesh::new();
    let silent = TcpListener::bind(("127.0.0.1", mesh.ports["a"])).expect("its port");
    mesh.section("b", "[application]\negress = { a = \"unix:a.sock\" }\n");
    let _b = mesh.start("b");
    let at = silent.local_addr().expect("its address");
    // The handshake has ten seconds, and so has a call of P2PFL.
    let said = call(&mesh, "unary");
    let why = format!("after limits.connect_ms: waiting for the handshake with {at}");
    assert!(
        said.starts_with("UNAVAILABLE") && said.contains(&why),
        "{said}"
    );
}

#[test]
fn a_peer_that_refuses_us_is_dialled_with_backoff_and_the_caller_hears_why() {
    let mesh = Mesh::new();
    let (a, b) = joined(&mesh);
    let peers = mesh.read("a/peers.toml");
    let entry = mesh.peer("b");
    let server_alone = &entry[..entry.find("[peer.client]").expect("its pins")];
    mesh.write("a/peers.toml", &peers.replace(&entry, server_alone));
    a.ask(&["reload"]).expect("a good policy");
    let said = call(&mesh, "unary");
    assert!(
        said.starts_with("UNAVAILABLE") && said.contains("the peer did not take the connection"),
        "{said}"
    );
    let before = signatures(&b);
    let said = run(python("caller.py").arg(super::door(&mesh)).arg("insist"));
    assert!(
        said.contains(
            "did not let us in, its log says why: received fatal alert: CertificateUnknown"
        ),
        "{said}"
    );
    let spent = signatures(&b) - before;
    assert!(
        (1..=6).contains(&spent),
        "{spent} signatures in three seconds"
    );
    assert!(
        b.log().contains("the peer did not let us in"),
        "{}",
        b.log()
    );
    // And it is found again without a word to it.
    mesh.write("a/peers.toml", &peers);
    a.ask(&["reload"]).expect("the policy of before");
    let _application = super::application(&mesh);
    eventually("the peer lets us in again", || {
        (call(&mesh, "unary") == told()).then_some(())
    });
}
