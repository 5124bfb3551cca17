//! A node whose token can be made to fail, a peer that notices, and an application that must not.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{FaultModule, Mesh, Node, PATIENCE, Shaker, eventually};

/// A mesh whose node `a` has the fault module before its token, and a peer that shakes hands.
pub struct Rehearsal {
    pub mesh: Mesh,
    pub fault: FaultModule,
    pub shaker: Shaker,
}

impl Rehearsal {
    pub fn new() -> Self {
        let mut mesh = Mesh::new();
        let shaker = Shaker::new(&mut mesh, "c");
        let fault = FaultModule::before(&mesh);
        mesh.edit(
            "a/node.toml",
            "[limits]\n",
            "[limits]\nsign_deadline_ms = 1000\n",
        );
        Self {
            mesh,
            fault,
            shaker,
        }
    }

    /// With health probes so often; when all is well they are else not often enough to be waited for.
    pub fn probed_each(milliseconds: u64) -> Self {
        let rehearsal = Self::new();
        let setting = format!("probe_ms = {milliseconds}\npin = ");
        rehearsal.mesh.edit("a/node.toml", "pin = ", &setting);
        rehearsal
    }

    pub fn start(&self) -> (Node, Node) {
        self.mesh.start_both()
    }

    /// Starts both nodes, and an application at each, with a stream between them.
    pub fn start_with_stream(&self) -> (Node, Stream) {
        let application = |keys: &str| format!("[application]\nmode = \"tcp\"\n{keys}\n");
        self.mesh
            .section("a", &application("upstream = \"unix:app.sock\""));
        self.mesh
            .section("b", &application("egress = { a = \"unix:a.sock\" }"));
        let listener = UnixListener::bind(self.mesh.path("a/app.sock")).expect("a socket");
        let (a, b) = self.start();
        b.ping("a");
        let stream = UnixStream::connect(self.mesh.path("b/a.sock")).expect("the egress of `b`");
        (a, Stream::open(b, stream, listener))
    }

    /// How long after now a handshake succeeds again.
    #[track_caller]
    pub fn recovered(&self) -> Duration {
        let since = Instant::now();
        eventually("a handshake succeeds again", || self.shaker.shake().ok());
        since.elapsed()
    }

    /// Shakes hands until `counter` of `call` has grown from `before`: the fault was met.
    #[track_caller]
    pub fn until_met(&self, call: &str, counter: &str, before: u64, again: impl Fn()) {
        eventually(&format!("{call} is {counter}"), || {
            again();
            let _ = self.shaker.shake();
            (self.fault.counts().of(call, counter) > before).then_some(())
        });
    }
}

/// Numbered messages from an application at `b` through both nodes to one at `a` and back, one after
/// the other, on one connection for as long as this lives.
pub struct Stream {
    /// The node that dialled.
    _b: Node,
    exchanged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    talking: Option<JoinHandle<u64>>,
}

impl Stream {
    fn open(b: Node, mut near: UnixStream, listener: UnixListener) -> Self {
        std::thread::spawn(move || {
            let (far, _) = listener.accept().expect("the node of `a` connects");
            let mut back = far.try_clone().expect("a descriptor");
            // Ends with the stream, however that ends.
            let _ = std::io::copy(&mut &far, &mut back);
        });
        near.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let (exchanged, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (count, ended) = (Arc::clone(&exchanged), Arc::clone(&stop));
        let talking = std::thread::spawn(move || {
            let mut number = 0_u64;
            while !ended.load(Ordering::Relaxed) {
                let mut answer = [0; 8];
                near.write_all(&number.to_be_bytes())
                    .unwrap_or_else(|error| panic!("message {number} is not taken: {error}"));
                near.read_exact(&mut answer)
                    .unwrap_or_else(|error| panic!("message {number} is lost: {error}"));
                assert_eq!(u64::from_be_bytes(answer), number, "messages are in order");
                number += 1;
                count.store(number, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
            number
        });
        let stream = Self {
            _b: b,
            exchanged,
            stop,
            talking: Some(talking),
        };
        stream.goes_on("at first");
        stream
    }

    /// Two more messages come back: one at least was sent after this was called.
    #[track_caller]
    pub fn goes_on(&self, when: &str) {
        let before = self.exchanged.load(Ordering::Relaxed);
        eventually(&format!("the stream goes on: {when}"), || {
            let talking = self
                .talking
                .as_ref()
                .is_some_and(|talking| !talking.is_finished());
            assert!(talking, "the stream was lost: {when}");
            (self.exchanged.load(Ordering::Relaxed) >= before + 2).then_some(())
        });
    }

    /// How many messages there were; none was lost.
    #[track_caller]
    pub fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let talking = self.talking.take().expect("only `end` takes it");
        talking.join().expect("no message was lost")
    }
}

/// How often keepers of `node` were started again.
pub fn restarts(node: &Node) -> u64 {
    restarts_of(node, "keeper")
}

/// How often processes in `role` were started again.
pub fn restarts_of(node: &Node, role: &str) -> u64 {
    let status = node.status();
    let processes = status["processes"].as_array().unwrap();
    processes
        .iter()
        .filter(|process| process["role"] == role)
        .map(|process| process["restarts"].as_u64().unwrap())
        .sum()
}

/// Its status, when it is ready.
pub fn is_ready(node: &Node) -> Option<Value> {
    let status = node.status();
    (status["state"] == "ready").then_some(status)
}
