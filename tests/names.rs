//! Names of peers are looked up by a process of its own, which is confined, attested, and gone after its answer.

use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::nameserver::NameServer;
use crate::support::node::{is_alive, signal};
use crate::support::{Mesh, Node, Options, as_root, eventually, json, peer, root, said, show};

const IN_PLACE: &str =
    "only root listens on port 53 and puts another file in the place of /etc/resolv.conf";

/// Which processes were attested as the resolver.
fn resolvers(a: &Node) -> Vec<u32> {
    let log = a.log();
    let attested = log
        .lines()
        .filter(|line| line.contains(" attested ") && line.contains("role=\"resolver\""));
    let pid = |line: &str| {
        let (_, pid) = line.split_once(" pid=").expect("a pid");
        let pid = pid.split(' ').next().expect("a pid");
        pid.parse().expect("a number")
    };
    attested.map(pid).collect()
}

#[test]
fn each_start_and_each_reload_has_a_resolver_that_is_attested_and_ends() {
    let mesh = Mesh::new();
    mesh.edit("a/peers.toml", "127.0.0.1:", "localhost:");
    let (a, _b) = mesh.start_both();
    a.ping("b");
    assert_eq!(resolvers(&a).len(), 1, "{}", a.log());
    a.ask(&["reload"]).expect("it reloads");
    a.ping("b");
    let found = resolvers(&a);
    assert_eq!(found.len(), 2, "{}", a.log());
    eventually("they are gone", || {
        found.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
}

#[test]
fn without_a_name_nobody_is_asked() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    a.ask(&["reload"]).expect("it reloads");
    assert_eq!(resolvers(&a), [0_u32; 0]);
}

/// Over UDP; over TCP where the answer is too long for that, through Landlock's port 53; and several addresses, of
/// which the best is found out.
#[test]
fn a_nameserver_is_asked_from_behind_the_walls() {
    as_root(IN_PLACE);
    for name in ["node-b.test", "long.test", "many.test"] {
        let mesh = Mesh::new();
        let (_server, options) = NameServer::start(&mesh);
        mesh.edit("a/peers.toml", "127.0.0.1:", &format!("{name}:"));
        let a = mesh.start_with("a", options);
        let _b = mesh.start("b");
        a.ping("b");
        assert!(!a.log().contains("does not resolve"), "{name}: {}", a.log());
    }
}

#[test]
fn a_nameserver_that_never_answered_leaves_a_peer_out_and_no_process() {
    as_root(IN_PLACE);
    let mesh = Mesh::new();
    let (server, options) = NameServer::start(&mesh);
    server.silent.store(true, Ordering::Relaxed);
    mesh.edit("a/peers.toml", "127.0.0.1:", "node-b.test:");
    let a = mesh.start_with("a", options);
    a.wait_log("cannot be dialled until it is found");
    let first = resolvers(&a)[0];
    eventually("it is gone", || (!is_alive(first)).then_some(()));
    a.ask(&["ping", "b"]).expect_err("nobody knows where it is");
    // And is found without anybody's help.
    server.silent.store(false, Ordering::Relaxed);
    let _b = mesh.start("b");
    a.wait_log("a peer's address resolves now");
    a.ping("b");
}

#[test]
fn a_nameserver_that_is_silent_holds_up_no_administrator_and_takes_no_peer_away() {
    as_root(IN_PLACE);
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

/// The first one is silent, or at an address of an interface's own: the second is asked in time.
#[test]
fn a_nameserver_behind_a_dead_one_is_asked() {
    as_root(IN_PLACE);
    for dead in ["127.53.255.1", "fe80::1%lo"] {
        let mesh = Mesh::new();
        let (server, _) = NameServer::start(&mesh);
        let options = server.options(&mesh, &[dead]);
        mesh.edit("a/peers.toml", "127.0.0.1:", "node-b.test:");
        let _dead = UdpSocket::bind(("127.53.255.1", 53)).expect("nobody answers there");
        let a = mesh.start_with("a", options);
        let _b = mesh.start("b");
        a.ping("b");
        assert!(!a.log().contains("does not resolve"), "{dead}: {}", a.log());
    }
}

/// More names than are looked up at once.
#[test]
fn a_nameserver_that_is_silent_about_some_names_keeps_no_other_away() {
    as_root(IN_PLACE);
    let mesh = Mesh::new();
    let (_server, options) = NameServer::start(&mesh);
    mesh.edit("a/peers.toml", "127.0.0.1:", "node-b.test:");
    let mut peers = mesh.read("a/peers.toml");
    let mut pins = (0..).map(|number| format!("sha256/{number:0>42}A="));
    let mut pin = |_: &str| pins.next().expect("there is always another");
    for dead in 0..50 {
        let address = format!("dead-{dead}.test:{}", mesh.ports["b"]);
        peers += &peer(&format!("dead-{dead}"), Some(&address), &mut pin);
    }
    mesh.write("a/peers.toml", &peers);
    let a = mesh.start_with("a", options);
    let _b = mesh.start("b");
    eventually("b is dialled", || a.ask(&["ping", "b"]).ok());
}

#[test]
fn a_start_that_is_stopped_while_names_are_looked_up_takes_no_pin() {
    as_root(IN_PLACE);
    let mesh = Mesh::new();
    let (server, options) = NameServer::start(&mesh);
    server.silent.store(true, Ordering::Relaxed);
    mesh.edit("a/peers.toml", "127.0.0.1:", "node-b.test:");
    let mut a = Node::spawn("a", &mesh.path("a"), mesh.ports["a"], options);
    a.wait_log("role=\"resolver\"");
    let told = Instant::now();
    signal(a.supervisor(), Signal::TERM);
    let status = a.wait_exit();
    assert!(status.success(), "{status:?} {}", a.log());
    assert!(
        told.elapsed() < Duration::from_secs(2),
        "{:?}",
        told.elapsed()
    );
    assert!(!a.log().contains("keeper"), "{}", a.log());
}

/// A name of RFC 6761 §6.4, which nobody has.
#[test]
fn a_check_says_what_does_not_resolve() {
    let mesh = Mesh::new();
    mesh.edit("a/peers.toml", "127.0.0.1:", "node-b.invalid:");
    let checked = mesh.check("a");
    assert!(checked.status.success(), "{}", said(&checked));
    let note = format!("node-b.invalid:{} does not resolve now", mesh.ports["b"]);
    assert!(said(&checked).contains(&note), "{}", said(&checked));
}

/// What the administrator gives in the place of the profile in the binary, for name services that need more.
fn with_own_profile(text: &str) -> Mesh {
    let mesh = Mesh::new();
    mesh.edit("a/peers.toml", "127.0.0.1:", "localhost:");
    mesh.write("a/own.json", text);
    mesh.section("a", "[sandbox]\nresolver_profile = \"own.json\"\n");
    mesh
}

fn profile() -> String {
    let arch = std::env::consts::ARCH;
    let path = root().join(format!("policies/seccomp/{arch}/resolver.json"));
    std::fs::read_to_string(path).expect("a profile")
}

#[test]
fn an_own_profile_is_in_force_and_shown() {
    let mesh = with_own_profile(&profile().replacen("\"comment\": \"", "\"comment\": \"ours: ", 1));
    let shown = show(&mesh);
    let roles = shown["roles"].as_array().expect("a list");
    let found = roles.iter().find(|one| one["role"] == "resolver");
    let found = found.expect("it is shown where there are names");
    let sha256 = found["sha256"].as_str().expect("a digest");
    let (a, _b) = mesh.start_both();
    a.ping("b");
    let line = a.wait_log("role=\"resolver\"");
    assert!(line.contains(sha256), "{line}");
    let line = a.wait_log("not the reviewed one");
    assert!(line.contains(sha256), "{line}");
    let without = show(&Mesh::new());
    let roles = without["roles"].as_array().expect("a list");
    assert!(roles.iter().all(|one| one["role"] != "resolver"));
}

/// One that is killed for a call that it lacks is said, finds nothing, and takes nobody with it.
#[test]
fn a_resolver_that_is_killed_leaves_the_peer_out_and_the_node_up() {
    let mut text = json(&profile());
    let rules = text["resolver"]["filter"].as_array_mut().expect("a list");
    rules.retain(|rule| rule["syscall"] != "openat");
    let mesh = with_own_profile(&text.to_string());
    let options = Options {
        violates: true,
        ..Options::default()
    };
    let (a, b) = (mesh.start_with("a", options), mesh.start("b"));
    let line = a.wait_log("resolver exited");
    assert!(line.contains("SIGSYS"), "{line}");
    let line = a.wait_log("cannot be dialled until it is found");
    assert!(line.contains("the resolver ended"), "{line}");
    b.ping("a");
}
