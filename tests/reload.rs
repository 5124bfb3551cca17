//! Reloads come in turn, and none is lost.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::support::node::{kill_if_there, signal};
use crate::support::{Mesh, Options, as_root, eventually, free_port, said};

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

/// A nameserver that says 127.0.0.1 for every name, or nothing.
struct NameServer {
    silent: Arc<AtomicBool>,
}

impl NameServer {
    /// In the place of the machine's own for the node that is started with what comes with it.
    fn start(mesh: &Mesh) -> (Self, Options) {
        let (socket, address) = (1..=254)
            .find_map(|last| {
                let address = format!("127.53.0.{last}");
                Some((UdpSocket::bind((&*address, 53)).ok()?, address))
            })
            .expect("an address that is free");
        let silent = Arc::new(AtomicBool::new(false));
        let server = Self {
            silent: Arc::clone(&silent),
        };
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                if !silent.load(Ordering::Relaxed) {
                    let _ = socket.send_to(&answer(&packet[..length]), from);
                }
            }
        });
        let resolver = mesh.write("resolv.conf", &format!("nameserver {address}\n"));
        let order = mesh.write("nsswitch.conf", "hosts: files dns\n");
        let in_place = "mount --bind \"$1\" /etc/resolv.conf && mount --bind \"$2\" /etc/nsswitch.conf \
                        && shift 2 && exec \"$@\"";
        let (resolver, order) = (resolver.display(), order.display());
        let through = ["unshare", "--mount", "sh", "-c", in_place, "sh"].map(str::to_owned);
        let options = Options {
            through: through
                .into_iter()
                .chain([resolver.to_string(), order.to_string()])
                .collect(),
            ..Options::default()
        };
        (server, options)
    }
}

/// The answer to a question (RFC 1035 §4.1): 127.0.0.1 where an address of four bytes is asked for, else none.
fn answer(question: &[u8]) -> Vec<u8> {
    const HEADER: usize = 12;
    let name = question[HEADER..].iter().position(|byte| *byte == 0);
    let end = HEADER + name.expect("a name ends") + 5;
    let is_v4 = question[end - 4..end] == [0, 1, 0, 1];
    let mut answer = question[..end].to_vec();
    answer[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
    if is_v4 {
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
    }
    answer
}

#[test]
fn a_silent_nameserver_holds_up_no_administrator_and_takes_no_peer_away() {
    as_root("only root listens on port 53 and puts another file in the place of /etc/resolv.conf");
    let mesh = Mesh::new();
    let (server, options) = NameServer::start(&mesh);
    mesh.edit("a/peers.toml", "127.0.0.1:", "node-b.test:");
    let a = mesh.start_with("a", options);
    let _b = mesh.start("b");
    a.ping("b");

    server.silent.store(true, Ordering::Relaxed);
    let answered = std::thread::scope(|scope| {
        let reload = scope.spawn(|| a.admin(&["reload"]));
        let mut answered = 0;
        while !reload.is_finished() {
            a.status();
            answered += u32::from(!reload.is_finished());
        }
        let reloaded = reload.join().unwrap();
        assert!(reloaded.status.success(), "{}", said(&reloaded));
        answered
    });
    assert!(answered > 2, "{answered} administrators beside a reload");
    a.wait_log("does not resolve now; what it stood for before holds on");
    assert!(a.ask(&["ping", "b"]).is_ok(), "b is where it was");
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
