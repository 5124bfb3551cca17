//! After a refused PIN none is tried by itself, whatever becomes of the ones that operators bring.

use super::{Keeper, State};
use crate::control::Unlocked;
use crate::fault::Fault;

/// Who gave a PIN. What a token says of the source's says all about an operator's, and not the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Giver {
    Operator,
    Source,
}

/// How far a process has come with its PIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Login {
    NotBegun,
    UnderWay,
    Over,
}

impl Login {
    /// There is a verdict, unless there was nothing to judge.
    pub(super) fn end(&mut self) {
        if *self == Self::UnderWay {
            *self = Self::Over;
        }
    }
}

impl Keeper {
    /// A PIN of this giver was refused, or may have been: none is tried by itself.
    pub(super) fn latch(&mut self, giver: Giver) {
        self.refused = self.refused.max(Some(giver));
        self.state = State::Latched;
    }

    /// The token took the PIN.
    pub(super) fn accepted(&mut self) {
        if self.refused <= Some(self.giver) {
            self.refused = None;
        }
    }

    /// Tells whoever waits for it that the process is gone.
    pub(super) fn answer_end(&mut self) {
        if let Some(asked) = self.unlocking.take() {
            let faults = self.exit_faults();
            asked.answer(&match self.login {
                Login::NotBegun => Unlocked::NotTried(faults),
                Login::UnderWay | Login::Over => Unlocked::Refused(faults),
            });
        }
    }

    /// Latches when the process has had a verdict, when one that holds for it came before, and when it had none
    /// from a token that has taken no PIN of ours, or may have refused it last. Whether that is news to its twins.
    pub(super) fn latch_at_end(&mut self) -> Option<bool> {
        if let Some(fault) = self.held_back.take() {
            self.note(vec![fault]);
            self.latch(Giver::Source);
        }
        if self.login == Login::UnderWay && !self.trusted {
            self.note(vec![Fault::new(
                format!("{}.pin", self.place()),
                "the module ended or hung its process during the login: whether the PIN is right is not known",
                "see the log and the module, then try again",
            )]);
            self.latch(self.giver);
        }
        if self.is_latched() {
            return Some(true);
        }
        let giver = self.refused?;
        if self.faults.is_empty() {
            self.note(vec![Fault::new(
                format!("{}.pin", self.place()),
                "the process that an operator's PIN had opened is gone, and the source's was refused",
                "mend the source, then `fastness unlock`; or `fastness unlock --pin prompt`",
            )]);
        }
        self.latch(giver);
        Some(false)
    }
}
