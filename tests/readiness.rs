//! Readiness, as load balancers (`grpc.health.v1`) and systemd (sd_notify(3)) see it: it follows the token,
//! and does not see a keeper that is replaced.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::support::node::signal;
use crate::support::rehearsal::{Rehearsal, is_ready, restarts, restarts_of};
use crate::support::{Judge, Mesh, Node, Options, PATIENCE, eventually, free_port, said};

/// Waits until systemd is told something that begins with `needle`; what it was told before that.
#[track_caller]
fn hear(systemd: &UnixDatagram, needle: &str) -> Vec<String> {
    let (mut before, mut packet) = (Vec::new(), [0; 4096]);
    loop {
        // With a time-out a stop and a freeze of this process interrupt it (signal(7)).
        let received = loop {
            match systemd.recv(&mut packet) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received,
            }
        };
        let length =
            received.unwrap_or_else(|error| panic!("no {needle:?}: {error}, after {before:?}"));
        for line in String::from_utf8_lossy(&packet[..length]).lines() {
            if line.starts_with(needle) {
                return before;
            }
            before.push(line.to_owned());
        }
    }
}

/// A node that is checked is sealed, and ended before it is told to serve.
#[test]
fn a_node_that_was_not_told_to_serve_answers_no_scraper() {
    let mesh = Mesh::new();
    let port = free_port();
    let settings = format!("metrics = \"127.0.0.1:{port}\"\n");
    mesh.write("a/node.toml", &(settings + &mesh.read("a/node.toml")));
    let over = AtomicBool::new(false);
    let answer = std::thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let Ok(mut tcp) = TcpStream::connect(("127.0.0.1", port)) else {
                    std::thread::yield_now();
                    continue;
                };
                let mut answer = Vec::new();
                tcp.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
                // It is reset when the last one that has the listener is gone.
                let _ = tcp.read_to_end(&mut answer);
                return Some(answer);
            }
            None
        });
        let checked = mesh.check("a");
        over.store(true, Ordering::Relaxed);
        assert!(checked.status.success(), "{}", said(&checked));
        scraper.join().unwrap()
    });
    assert_eq!(answer, Some(Vec::new()));
}

/// `a`, ready, and what systemd is told of it.
fn told(rehearsal: &Rehearsal) -> (Node, UnixDatagram) {
    let path = rehearsal.mesh.path("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let options = Options {
        environment: vec![("NOTIFY_SOCKET".into(), path.display().to_string())],
        ..Options::default()
    };
    let a = rehearsal.mesh.start_with("a", options);
    hear(&systemd, "READY=1");
    (a, systemd)
}

#[test]
fn readiness_follows_the_token_both_ways_and_ignores_a_keeper_that_is_replaced() {
    let mut rehearsal = Rehearsal::new();
    let identity = crate::judges::python_peer(&mut rehearsal.mesh, "python", None);
    let (mut a, systemd) = told(&rehearsal);
    let mut watch = crate::judges::client(&rehearsal.mesh, &a, &identity, "watch-health");
    let mut health = Judge::start(&mut watch);
    assert_eq!(health.hear(), "SERVING");

    let old = a.pid("keeper");
    signal(old, Signal::KILL);
    a.wait_replaced("keeper", old);
    rehearsal.fault.order("fail all CKR_DEVICE_REMOVED");
    assert_eq!(health.hear(), "NOT_SERVING");
    let told = hear(&systemd, "STATUS=degraded: token a: ");
    assert!(told.iter().all(|line| line == "STATUS=ready"), "{told:?}");
    rehearsal.fault.clear();
    assert_eq!(health.hear(), "SERVING");
    hear(&systemd, "STATUS=ready");
    eventually("ready again", || is_ready(&a));

    // Only an operator can mend this: no time is given.
    rehearsal.fault.order("fail C_Login CKR_PIN_INCORRECT");
    signal(a.pid("keeper"), Signal::KILL);
    assert_eq!(health.hear(), "NOT_SERVING");
    rehearsal.fault.clear();
    assert!(a.admin(&["unlock"]).status.success());
    assert_eq!(health.hear(), "SERVING");
    assert_eq!(health.close_and_hear(), "the end");

    assert!(a.admin(&["drain"]).status.success());
    hear(&systemd, "STOPPING=1");
    assert!(a.wait_exit().success());
}

#[test]
fn a_node_that_hangs_is_not_ready_and_is_replaced_between_the_same_port_and_keeper() {
    let rehearsal = Rehearsal::new();
    let (a, systemd) = told(&rehearsal);
    let untouched = || {
        let logins = rehearsal.fault.counts().calls("C_Login");
        (a.pid("keeper"), restarts(&a), logins)
    };
    let (keeper, before) = (untouched(), restarts_of(&a, "node"));
    // The second one that hangs is found out like the first.
    for hung in 1..=2 {
        let stopped = a.pid("node");
        signal(stopped, Signal::STOP);
        hear(
            &systemd,
            "STATUS=starting: the node's process did not answer",
        );
        hear(&systemd, "STATUS=ready");
        a.wait_replaced("node", stopped);
        rehearsal.shaker.shake().expect("the port is the same");
        assert_eq!(restarts_of(&a, "node"), before + hung);
    }
    assert_eq!(untouched(), keeper);
}

#[test]
fn a_supervisor_that_was_stopped_itself_leaves_the_node_alone() {
    let rehearsal = Rehearsal::new();
    let (mut a, systemd) = told(&rehearsal);
    let node = a.pid("node");
    signal(a.supervisor(), Signal::STOP);
    // Longer than a node may be silent.
    std::thread::sleep(std::time::Duration::from_secs(7));
    signal(a.supervisor(), Signal::CONT);
    // It has looked at everything since.
    rehearsal.fault.order("fail all CKR_DEVICE_REMOVED");
    let _ = rehearsal.shaker.shake();
    hear(&systemd, "STATUS=degraded: token a: ");
    assert_eq!((a.pid("node"), restarts_of(&a, "node")), (node, 0));
    assert!(a.admin(&["drain"]).status.success());
    assert!(a.wait_exit().success());
}
