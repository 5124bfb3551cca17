//! A keeper is asked how it is, and replaced when it does not say so in time.

use std::time::{Duration, Instant};

use super::{Keeper, State};
use crate::control::{ToKeeper, Vitals};

/// How long module, login and key checks may take before the keeper counts as hung.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// The same of a token that was opened before: a few times what it took then, and at least so much. Doubled
/// each time it was not enough, so that a token that has become slow is still taken up.
const SHORTEST_START: Duration = Duration::from_millis(1500);
/// How long a process that is to end may take.
const LAST_RITES: Duration = Duration::from_secs(2);
/// A keeper answers a poll from a thread that never calls the module; one that does not within this
/// time is stopped or starved.
const POLL_DEADLINE: Duration = Duration::from_secs(3);

impl Keeper {
    /// Takes in its answer to a poll.
    pub(super) fn take_vitals(&mut self, vitals: Vitals) {
        if let State::Ready { polled } = &mut self.state {
            *polled = None;
        }
        if vitals.trouble != self.vitals.trouble {
            match &vitals.trouble {
                Some(trouble) => {
                    tracing::error!(token = self.index, trouble, "the token does not sign")
                }
                None => tracing::info!(token = self.index, "the token signs again"),
            }
        }
        let hung = vitals.longest_call > self.sign_deadline;
        self.vitals = vitals;
        if hung {
            self.replace("a call into the module hangs");
        }
    }

    /// Asks how it is, and kills it when it has not answered for too long.
    pub(in crate::supervisor) fn poll(&mut self) {
        if let Some(since) = self.ending {
            if since.elapsed() > LAST_RITES {
                self.kill();
            }
            return;
        }
        match &mut self.state {
            State::Starting {
                since,
                typing: false,
            } => {
                let since = *since;
                if since.elapsed() > self.start_deadline() {
                    self.hung_starts += 1;
                    self.replace("not ready in time");
                }
            }
            State::Ready {
                polled: Some(since),
            } => {
                if since.elapsed() > POLL_DEADLINE {
                    self.replace("it does not answer");
                }
            }
            State::Ready { polled } => {
                *polled = Some(Instant::now());
                if let Some(child) = &self.child
                    && !child.tell(&ToKeeper::Poll)
                {
                    self.replace("it does not read its orders");
                }
            }
            State::Starting { .. }
            | State::Waiting
            | State::Queued { .. }
            | State::Latched
            | State::Locked => {}
        }
    }

    fn start_deadline(&self) -> Duration {
        let Some(usual) = self.usual_start else {
            return START_DEADLINE;
        };
        let first = usual.saturating_mul(6).max(SHORTEST_START);
        first
            .saturating_mul(1 << self.hung_starts.min(16))
            .min(START_DEADLINE)
    }
}
