//! An unchanged application beside each node: what it says to a place of its own on this host reaches
//! the application of a peer through mutual TLS, and nobody else.

mod dials;
pub mod floods;
mod isolation;
mod plaintext;
mod rust;
mod socket;
mod wire;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::geteuid;

use crate::judges::python_peer;
use crate::support::node::kill_if_there;
use crate::support::{Judge, Mesh, Node, eventually, free_port, id_of, python, run, said};

/// The application of `a`, which answers what it is asked.
fn application(mesh: &Mesh) -> Judge {
    let mut judge = Judge::start(
        python("application.py").arg(format!("unix:{}", mesh.path("a/app.sock").display())),
    );
    assert_eq!(judge.hear(), "serving");
    judge
}

/// Nodes `a`, which has an application, and `b`, whose application reaches it at `a.sock`.
fn joined(mesh: &Mesh) -> (Node, Node) {
    mesh.section("a", "[application]\nupstream = \"unix:app.sock\"\n");
    mesh.section("b", "[application]\negress = { a = \"unix:a.sock\" }\n");
    mesh.start_both()
}

fn door(mesh: &Mesh) -> String {
    format!("unix:{}", mesh.path("b/a.sock").display())
}

fn call(mesh: &Mesh, action: &str) -> String {
    run(python("caller.py").arg(door(mesh)).arg(action))
}

/// What the application sees of a call that says it comes from somebody else.
fn told() -> String {
    told_of("b")
}

fn told_of(peer: &str) -> String {
    format!(
        "hello [('told-x-fastness-peer-id', '{}'), ('told-x-fastness-pin-label', 'active'), ('told-x-own', 'kept')]\n",
        id_of(peer)
    )
}

#[test]
fn a_peer_cannot_say_that_it_is_another() {
    let mut mesh = Mesh::new();
    let _application = application(&mesh);
    let peer = python_peer(&mut mesh, "python", None);
    mesh.section("a", "[application]\nupstream = \"unix:app.sock\"\n");
    let a = mesh.start("a");
    let said = run(python("caller.py")
        .args([&a.address().to_string(), "unary"])
        .arg(mesh.path("ca/authority/ca.pem"))
        .args(["client.pem", "client.key"].map(|file| peer.folder.join(file))));
    assert_eq!(said, told_of("python"));
}

#[test]
fn a_call_that_is_taken_back_or_late_ends_at_the_application_too() {
    let mesh = Mesh::new();
    let mut application = application(&mesh);
    let _nodes = joined(&mesh);
    let mut caller = Judge::start(python("caller.py").arg(door(&mesh)).arg("take_back"));
    assert_eq!(application.hear(), "asked with a deadline");
    caller.tell("take it back");
    assert_eq!(caller.hear(), "CANCELLED");
    // The first ends and the next begins, in threads of their own.
    let mut heard = [application.hear(), application.hear()];
    heard.sort();
    assert_eq!(heard, ["asked with a deadline", "over"]);
    assert_eq!(caller.hear(), "DEADLINE_EXCEEDED");
    assert_eq!(application.hear(), "over");
}

#[test]
fn a_gigabyte_in_one_stream_arrives_whole_either_way_and_is_never_held() {
    let mesh = Mesh::new();
    let _application = application(&mesh);
    let (a, b) = joined(&mesh);
    assert_eq!(call(&mesh, "gigabyte"), "1 GiB arrived whole\n");
    assert_eq!(call(&mesh, "gigabyte_back"), "1 GiB came back whole\n");
    for node in [&a, &b] {
        let peak = peak(node);
        assert!(peak < 100 << 10, "{peak} KiB");
    }
}

