//! When there can be no mutual TLS, the application gets an error and the network no word of it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::door;
use crate::support::node::signal;
use crate::support::{Mesh, eventually, free_port, python, run};

/// In the place of a peer: somebody who keeps all he hears, and answers each with what is not TLS.
struct Tap {
    stop: Arc<AtomicBool>,
    heard: std::thread::JoinHandle<Vec<Vec<u8>>>,
}

impl Tap {
    fn at(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("its port");
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
                let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
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
        let mesh = Mesh::new();
        let place = format!("127.0.0.1:{}", free_port());
        let section = match way {
            "grpc" => "egress = { a = \"unix:a.sock\" }".to_owned(),
            "connect" => format!("connect = {place:?}"),
            "http" => format!("mode = \"http\"\negress = {{ a = {place:?} }}"),
            _ => "mode = \"tcp\"\negress = { a = \"unix:a.sock\" }".to_owned(),
        };
        mesh.section("b", &format!("[application]\n{section}\n"));
        let tap = Tap::at(mesh.ports["a"]);
        let b = mesh.start("b");
        let asks = || match way {
            "grpc" => run(python("caller.py").args([&door(&mesh), "unary"])),
            "connect" => run(python("caller.py")
                .args([&format!("127.0.0.1:{}", mesh.ports["a"]), "unary"])
                .env("grpc_proxy", format!("http://{place}"))
                .env("no_grpc_proxy", "none")),
            "http" => run(Command::new("curl").args([
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
    }
}
