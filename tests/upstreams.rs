//! Applications that speak no gRPC: HTTP/1.1, and any bytes.

mod http;
mod tcp;

use std::process::Command;

use rustix::process::Signal;

use crate::judges::python_peer;
use crate::proxy::floods::flooder;
use crate::support::node::signal;
use crate::support::{Judge, Mesh, Node, eventually, free_port, id_of, python, run};

/// A web application of Python's standard library, HTTP/1.1 only; killed when dropped.
fn web(address: &str) -> Judge {
    let mut judge = Judge::start(python("web.py").arg(address));
    assert_eq!(judge.hear(), "serving");
    judge
}

fn curling(arguments: &[&str]) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "60", "-w"])
        .arg(" %{http_code} HTTP/%{http_version}")
        .args(arguments);
    curl
}

fn curl(arguments: &[&str]) -> String {
    run(&mut curling(arguments))
}

fn joined(mesh: &Mesh, mode: &str, upstream: &str, egress: &str) -> (Node, Node) {
    mesh.section(
        "a",
        &format!("[application]\nmode = {mode:?}\nupstream = {upstream:?}\n"),
    );
    mesh.section(
        "b",
        &format!("[application]\nmode = {mode:?}\negress = {{ a = {egress:?} }}\n"),
    );
    mesh.start_both()
}

/// So many calls come to be counted.
#[track_caller]
fn counted(node: &Node, direction: &str, outcome: &str, count: u32) {
    let line = format!(
        "fastness_proxied_calls_total{{direction={direction:?},outcome={outcome:?}}} {count}\n"
    );
    eventually(&line, || {
        let metrics = String::from_utf8(node.admin(&["metrics"]).stdout).expect("text");
        metrics.contains(&line).then_some(())
    });
}

#[test]
fn a_web_application_is_reached_with_http_1_and_http_2() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let (upstream, egress) = (free_port(), free_port());
    let (upstream, egress) = (
        format!("127.0.0.1:{upstream}"),
        format!("127.0.0.1:{egress}"),
    );
    let application = web(&upstream);
    let (a, b) = joined(&mesh, "http", &upstream, &egress);
    let url = format!("http://{egress}/echo?x=1");
    let told = format!("GET /echo?x=1 {} active kept ", id_of("b"));
    let forged = ["-H", "x-fastness-peer-id: forged", "-H", "x-own: kept"];
    let with = |more: &[&str]| curl(&[&forged[..], more, &[&url]].concat());
    assert_eq!(with(&[]), format!("{told} 200 HTTP/1.1"));
    assert_eq!(
        with(&["--http2-prior-knowledge"]),
        format!("{told} 200 HTTP/2")
    );
    let body = mesh.path("body");
    std::fs::write(&body, vec![b'x'; 10 << 20]).expect("a file");
    let put = format!("PUT /echo?x=1 {} active - 10485760 200", id_of("b"));
    for (protocol, version) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        let sent = curl(&[protocol, "-T", body.to_str().expect("UTF-8"), &url]);
        assert_eq!(sent, format!("{put} HTTP/{version}"));
    }
    assert_eq!(b.log().matches("we dialled").count(), 1);

    // A peer that is no Fastness node, with either protocol.
    let url = format!("https://{}/direct", a.address());
    let direct = |protocol: &str| {
        let file = |name: &str| peer.folder.join(name).display().to_string();
        let (certificate, key) = (file("client.pem"), file("client.key"));
        curl(&["-k", protocol, "--cert", &certificate, "--key", &key, &url])
    };
    let told = format!("GET /direct {} active - ", id_of("python"));
    assert_eq!(direct("--http1.1"), format!("{told} 200 HTTP/1.1"));
    assert_eq!(direct("--http2"), format!("{told} 200 HTTP/2"));

    // It cannot say that it is another, nor have the node's own word taken out.
    let file = |name: &str| peer.folder.join(name).display().to_string();
    let (certificate, key) = (file("client.pem"), file("client.key"));
    let identity = ["-k", "--cert", &certificate, "--key", &key, &url];
    let forged = [
        ["-H", "x-fastness-peer-id: forged"],
        ["-H", "x_fastness_peer_id: forged"],
        ["-H", "X-Fastness_Pin-Label: forged"],
        ["-H", "Connection: x-fastness-peer-id, x-fastness-pin-label"],
    ];
    for protocol in ["--http1.1", "--http2"] {
        let all = [&[protocol][..], &identity, &forged.concat()].concat();
        assert!(curl(&all).starts_with(&told), "{protocol}");
    }
    // Floods of frames end here too.
    assert_eq!(run(&mut flooder(&a, &peer.folder, "pings")), "closed\n");

    // The application hears which name it is called by, whichever protocol says it.
    for protocol in ["--http1.1", "--http2-prior-knowledge"] {
        let said = curl(&[protocol, &format!("http://{egress}/host")]);
        assert!(said.starts_with(&format!("GET /host {egress}")), "{said}");
    }

    drop(application);
    let gone = with(&[]);
    assert!(
        gone.contains("gives no answer") && gone.ends_with("503 HTTP/1.1"),
        "{gone}"
    );
    // The node's own calls go on beside it.
    b.ping("a");
}

