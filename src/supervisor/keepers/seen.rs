//! A keeper as the rest of the supervisor sees it.

use std::time::Instant;

use super::heard::MOST_CODES;
use super::{Keeper, State, Totals};
use crate::control::KeeperReady;
use crate::fault::{Fault, Passing};
use crate::keeper::ask::Standing;
use crate::supervisor::readiness::Sight;

impl Keeper {
    /// Process id, when it runs.
    pub(in crate::supervisor) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.pid)
    }

    /// What it, or one before it, found in the token.
    pub(in crate::supervisor) fn known(&self) -> Option<&KeeperReady> {
        self.known.as_ref()
    }

    /// Whether it signs now.
    pub(in crate::supervisor) fn signs(&self) -> bool {
        let serves = matches!(self.state, State::Ready { .. }) && self.ending.is_none();
        serves && self.vitals.trouble.is_none()
    }

    /// How it is, for those who ask it for signatures.
    pub(in crate::supervisor) fn standing(&self) -> Standing {
        match self.state {
            State::Ready { .. } if self.signs() => Standing::Signs,
            State::Ready { .. } => Standing::Doubtful,
            State::Starting { .. } | State::Waiting | State::Queued { .. }
                if self.signed_before =>
            {
                Standing::Doubtful
            }
            _ => Standing::Gone,
        }
    }

    /// Whether it counts for readiness.
    pub(in crate::supervisor) fn counts(&mut self, now: Instant) -> bool {
        let sight = match (self.signs(), self.is_locked()) {
            (true, _) => Sight::Signs,
            (false, false) => Sight::DoesNot,
            (false, true) => Sight::WaitsForOperator,
        };
        self.readiness.look(sight, now)
    }

    /// Whether it counted for readiness at the last look.
    pub(in crate::supervisor) fn counted(&self) -> bool {
        self.readiness.counted()
    }

    /// What all its processes counted; what the last one did after its last word is lost.
    pub(in crate::supervisor) fn totals(&self) -> Totals {
        let mut totals = self.past.clone();
        let add = |total: &mut u64, more: u64| *total = total.saturating_add(more);
        add(&mut totals.signatures, self.vitals.signatures);
        add(&mut totals.refusals, self.vitals.refusals);
        for (code, count) in &self.vitals.evictions {
            if totals.evictions.len() < MOST_CODES || totals.evictions.contains_key(code) {
                add(totals.evictions.entry(code.clone()).or_default(), *count);
            }
        }
        totals
    }

    /// Whether its token was opened and checked, healthy or not.
    pub(in crate::supervisor) fn is_open(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// The token's label; its URI as long as nobody has seen it.
    pub(in crate::supervisor) fn label(&self) -> String {
        let known = self.known.as_ref().map(|known| known.label.as_str());
        // The token has the label that the configuration names, whether it was opened yet or not.
        let label = self.config.uri.label().or(known);
        label.map_or_else(|| self.config.uri.to_string(), str::to_owned)
    }

    /// Whether its token has this label, as the token or the configuration says.
    pub(in crate::supervisor) fn is_named(&self, label: &str) -> bool {
        self.label() == label || self.config.uri.label() == Some(label)
    }

    /// Whether it waits for `fastness unlock`.
    pub(in crate::supervisor) fn is_locked(&self) -> bool {
        matches!(self.state, State::Latched | State::Locked)
    }

    /// Whether an operator who comes with a PIN, or says that all is mended, is of use: it is not open, and
    /// nobody else has come.
    pub(in crate::supervisor) fn takes_unlock(&self) -> bool {
        !self.is_open() && self.unlocking.is_none()
    }

    /// Why it does not sign, for people.
    pub(in crate::supervisor) fn trouble(&self) -> String {
        let token = self.label();
        let what = match (&self.state, &self.vitals.trouble) {
            (State::Latched, _) => {
                "its PIN is not tried again by itself: mend it, then `fastness unlock`, or bring one with `--pin`"
            }
            (State::Locked, _) => "it waits for its PIN: `fastness unlock --pin prompt`",
            (State::Ready { .. }, _) if self.ending.is_some() => {
                "its process was killed, and ends when the system lets it"
            }
            (State::Ready { .. }, Some(trouble)) => trouble,
            (State::Ready { .. }, None) => "it signs again, for a moment only",
            (State::Queued { .. }, _) if self.is_undecided() => {
                "it waits while another keeper of the same token logs in"
            }
            (State::Starting { .. }, _) if self.is_undecided() => "its keeper is still opening it",
            (State::Starting { .. } | State::Waiting | State::Queued { .. }, _) => {
                "its keeper is being started again"
            }
        };
        match self.faults.first() {
            Some(fault) => format!("token {token}: {what}: {}", fault.problem),
            None => format!("token {token}: {what}"),
        }
    }

    /// Whether its first start has neither succeeded nor failed yet.
    pub(in crate::supervisor) fn is_undecided(&self) -> bool {
        !self.tried
    }

    /// Whether its PIN was refused and is not tried again.
    pub(in crate::supervisor) fn is_latched(&self) -> bool {
        matches!(self.state, State::Latched)
    }

    /// Why a keeper that never became ready is gone.
    pub(in crate::supervisor) fn exit_faults(&self) -> Vec<Fault> {
        if !self.faults.is_empty() {
            return self.faults.clone();
        }
        let fault = Fault::new(
            format!("{}.module", self.place()),
            "the module ended or hung its process while it was started",
            "see the log; try the module with `fastness token list --module …`. A module that wants memory \
             both writable and executable, or another program, is ended",
        );
        vec![match self.end_may_pass {
            true => fault.that_may_pass(Passing::Token),
            false => fault,
        }]
    }
}