#[test]
fn a_door_is_shut_when_a_reload_unlists_its_peer() {
    let mut mesh = Mesh::new();
    let _application = application(&mesh);
    python_peer(&mut mesh, "python", None);
    mesh.section("a", "[application]\nupstream = \"unix:app.sock\"\n");
    let proxy = format!("127.0.0.1:{}", free_port());
    mesh.section("b", &format!("[application]\nconnect = {proxy:?}\n"));
    let (a, b) = mesh.start_both();
    let mut caller = Judge::start(
        python("caller.py")
            .args([&a.address().to_string(), "twice"])
            .env("grpc_proxy", format!("http://{proxy}"))
            .env("no_grpc_proxy", "none"),
    );
    assert_eq!(caller.hear(), told().trim_end());
    mesh.write("b/peers.toml", &mesh.others.concat());
    b.ask(&["reload"]).expect("a good policy");
    caller.tell("again");
    let said = caller.hear();
    assert!(said.starts_with("UNAVAILABLE"), "{said}");
}

#[test]
fn an_application_calls_that_of_a_peer_which_is_told_who_calls() {
    let mesh = Mesh::new();
    let _application = application(&mesh);
    let (a, b) = joined(&mesh);
    assert_eq!(call(&mesh, "unary"), told());
    assert_eq!(call(&mesh, "fail"), "FAILED_PRECONDITION as you wish: so\n");
    assert_eq!(call(&mesh, "bulk"), "64 MiB and back\n");
    assert_eq!(call(&mesh, "message"), "100 MiB in one message\n");
    for node in [&a, &b] {
        let peak = peak(node);
        assert!(
            peak < 100 << 10,
            "{peak} KiB: a message was held as a whole"
        );
    }
    let dials = b.log().matches("we dialled").count();
    assert_eq!(dials, 1, "all of them share one connection");
    let metrics = String::from_utf8(b.admin(&["metrics"]).stdout).expect("text");
    for line in [
        "fastness_proxied_calls_total{direction=\"egress\",outcome=\"answered\"} 4",
        "fastness_signatures_total{class=\"own\"} 1",
    ] {
        assert!(metrics.contains(line), "no {line}: {metrics}");
    }
}

/// Every case of gRPC's interoperability tests: what is seen directly, and through two nodes.
fn interoperates(upstream: &str, egress: &str) {
    let mesh = Mesh::new();
    let place = |text: &str, node: &str| match text.strip_prefix("unix:") {
        Some(path) => format!("unix:{}", mesh.path(node).join(path).display()),
        None => text.to_owned(),
    };
    let (direct, through) = (place(upstream, "a"), place(egress, "b"));
    let mut application = Judge::start(python("interop.py").args(["serve", &direct]));
    assert_eq!(application.hear(), "SERVING");
    mesh.section("a", &format!("[application]\nupstream = {upstream:?}\n"));
    mesh.section(
        "b",
        &format!("[application]\negress = {{ a = {egress:?} }}\n"),
    );
    let (_a, b) = mesh.start_both();
    let cases = |place: &str| run(python("interop.py").args(["call", place]));
    let seen = cases(&direct);
    assert!(seen.lines().count() >= 22, "{seen}");
    assert_eq!(cases(&through), seen);
    assert_eq!(b.log().matches("we dialled").count(), 1);
}

#[test]
fn grpc_interoperability_is_the_same_directly_and_through_two_nodes() {
    interoperates("unix:app.sock", "unix:a.sock");
}

#[test]
fn grpc_interoperability_is_the_same_on_loopback_addresses() {
    let at = |number: u8| format!("127.77.0.{number}:{}", free_port());
    interoperates(&at(1), &at(2));
}

