//! When there can be no mutual TLS, the application gets an error and the network no word of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::door;
use crate::p2pfl::fleet::Wire;
use crate::support::node::signal;
use crate::support::{Mesh, Network, Node, Options, eventually, free_port, network, python, run};

/// How the tap answers, as the watch on the wire shows what is not TLS: no client begins so.
const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\r\n";

/// A host for node `b` alone with its application, and another in the place of its peer `a`: whatever leaves the
/// host is seen on the link, to whichever address it goes.
struct Watched {
    mesh: Mesh,
    network: Network,
    wire: Wire,
    /// Where `a` should be.
    peer: SocketAddr,
}

impl Watched {
    fn new() -> Self {
        let network = Network::new(&["a", "b"]);
        let mesh = Mesh::new();
        let port = mesh.ports["a"];
        let peer = format!("{}:{port}", network::address(0));
        mesh.edit("b/peers.toml", &format!("127.0.0.1:{port}"), &peer);
        let words = ["hello", "/test", "PRI * HTTP/2.0"];
        Self {
            wire: Wire::on(&network, &[port], &words),
            peer: peer.parse().expect("an address"),
            mesh,
            network,
        }
    }

    fn start_b(&self) -> Node {
        let options = Options {
            through: self.network.on("b"),
            ..Options::default()
        };
        Node::spawn("b", &self.mesh.path("b"), self.mesh.ports["b"], options)
    }

    /// What a program prints on the host of `b`.
    fn run(&self, command: &Command) -> String {
        run(&mut self.network.moved("b", command))
    }

    fn call(&self) -> String {
        self.run(python("caller.py").args([&door(&self.mesh), "unary"]))
    }

    fn tap(&self) -> Tap {
        let bind = || TcpListener::bind(self.peer);
        Tap::at(self.network.within("a", bind).expect("its port"))
    }
}

/// In the place of a peer: somebody who keeps all he hears, and answers each with what is not TLS.
struct Tap {
    stop: Arc<AtomicBool>,
    heard: std::thread::JoinHandle<Vec<Vec<u8>>>,
}

impl Tap {
    fn at(listener: TcpListener) -> Self {
        listener.set_nonblocking(true).expect("a listener");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let heard = std::thread::spawn(move || {
            let mut heard = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let Ok((mut connection, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                connection.set_nonblocking(false).expect("a connection");
                let timeout = connection.set_read_timeout(Some(Duration::from_secs(5)));
                timeout.expect("not zero");
                let _ = connection.write_all(ANSWER);
                let (mut all, mut bytes) = (Vec::new(), [0; 4096]);
                while let Ok(count @ 1..) = connection.read(&mut bytes) {
                    all.extend_from_slice(&bytes[..count]);
                }
                heard.push(all);
            }
            heard
        });
        Self { stop, heard }
    }

    fn heard(self) -> Vec<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        self.heard.join().expect("it listens")
    }
}

