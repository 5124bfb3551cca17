//! Whether a keeper's process is what it must be.

use super::Keeper;
use crate::control::KeeperReady;
use crate::sandbox;
use crate::supervisor::attest;

impl Keeper {
    /// Whether the process is what it says of its confinement; if not, it is replaced.
    pub(super) fn is_attested(&mut self, ready: &KeeperReady) -> bool {
        let Some(pid) = self.pid() else { return false };
        let attestation = sandbox::attest(&self.expected(pid, ready));
        attestation.log();
        self.judge(&attestation);
        attestation.mismatches.is_empty()
    }

    /// Ends one that is not what it must be.
    fn judge(&mut self, attestation: &sandbox::Attestation) {
        if attestation.mismatches.is_empty() {
            return;
        }
        if !attestation.gone {
            let fault = attest::fault(attestation);
            self.note(vec![fault.clone()]);
            self.unsound = Some(fault);
        }
        self.replace("it is not confined as declared");
    }

    /// The profile follows from its token's maker: which one that is, is taken from the first keeper that
    /// saw the token, and it does not change.
    fn expected(&self, pid: u32, ready: &KeeperReady) -> sandbox::Expected {
        let maker = sandbox::Maker::of(&self.known.as_ref().unwrap_or(ready).manufacturer);
        sandbox::Expected {
            role: sandbox::Role::Keeper,
            pid,
            user: self.config.user,
            keeps_rights: false,
            profile: sandbox::Profile::keeper(maker, self.config.profile.as_ref()).ok(),
            open_files: crate::keeper::role::open_files(self.channels.node_ends().count()),
            report: ready.sandbox.clone(),
        }
    }

    /// What it is now, of the one that is ready; replaced when it is not what it must be.
    pub(in crate::supervisor) fn attest(&mut self) -> Option<sandbox::Attestation> {
        let ready = self.known.as_ref().filter(|_| self.is_open())?;
        let attestation = sandbox::attest(&self.expected(self.pid()?, ready));
        if !attestation.mismatches.is_empty() {
            attestation.log();
        }
        self.judge(&attestation);
        Some(attestation)
    }
}
