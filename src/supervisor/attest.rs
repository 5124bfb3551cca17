//! Every process is read back from /proc before it serves, and whenever somebody asks.

use super::descriptors::OpenFiles;
use super::node::Node;
use super::{Supervisor, SupervisorError};
use crate::fault::Fault;
use crate::rpc::admin;
use crate::sandbox::{self, Attestation, Expected, Profile, Role};

/// What is wrong with a process, for the operator.
pub(super) fn fault(attestation: &Attestation) -> Fault {
    Fault::new(
        "sandbox",
        format!(
            "the {} is not confined as declared: {}",
            attestation.role.name(),
            attestation.mismatches.join("; ")
        ),
        "the node was stopped; see what starts this process (a debugger, a container's settings), and report it otherwise",
    )
}

impl Supervisor {
    /// Reads this process back and writes what it is.
    pub(super) fn attest_ourselves(&mut self) {
        let attestation = self.read_ourselves();
        if self.unsound.is_none() {
            attestation.log();
        }
    }

    fn read_ourselves(&mut self) -> Attestation {
        let config = &self.config;
        let attestation = sandbox::attest(&Expected {
            role: Role::Supervisor,
            pid: std::process::id(),
            user: None,
            keeps_rights: !config.users().is_empty(),
            profile: Profile::supervisor(config.profile.as_ref(), &config.users()).ok(),
            open_files: OpenFiles::of(config).most,
            report: self.report.clone(),
        });
        if !attestation.mismatches.is_empty() {
            attestation.log();
            self.unsound = Some(fault(&attestation));
        }
        attestation
    }

    /// An error once any process was not what it must be.
    pub(super) fn must_be_sound(&mut self) -> Result<(), SupervisorError> {
        let keepers = self.keepers.iter_mut().map(|keeper| &mut keeper.unsound);
        let all = [&mut self.unsound, &mut self.node.unsound]
            .into_iter()
            .chain(keepers);
        let faults: Vec<Fault> = all.filter_map(Option::take).collect();
        match faults.is_empty() {
            true => Ok(()),
            false if self.served => Err(SupervisorError::NotConfined(faults)),
            false => Err(SupervisorError::Faults(faults)),
        }
    }

    /// Every process as it is now. One that is not what it must be stops the node: [`Self::must_be_sound`].
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
            profile: Profile::node(self.given.profile.as_ref(), self.application).ok(),
            open_files: self.open_files,
            report: self.sandbox.clone()?,
        });
        if !attestation.mismatches.is_empty() {
            attestation.log();
            self.kill();
            if !attestation.gone {
                self.unsound = Some(fault(&attestation));
            }
        }
        Some(attestation)
    }
}

fn describe(attestation: Attestation) -> admin::Attestation {
    let Attestation {
        role,
        pid,
        tasks,
        task,
        report,
        mismatches,
        ..
    } = attestation;
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    admin::Attestation {
        role: role.name().into(),
        pid,
        uid: task.uid(),
        tasks: number(tasks),
        seccomp_filters: task.filters,
        profile: report.profile,
        profile_sha256: report.sha256,
        landlock: report.landlock,
        tasks_outside_landlock: number(report.outside_landlock),
        mismatches,
        token: String::new(),
    }
}
