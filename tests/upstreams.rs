//! Applications that speak no gRPC: HTTP/1.1, and any bytes.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use crate::judges::python_peer;
use crate::proxy::floods::flooder;
use crate::support::{Mesh, Node, free_port, id_of, python, run};

/// A web application of Python's standard library, HTTP/1.1 only; killed when dropped.
struct Web(#[expect(dead_code, reason = "held for its drop")] crate::support::Judge);

fn web(address: &str) -> Web {
    let mut judge = crate::support::Judge::start(python("web.py").arg(address));
    assert_eq!(judge.hear(), "serving");
    Web(judge)
}

fn curl(arguments: &[&str]) -> String {
    run(Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "30",
            "-w",
            " %{http_code} HTTP/%{http_version}",
        ])
        .args(arguments))
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
    let sent = curl(&["-T", body.to_str().expect("UTF-8"), &url]);
    assert_eq!(
        sent,
        format!(
            "PUT /echo?x=1 {} active - 10485760 200 HTTP/1.1",
            id_of("b")
        )
    );
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
fn any_bytes_go_both_ways_over_a_connection_of_their_own() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let at = mesh.path("a/app.sock");
    let listener = UnixListener::bind(&at).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // Everything comes back once the other side has said all.
                let (mut stream, mut all) = (stream, Vec::new());
                stream.read_to_end(&mut all)?;
                all.reverse();
                stream.write_all(&all)
            });
        }
    });
    let (a, b) = joined(&mesh, "tcp", "unix:app.sock", "unix:a.sock");
    for length in [5, 8 << 20] {
        let sent: Vec<u8> = (0..length)
            .map(|index: u32| index.to_le_bytes()[0])
            .collect();
        let mut door = UnixStream::connect(mesh.path("b/a.sock")).expect("the door");
        let mut writer = door.try_clone().expect("a second handle");
        let bytes = sent.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&bytes).expect("it is taken");
            writer.shutdown(Shutdown::Write).expect("half-closed");
        });
        let mut got = Vec::new();
        door.read_to_end(&mut got).expect("it comes back");
        writing.join().expect("it wrote");
        got.reverse();
        assert!(got == sent, "{} bytes came back", got.len());
    }
    assert_eq!(b.log().matches("we dialled").count(), 2);
    // gRPC between the nodes goes on, and a peer without a protocol's name is the application's.
    b.ping("a");
    let mut openssl = Command::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-connect",
            &a.address().to_string(),
            "-cert",
        ])
        .arg(peer.folder.join("client.pem"))
        .arg("-key")
        .arg(peer.folder.join("client.key"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    openssl
        .stdin
        .take()
        .expect("piped")
        .write_all(b"abc\n")
        .expect("it reads");
    // -quiet keeps it open after the end of its input; what we want is that the node let it in.
    a.wait_log("spiffe://test.example/node/python");
    let _ = openssl.kill();
    let _ = openssl.wait();
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
