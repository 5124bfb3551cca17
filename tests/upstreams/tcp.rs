//! Any bytes, over a connection for each of the application's.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use rustix::process::Signal;

use super::{counted, joined};
use crate::judges::python_peer;
use crate::proxy::peak;
use crate::support::node::signal;
use crate::support::{Mesh, Node, PATIENCE};

/// The application of `a`: what it does with each connection.
fn application(mesh: &Mesh, serve: impl Fn(UnixStream) -> io::Result<()> + Clone + Send + 'static) {
    let listener = UnixListener::bind(mesh.path("a/app.sock")).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
}

/// What comes is sent back as it comes.
fn echo(mut stream: UnixStream) -> io::Result<()> {
    io::copy(&mut stream.try_clone()?, &mut stream)?;
    stream.shutdown(Shutdown::Write)
}

fn both(mesh: &Mesh) -> (Node, Node) {
    joined(mesh, "tcp", "unix:app.sock", "unix:a.sock")
}

/// A connection of the application of `b` to that of `a`.
fn enter(mesh: &Mesh) -> UnixStream {
    let door = UnixStream::connect(mesh.path("b/a.sock")).expect("the door");
    door.set_read_timeout(Some(PATIENCE)).expect("not zero");
    door
}

#[test]
fn any_bytes_go_both_ways_over_a_connection_of_their_own() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    // Everything comes back once the other side has said all.
    application(&mesh, |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        all.reverse();
        stream.write_all(&all)
    });
    let (a, b) = both(&mesh);
    for length in [5, 8 << 20] {
        let sent: Vec<u8> = (0..length)
            .map(|index: u32| index.to_le_bytes()[0])
            .collect();
        let mut door = enter(&mesh);
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
    for (node, direction) in [(&a, "ingress"), (&b, "egress")] {
        counted(node, direction, "answered", 2);
    }
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
fn whoever_ends_first_still_hears_the_other() {
    let mesh = Mesh::new();
    let (hears, heard) = mpsc::channel();
    application(&mesh, move |mut stream| {
        stream.write_all(b"all that I have")?;
        stream.shutdown(Shutdown::Write)?;
        let mut rest = String::new();
        stream.read_to_string(&mut rest)?;
        hears.send(rest).map_err(io::Error::other)
    });
    let _nodes = both(&mesh);
    let (mut door, mut said) = (enter(&mesh), String::new());
    door.read_to_string(&mut said).expect("it ends its side");
    assert_eq!(said, "all that I have");
    door.write_all(b"and my answer")
        .expect("the other way is open");
    door.shutdown(Shutdown::Write).expect("half-closed");
    let heard = heard.recv_timeout(PATIENCE);
    assert_eq!(heard.expect("it hears the end"), "and my answer");
}

#[test]
fn a_quarter_of_a_gigabyte_each_way_at_once_arrives_whole_and_is_never_held() {
    const PIECES: u32 = 4096;
    let piece = |number: u32| number.to_le_bytes().repeat(16 << 10);
    let mesh = Mesh::new();
    application(&mesh, echo);
    let (a, b) = both(&mesh);
    let mut door = enter(&mesh);
    let mut writer = door.try_clone().expect("a second handle");
    let writing = std::thread::spawn(move || {
        for number in 0..PIECES {
            writer.write_all(&piece(number)).expect("it is taken");
        }
        writer.shutdown(Shutdown::Write).expect("half-closed");
    });
    let mut got = vec![0; 64 << 10];
    for number in 0..PIECES {
        door.read_exact(&mut got).expect("it comes back");
        assert!(got == piece(number), "piece {number}");
    }
    assert_eq!(door.read(&mut got).expect("it ends"), 0);
    writing.join().expect("it wrote");
    for node in [&a, &b] {
        let peak = peak(node);
        assert!(peak < 100 << 10, "{peak} KiB");
    }
}

#[test]
fn a_drain_lets_connections_go_on_to_their_end() {
    let mesh = Mesh::new();
    application(&mesh, echo);
    let (mut a, mut b) = both(&mesh);
    let mut door = enter(&mesh);
    let mut echoes = |word: &[u8; 4]| {
        let mut back = [0; 4];
        door.write_all(word).expect("it is taken");
        door.read_exact(&mut back).expect("it comes back");
        assert_eq!(back, *word);
    };
    echoes(b"once");
    for node in [&a, &b] {
        signal(node.supervisor(), Signal::TERM);
        node.wait_log("draining");
    }
    echoes(b"more");
    drop(door);
    for node in [&mut a, &mut b] {
        assert!(node.wait_exit().success());
        assert!(!node.log().contains("cut off"), "{}", node.log());
    }
}

#[test]
fn a_connection_that_outlives_the_drain_is_closed_at_both_ends() {
    for drained in ["a", "b"] {
        let mesh = Mesh::new();
        let drain = ("drain_ms = 60000", "drain_ms = 500");
        mesh.edit(&format!("{drained}/node.toml"), drain.0, drain.1);
        let (ends, ended) = mpsc::channel();
        application(&mesh, move |stream| {
            let _ = echo(stream);
            ends.send(()).map_err(io::Error::other)
        });
        let (mut a, mut b) = both(&mesh);
        let (mut door, mut back) = (enter(&mesh), [0; 4]);
        door.write_all(b"once").expect("it is taken");
        door.read_exact(&mut back).expect("it comes back");
        let (draining, other) = match drained {
            "a" => (&mut a, &b),
            _ => (&mut b, &a),
        };
        signal(draining.supervisor(), Signal::TERM);
        let read = door.read(&mut back);
        let timed_out = read.as_ref().err().map(io::Error::kind) == Some(io::ErrorKind::WouldBlock);
        assert!(!timed_out && !matches!(read, Ok(1..)), "{read:?}");
        ended.recv_timeout(PATIENCE).expect("the application too");
        assert!(draining.wait_exit().success());
        let log = draining.log();
        assert!(
            log.contains("calls still running at the end of the drain"),
            "{log}"
        );
        assert_eq!(other.status()["state"], "ready");
    }
}