#[test]
fn a_connect_proxy_reaches_listed_addresses_only() {
    let mesh = Mesh::new();
    let _application = application(&mesh);
    mesh.section("a", "[application]\nupstream = \"unix:app.sock\"\n");
    let proxy = format!("127.0.0.1:{}", free_port());
    mesh.section("b", &format!("[application]\nconnect = {proxy:?}\n"));
    let (a, b) = mesh.start_both();
    let call = |address: &str| {
        run(python("caller.py")
            .args([address, "unary"])
            .env("grpc_proxy", format!("http://{proxy}"))
            .env("no_grpc_proxy", "none"))
    };
    assert_eq!(call(&a.address().to_string()), told());
    let unlisted = call(&format!("127.0.0.1:{}", free_port()));
    assert!(unlisted.starts_with("UNAVAILABLE"), "{unlisted}");
    b.wait_log("no listed peer has the address");
    let plain = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}"])
        .arg(format!("http://{proxy}/"))
        .output();
    if let Ok(plain) = plain {
        assert_eq!(String::from_utf8_lossy(&plain.stdout), "405");
    }
}

#[test]
fn an_application_that_is_not_there_is_told_of_at_once_and_found_again() {
    let mesh = Mesh::new();
    let (a, _b) = joined(&mesh);
    let missing = "UNAVAILABLE the application behind this node does not accept connections\n";
    assert_eq!(call(&mesh, "unary"), missing);
    assert!(a.log().contains("app.sock"), "the operator is told where");
    let first = application(&mesh);
    assert_eq!(call(&mesh, "unary"), told());
    drop(first);
    assert_eq!(call(&mesh, "unary"), missing);
    let _second = application(&mesh);
    assert_eq!(call(&mesh, "unary"), told());
}

#[test]
fn a_peer_that_is_not_there_is_told_of_and_found_again() {
    let mesh = Mesh::new();
    let _application = application(&mesh);
    let (a, b) = joined(&mesh);
    assert_eq!(call(&mesh, "unary"), told());
    let address = a.address();
    drop(a);
    let lost = call(&mesh, "unary");
    assert!(
        lost.starts_with("UNAVAILABLE") && lost.contains("Connection refused"),
        "{lost}"
    );
    wait_free(address);
    let _a = mesh.start("a");
    eventually("the peer is found again", || {
        (call(&mesh, "unary") == told()).then_some(())
    });
    assert!(b.log().contains("dialling failed"));
}

