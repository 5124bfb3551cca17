//! Answers of one connection that its other side does not take.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::budget::Budget;
use super::pump::Broken;
use super::{Code, Refusal};

/// Calls of one connection whose other side does not take the answer; after so many it is closed. One is
/// forgiven in the time that a call may stall.
const MOST_STALLED: u32 = 16;

/// What services of ours have answered and has to wait.
#[derive(Debug)]
pub(super) struct Untaken {
    budget: Budget,
    stalled: AtomicU32,
}

impl Untaken {
    /// `most`: bytes of all answers together.
    pub(super) fn new(most: usize) -> Self {
        Self {
            budget: Budget::new(most),
            stalled: AtomicU32::new(0),
        }
    }

    /// A piece of `bytes` bytes has to wait until more of it is taken.
    ///
    /// # Errors
    /// Too much waits already.
    pub(super) fn wait(&self, bytes: usize) -> Result<Waiting<'_>, Broken> {
        let within = self.budget.change(0, bytes);
        let waiting = Waiting {
            untaken: self,
            bytes,
            over: !within,
        };
        match within {
            true => Ok(waiting),
            false => Err(Broken::Refused(Refusal {
                code: Code::ResourceExhausted,
                message: "too much of this connection's answers is not taken".into(),
            })),
        }
    }

    /// How many answers stalled since the last look.
    pub(super) fn stalled(&self) -> u32 {
        self.stalled.swap(0, Ordering::Relaxed)
    }
}

/// A piece that waits. When it is dropped before the wait is over, its call has ended for want of room, by whatever
/// clock: it has stalled.
pub(super) struct Waiting<'a> {
    untaken: &'a Untaken,
    bytes: usize,
    over: bool,
}

impl Waiting<'_> {
    /// The call goes on, or has ended for another reason.
    pub(super) fn end(mut self) {
        self.over = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.untaken.budget.give_back(self.bytes);
        if !self.over {
            self.untaken.stalled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Answers that were not taken in time.
pub(super) struct Stalls {
    patience: Duration,
    count: u32,
    forgiven: Instant,
}

impl Stalls {
    /// `patience`: how long a call may stall.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            count: 0,
            forgiven: Instant::now(),
        }
    }

    /// Another one.
    pub(super) fn note(&mut self) {
        while self.count > 0 && self.forgiven.elapsed() >= self.patience {
            self.count -= 1;
            self.forgiven += self.patience;
        }
        if self.count == 0 {
            self.forgiven = Instant::now();
        }
        self.count += 1;
    }

    pub(super) fn are_too_many(&self) -> bool {
        self.count >= MOST_STALLED
    }
}
