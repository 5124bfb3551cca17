//! Reloads come in turn, and none is lost.

use rustix::process::Signal;

use crate::support::node::{kill_if_there, signal};
use crate::support::{Mesh, eventually, free_port, said};

#[test]
fn reloads_that_are_asked_for_at_once_come_one_after_the_other() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    let mut generations: Vec<u64> = std::thread::scope(|scope| {
        let reload = || {
            let reloaded = a.ask(&["reload"]).expect("a good policy");
            reloaded["generation"].as_u64().unwrap()
        };
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(reload)).collect();
        asked
            .into_iter()
            .map(|asked| asked.join().unwrap())
            .collect()
    });
    generations.sort_unstable();
    assert_eq!(generations, (2..10).collect::<Vec<_>>());
}

#[test]
fn a_reload_while_the_node_is_gone_holds_for_the_next_one() {
    let mesh = Mesh::new();
    let ports = format!("[sandbox]\ndial_ports = [{}]\n", mesh.ports["b"]);
    mesh.section("a", &ports);
    let a = mesh.start("a");
    for round in 0..6 {
        match round % 2 {
            0 => drop(mesh.write("a/peers.toml", "")),
            _ => mesh.write_peers("a"),
        }
        let (node, before) = (a.pid("node"), a.log_length());
        kill_if_there(node);
        signal(a.supervisor(), Signal::HUP);
        a.wait_log_after(before, "reloaded");
        a.wait_replaced("node", node);
        eventually(
            &format!("round {round}: the new policy is in force"),
            || {
                let peers = a.ask(&["peers"]).ok()?;
                let listed = peers["peers"].as_array()?.len();
                (listed == round % 2).then_some(())
            },
        );
    }
}

/// What the next node may dial is sealed as well: in the walls of the supervisor that starts it.
#[test]
fn a_reload_with_another_port_is_refused_while_the_node_is_gone_too() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    let address = format!("\"127.0.0.1:{}\"", mesh.ports["b"]);
    let both = format!("{address}, \"127.0.0.1:{}\"", free_port());
    mesh.edit("a/peers.toml", &address, &both);
    for _ in 0..3 {
        let node = a.pid("node");
        kill_if_there(node);
        let output = a.ask(&["reload"]).expect_err("another port");
        let text = said(&output);
        assert!(text.contains("does not let the node connect"), "{text}");
        a.wait_replaced("node", node);
    }
}

#[test]
fn a_reload_by_signal_that_is_refused_is_in_the_log() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    mesh.write("a/peers.toml", "[[peer]]\n");
    signal(a.supervisor(), Signal::HUP);
    a.wait_log("reload refused, the old state stays in force");
    assert!(a.log().contains("peers.toml"), "and so is why: {}", a.log());
}

#[test]
fn a_reload_that_is_too_long_for_a_node_is_refused_and_the_old_state_stays() {
    let mesh = Mesh::new();
    let (a, b) = mesh.start_both();
    a.ping("b");
    let node = a.pid("node");
    let file = "ca/authority/ca.pem";
    let anchors = std::fs::read_to_string(mesh.path(file)).unwrap();
    // JSON makes six bytes of each.
    mesh.write(file, &(anchors + &"\x01".repeat(3 << 20)));
    let refused = a
        .ask(&["reload"])
        .expect_err("it cannot be given to a node");
    assert!(said(&refused).contains("more than"), "{}", said(&refused));
    assert_eq!(a.pid("node"), node);
    b.ping("a");
}

#[test]
fn a_node_that_does_not_answer_a_reload_is_replaced_by_one_that_has_it() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    mesh.write("a/peers.toml", "");
    let node = a.pid("node");
    signal(node, Signal::STOP);
    let reloaded = a.ask(&["reload"]).expect("a good policy");
    assert_eq!(reloaded["generation"], 2);
    a.wait_replaced("node", node);
    let peers = a.ask(&["peers"]).expect("its peers");
    assert_eq!(peers["peers"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_peer_is_taken_out_while_the_token_and_its_pin_are_away() {
    let mesh = Mesh::new();
    let (a, b) = mesh.start_both();
    b.ping("a");
    for away in ["a/token/pin", "a/token/tokens"] {
        std::fs::rename(mesh.path(away), mesh.path(&format!("{away}.away"))).expect("it was there");
    }
    mesh.write("a/peers.toml", "");
    a.ask(&["reload"]).expect("a good policy");
    b.ask(&["ping", "a"]).expect_err("it is listed no longer");
}
