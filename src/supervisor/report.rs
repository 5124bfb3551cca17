//! What `fastness status` shows of the processes, tokens and keys.

use super::Supervisor;
use super::keepers::Keeper;
use crate::rpc::admin;

impl Supervisor {
    /// The status without the node's connections.
    pub(super) fn report(&self) -> admin::StatusResponse {
        let (state, reason) = self.state();
        admin::StatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            node_id: self.config.id.to_string(),
            state: state.into(),
            reason,
            processes: self.processes(),
            keys: self.keys(),
            connections: Vec::new(),
            attestations: Vec::new(),
            listening: self
                .listeners
                .peers
                .iter()
                .filter_map(|listener| listener.local_addr().ok())
                .map(|address| address.to_string())
                .collect(),
            counters: std::collections::HashMap::new(),
            ready: self.ready,
        }
    }

    /// What holds now, and why it is not better.
    pub(super) fn state(&self) -> (&'static str, String) {
        self.state_of(|keeper| !keeper.signs())
    }

    /// The same for those who must not hear of each moment: as readiness sees it.
    pub(super) fn settled_state(&self) -> (&'static str, String) {
        self.state_of(|keeper| !keeper.counted())
    }

    fn state_of(&self, is_troubled: impl Fn(&Keeper) -> bool) -> (&'static str, String) {
        if self.draining {
            return ("draining", String::new());
        }
        if !self.node.ready {
            return ("starting", self.node.trouble().into());
        }
        let troubled = self.keepers.iter().filter(|keeper| is_troubled(keeper));
        let mut faults: Vec<_> = troubled.map(Keeper::trouble).collect();
        if !self.node.application_well {
            faults.push("the application does not say that it is well (application.health)".into());
        }
        faults.extend(self.upstream.trouble());
        if faults.is_empty() {
            ("ready", String::new())
        } else {
            ("degraded", faults.join("; "))
        }
    }

    fn processes(&self) -> Vec<admin::Process> {
        let process = |role: &str, pid: Option<u32>, restarts| admin::Process {
            role: role.into(),
            pid,
            restarts,
        };
        let mut processes = vec![process("supervisor", Some(std::process::id()), 0)];
        processes.extend(
            self.keepers
                .iter()
                .map(|keeper| process("keeper", keeper.pid(), keeper.restarts)),
        );
        processes.push(process("node", self.node.pid(), self.node.restarts));
        processes
    }

    fn keys(&self) -> Vec<admin::Key> {
        let mut keys = Vec::new();
        for (token, keeper) in self.config.tokens.iter().zip(&self.keepers) {
            let Some(ready) = keeper.known() else {
                continue;
            };
            for (key, found) in token.keys.iter().zip(&ready.keys) {
                keys.push(admin::Key {
                    role: key.role.to_string(),
                    uri: key.uri.to_string(),
                    kind: found.kind.to_string(),
                    spki_pin: key.pin.to_string(),
                    token_label: ready.label.clone(),
                    token_serial: ready.serial.clone(),
                    token_manufacturer: ready.manufacturer.clone(),
                    not_after: key.not_after.clone(),
                });
            }
        }
        keys
    }
}