#[test]
fn the_applications_health_is_part_of_readiness() {
    let mesh = Mesh::new();
    let place = format!("unix:{}", mesh.path("a/app.sock").display());
    let mut application = Judge::start(python("interop.py").args(["serve", &place]));
    assert_eq!(application.hear(), "SERVING");
    mesh.section(
        "a",
        "[application]\nupstream = \"unix:app.sock\"\nhealth = \"grpc.testing.TestService\"\n",
    );
    let a = mesh.start("a");
    let is = |state: &str| {
        eventually(state, || (a.status()["state"] == state).then_some(()));
    };
    is("ready");
    application.tell("NOT_SERVING");
    is("degraded");
    assert!(
        a.status()["reason"]
            .as_str()
            .expect("text")
            .contains("application.health")
    );
    assert_eq!(a.status()["ready"], false);
    // The next node begins where this one was.
    let node = a.pid("node");
    kill_if_there(node);
    eventually("another node", || {
        let new = a.pid("node");
        (new != 0 && new != node).then_some(())
    });
    for _ in 0..8 {
        assert_eq!(a.status()["ready"], false);
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    application.tell("SERVING");
    is("ready");
    eventually("and counts as it", || {
        a.status()["ready"].as_bool()?.then_some(())
    });
    drop(application);
    is("degraded");
}

#[test]
fn an_application_that_never_said_that_it_is_well_is_not() {
    let mesh = Mesh::new();
    mesh.section(
        "a",
        "[application]\nupstream = \"unix:app.sock\"\nhealth = \"\"\n",
    );
    let a = mesh.start("a");
    a.wait_log("the application does not say that it is well");
    let status = a.status();
    assert_eq!(status["state"], "degraded");
    assert_eq!(status["ready"], false);
    let reason = status["reason"].as_str().expect("text");
    assert!(reason.contains("application.health"), "{reason}");
}

#[test]
fn a_drain_lets_calls_end() {
    let mesh = Mesh::new();
    let _application = application(&mesh);
    let (mut a, mut b) = joined(&mesh);
    let mut caller = Judge::start(python("caller.py").arg(door(&mesh)).arg("slow"));
    assert_eq!(caller.hear(), "begun");
    assert!(a.admin(&["drain"]).status.success());
    assert!(b.admin(&["drain"]).status.success());
    a.wait_log("draining");
    b.wait_log("draining");
    caller.tell("go on");
    assert_eq!(caller.hear(), "ended well");
    assert!(a.wait_exit().success());
    assert!(b.wait_exit().success());
    assert!(
        !mesh.path("b/a.sock").exists(),
        "the door goes with the node"
    );
}

#[test]
fn doors_are_for_the_application_alone() {
    let mesh = Mesh::new();
    let _application = application(&mesh);
    mesh.section(
        "a",
        "[application]\nupstream = \"unix:app.sock\"\nuser = 12345\n",
    );
    mesh.section("b", "[application]\negress = { a = \"unix:a.sock\" }\n");
    let (a, b) = mesh.start_both();
    let mode = std::fs::metadata(mesh.path("b/a.sock"))
        .expect("the door")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(call(&mesh, "unary").starts_with("UNAVAILABLE"));
    a.wait_log("somebody else answers for the application");
    let address = b.address();
    drop((a, b));
    wait_free(address);
    mesh.edit("b/node.toml", "a.sock\" }\n", "a.sock\" }\nuser = 12345\n");
    if geteuid().is_root() {
        let b = mesh.start("b");
        assert!(call(&mesh, "unary").starts_with("UNAVAILABLE"));
        b.wait_log("somebody else than the application was turned away");
    } else {
        assert!(said(&mesh.check("b")).contains("not permitted"));
    }
}

/// Roles die with their supervisor, but not in the same moment.
fn wait_free(address: std::net::SocketAddr) {
    eventually("the port is free", || TcpListener::bind(address).ok());
}

/// Resident memory of the node's process, KiB (proc(5), `VmRSS`).
fn memory(node: &Node) -> u64 {
    status_of(node, "VmRSS:")
}

/// The most that it ever was.
pub fn peak(node: &Node) -> u64 {
    status_of(node, "VmHWM:")
}

/// CPU time of the node's process, clock ticks (proc(5), `utime` and `stime` of `/proc/PID/stat`).
fn cpu(node: &Node) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid("node")));
    let stat = stat.expect("it runs");
    let (_, behind_name) = stat.rsplit_once(')').expect("Linux says so");
    let times = behind_name.split_whitespace().skip(11).take(2);
    times
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum()
}

fn status_of(node: &Node, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid("node")));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.expect("Linux says so").trim().trim_end_matches(" kB");
    kib.parse().expect("a number")
}

#[test]
fn an_application_section_is_checked_whole() {
    let mesh = Mesh::new();
    for (text, faults) in [
        ("", &["names no place"][..]),
        (
            "upstream = \"0.0.0.0:50051\"",
            &["application.upstream", "not a loopback address"],
        ),
        (
            "egress = { c = \"unix:c.sock\" }",
            &["application.egress.c", "no peer of this name"],
        ),
        (
            "mode = \"tcp\"\nkind = \"p2pfl\"\nupstream = \"unix:x\"",
            &["application.kind", "needs mode = \"grpc\""],
        ),
        (
            "upstream = \"unix:x\"\nconnect = \"unix:x\"",
            &["stands there twice"],
        ),
        ("upstrem = \"unix:x\"", &["upstrem", "upstream"]),
        (
            "egress = { b = \"unix:node.toml\" }",
            &["exists and is not a socket"],
        ),
    ] {
        let before = mesh.read("a/node.toml");
        mesh.section("a", &format!("[application]\n{text}\n"));
        let output = mesh.check("a");
        let said = said(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        for fault in faults {
            assert!(said.contains(fault), "{fault:?} is not in {said}");
        }
        mesh.write("a/node.toml", &before);
    }
}
