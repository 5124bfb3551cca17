//! Every process is read back from /proc before it serves, and whenever somebody asks.

use super::Supervisor;
use super::node::Node;
use crate::fault::Fault;
use crate::rpc::admin;
use crate::sandbox::{self, Attestation, Expected, Role};

/// What is wrong with a process, for the operator.
pub(super) fn fault(attestation: &Attestation) -> Fault {
    Fault::new(
        "sandbox",
        format!(
            "the {} is not confined as declared: {}",
            attestation.role.name(),
            attestation.mismatches.join("; ")
        ),
        "it was ended; see what starts this process (a debugger, a container's settings), and report it otherwise",
    )
}

impl Supervisor {
    /// Reads this process back and says what it is.
    pub(super) fn attest_ourselves(&self) -> Attestation {
        let attestation = self.read_ourselves();
        attestation.log();
        attestation
    }

    fn read_ourselves(&self) -> Attestation {
        sandbox::attest(&Expected {
            role: Role::Supervisor,
            pid: std::process::id(),
            user: None,
            keeps_rights: !self.config.users().is_empty(),
            own_profile: self.config.profile.clone(),
            report: self.report.clone(),
        })
    }

    /// Every process as it is now; a role that is not what it must be is ended.
    pub(super) fn attest_all(&mut self) -> Vec<admin::Attestation> {
        let mut all = vec![describe(self.read_ourselves())];
        for (keeper, token) in self.keepers.iter_mut().zip(&self.config.tokens) {
            all.extend(keeper.attest().map(|attestation| admin::Attestation {
                token: token.uri.to_string(),
                ..describe(attestation)
            }));
        }
        all.extend(self.node.attest().map(describe));
        all
    }
}

impl Node {
    /// Reads the sealed process back: it serves if it is what it says, and is ended if not.
    pub(super) fn serve_if_attested(&mut self) {
        let Some(attestation) = self.attest() else {
            return;
        };
        if attestation.mismatches.is_empty() {
            attestation.log();
            self.serve();
        }
    }

    /// What the running one is now; `None` while it is not sealed.
    fn attest(&mut self) -> Option<Attestation> {
        let attestation = sandbox::attest(&Expected {
            role: Role::Node,
            pid: self.pid()?,
            user: self.given.user,
            keeps_rights: false,
            own_profile: self.given.profile.clone(),
            report: self.sandbox.clone()?,
        });
        if !attestation.mismatches.is_empty() {
            attestation.log();
            self.faults = vec![fault(&attestation)];
            self.kill();
        }
        Some(attestation)
    }
}

fn describe(attestation: Attestation) -> admin::Attestation {
    let Attestation {
        role,
        pid,
        uid,
        capabilities: _,
        tasks,
        filters,
        report,
        mismatches,
    } = attestation;
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    admin::Attestation {
        role: role.name().into(),
        pid,
        uid,
        tasks: number(tasks),
        seccomp_filters: filters,
        profile: report.profile,
        profile_sha256: report.sha256,
        landlock: report.landlock,
        tasks_outside_landlock: number(report.outside_landlock),
        mismatches,
        token: String::new(),
    }
}
