//! A node whose token can be made to fail, and a peer that notices.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{FaultModule, Mesh, Node, Shaker, eventually};

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
        let real = mesh.tokens("a").module;
        let fault = FaultModule::new(&mesh.path("a"), &real);
        let quoted = |path: &std::path::Path| format!("module = {path:?}");
        mesh.edit("a/node.toml", &quoted(&real), &quoted(fault.module()));
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

    pub fn start(&self) -> (Node, Node) {
        self.mesh.start_both()
    }

    /// How long after now a handshake succeeds again.
    #[track_caller]
    pub fn recovered(&self) -> Duration {
        let since = Instant::now();
        eventually("a handshake succeeds again", || self.shaker.shake().ok());
        since.elapsed()
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