#[test]
fn nothing_leaves_in_plaintext_whatever_the_application_speaks() {
    for way in ["grpc", "connect", "http", "tcp"] {
        let watched = Watched::new();
        let mesh = &watched.mesh;
        let place = format!("127.0.0.1:{}", free_port());
        let section = match way {
            "grpc" => "egress = { a = \"unix:a.sock\" }".to_owned(),
            "connect" => format!("connect = {place:?}"),
            "http" => format!("mode = \"http\"\negress = {{ a = {place:?} }}"),
            _ => "mode = \"tcp\"\negress = { a = \"unix:a.sock\" }".to_owned(),
        };
        mesh.section("b", &format!("[application]\n{section}\n"));
        let tap = watched.tap();
        let b = watched.start_b();
        b.wait_ready();
        let asks = || match way {
            "grpc" => watched.call(),
            "connect" => watched.run(
                python("caller.py")
                    .args([&watched.peer.to_string(), "unary"])
                    .env("grpc_proxy", format!("http://{place}"))
                    .env("no_grpc_proxy", "none"),
            ),
            "http" => watched.run(Command::new("curl").args([
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-d",
                "hello",
                &format!("http://{place}/test"),
            ])),
            _ => {
                let mut door = UnixStream::connect(mesh.path("b/a.sock")).expect("the door");
                let _ = door.write_all(b"hello");
                let mut answer = String::new();
                let _ = door.read_to_string(&mut answer);
                answer
            }
        };
        let refused = |when: &str| {
            let said = asks();
            let good = match way {
                "grpc" | "connect" => said.starts_with("UNAVAILABLE"),
                "http" => said == "503",
                _ => said.is_empty(),
            };
            assert!(good, "{way}, {when}: {said}");
        };
        refused("the peer speaks no TLS");
        b.wait_log("dialling failed");
        for file in ["server.pem", "client.pem", "peers.toml"] {
            std::fs::remove_file(mesh.path("b").join(file)).expect("it is there");
        }
        let node = b.pid("node");
        signal(node, Signal::KILL);
        b.wait_replaced("node", node);
        refused("the node started again without its files");
        std::fs::remove_file(mesh.path("b/token/pin")).expect("it is there");
        signal(b.pid("keeper"), Signal::KILL);
        eventually("no token signs", || {
            (b.status()["state"] == "degraded").then_some(())
        });
        refused("the keeper is dead");
        let heard = tap.heard();
        assert!(!heard.is_empty(), "{way}: the tap was dialled");
        for heard in heard.iter().filter(|heard| !heard.is_empty()) {
            // A ClientHello first (RFC 8446 section 5.1, section 4), and no word of the call.
            assert_eq!(
                (heard[0], heard[1], heard[5]),
                (22, 3, 1),
                "{way}: {heard:02x?}"
            );
            let leaked = |word: &[u8]| heard.windows(word.len()).any(|part| part == word);
            assert!(!leaked(b"hello") && !leaked(b"/test"), "{way}");
        }
        let seen = watched.wire.report();
        for what in ["plaintext", "others"] {
            assert_eq!(
                seen[what].as_array().map(Vec::len),
                Some(0),
                "{way}: {seen}"
            );
        }
        let answer: String = ANSWER[..5]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let not_tls = seen["not_tls"].as_array().expect("a list");
        assert!(
            not_tls.iter().all(|begins| *begins == *answer),
            "{way}: {seen}"
        );
    }
}

#[test]
fn nothing_leaves_when_a_file_is_missing() {
    let watched = Watched::new();
    let mesh = &watched.mesh;
    // A module of its own, which can go.
    let module = mesh.tokens("b").module;
    std::fs::copy(&module, mesh.path("b/module.so")).expect("a copy");
    let own = mesh.path("b/module.so").display().to_string();
    mesh.edit("b/node.toml", &module.display().to_string(), &own);
    mesh.section("b", "[application]\negress = { a = \"unix:a.sock\" }\n");
    let whole = watched.start_b();
    whole.wait_ready();
    drop(whole);
    for missing in [
        "b/server.pem",
        "b/client.pem",
        "b/peers.toml",
        "b/module.so",
        "b/token/pin",
        "b/token/softhsm2.conf",
        // Its objects are in there.
        "b/token/tokens",
        "ca/authority/ca.pem",
        "b/node.toml",
    ] {
        let (there, away) = (mesh.path(missing), mesh.path("away"));
        std::fs::rename(&there, &away).unwrap_or_else(|error| panic!("{missing}: {error}"));
        let mut node = watched.start_b();
        assert!(!node.wait_exit().success(), "without {missing}");
        let said = watched.call();
        assert!(said.starts_with("UNAVAILABLE"), "without {missing}: {said}");
        std::fs::rename(&away, &there).expect("it is back");
    }
    let seen = watched.wire.report();
    let nobody = (&seen["flows"], &seen["others"]);
    assert_eq!(nobody, (&0.into(), &serde_json::json!([])), "{seen}");
}
