//! A keeper is asked how it is, and replaced when it does not say so in time.

use std::time::{Duration, Instant};

use super::{Keeper, State};
use crate::control::{ToKeeper, Vitals};

/// How long module, login and key checks may take before the keeper counts as hung.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// The same of a token that was opened before: a few times what it took then, and at least so much, or twice
/// that after one that hung; longer now and then, see [`stretch`].
const SHORTEST_START: Duration = Duration::from_millis(1500);
/// Of the starts that follow one that hung, one in so many may take longer than the others, as a power of two.
const RARE: u32 = 4;
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

    /// It has its PIN, so that what follows depends on the token alone.
    pub(super) fn has_pin(&mut self) {
        if let State::Starting { since, typing } = &mut self.state
            && *typing
        {
            (*since, *typing) = (Instant::now(), false);
        }
    }

    pub(super) fn start_deadline(&self) -> Duration {
        // Who has asked for a start would rather wait than have it tried again.
        let Some(usual) = self.usual_start.filter(|_| !self.attended) else {
            return START_DEADLINE;
        };
        let enough = usual.saturating_mul(6);
        let deadline = match self.hung_starts {
            0 => enough.max(SHORTEST_START),
            hung => enough.max(2 * SHORTEST_START).saturating_mul(stretch(hung)),
        };
        deadline.min(START_DEADLINE)
    }
}

/// How many times as long as usual a start may take after `hung` that were too long: no longer, as a rule, since
/// a call that does not return when an outage is over holds its keeper until the deadline. One in sixteen
/// twice as long, one in 32 four times, and so on: a token that has become slow is taken up, too, some time.
fn stretch(hung: u32) -> u32 {
    let rarity = hung.saturating_add(1).trailing_zeros();
    1 << rarity.saturating_sub(RARE - 1).min(16)
}