#[test]
fn an_answer_is_passed_on_while_it_is_made_and_a_drain_lets_it_end() {
    let mesh = Mesh::new();
    let at = || format!("127.0.0.1:{}", free_port());
    let (upstream, egress) = (at(), at());
    let mut application = web(&upstream);
    let (mut a, mut b) = joined(&mesh, "http", &upstream, &egress);
    let url = format!("http://{egress}/slow");
    let mut asking = [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")].map(|asks| {
        let mut curl = Judge::start(&mut curling(&[asks.0, "--no-buffer", &url]));
        assert_eq!(curl.hear(), "first");
        (curl, asks.1)
    });
    for node in [&mut a, &mut b] {
        signal(node.supervisor(), Signal::TERM);
        node.wait_log("draining");
    }
    application.tell("go on");
    for (curl, version) in &mut asking {
        assert_eq!(curl.hear(), "second");
        assert_eq!(curl.hear(), format!(" 200 HTTP/{version}"));
    }
    assert!(a.wait_exit().success() && b.wait_exit().success());
    for node in [&a, &b] {
        assert!(!node.log().contains("cut off"), "{}", node.log());
    }
}

#[test]
fn one_peers_idle_connections_are_in_nobodys_way_and_who_finds_none_hears_why() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let at = || format!("127.0.0.1:{}", free_port());
    let (upstream, egress) = (at(), at());
    let mut application = web(&upstream);
    let limits = "drain_ms = 60000\nconnections = 4\npeer_connections = 4\nconnect_ms = 1000";
    mesh.edit("a/node.toml", "drain_ms = 60000", limits);
    let (a, _b) = joined(&mesh, "http", &upstream, &egress);
    let url = format!("http://{egress}/slow");
    let mut asking = [(); 4].map(|()| {
        let mut curl = Judge::start(&mut curling(&["--no-buffer", &url]));
        assert_eq!(curl.hear(), "first");
        curl
    });
    let file = |name: &str| peer.folder.join(name).display().to_string();
    let (certificate, key) = (file("client.pem"), file("client.key"));
    let url = format!("https://{}/", a.address());
    let ask = || curl(&["-k", "--cert", &certificate, "--key", &key, &url]);
    let full = ask();
    assert!(
        full.contains("limits.peer_connections") && full.ends_with("503 HTTP/2"),
        "{full}"
    );
    a.wait_log("all connections to the application are busy");
    application.tell("go on");
    for curl in &mut asking {
        assert_eq!(curl.hear(), "second");
    }
    // They are idle now, and given up before somebody else has waited too long.
    eventually("another peer is served", || {
        ask().ends_with("200 HTTP/2").then_some(())
    });
}

#[test]
fn a_node_without_such_an_application_speaks_http_2_alone() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let a = mesh.start("a");
    let refused = Command::new("curl")
        .args(["-sS", "-k", "--http1.1", "--cert"])
        .arg(peer.folder.join("client.pem"))
        .arg("--key")
        .arg(peer.folder.join("client.key"))
        .arg(format!("https://{}/", a.address()))
        .output()
        .expect("curl");
    assert!(!refused.status.success());
    a.wait_log("not-h2");
}
