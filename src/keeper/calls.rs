//! Which calls into the module are under way, and since when: a call that hangs cannot be cancelled,
//! so the supervisor must be able to see it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One place for each session; its thread enters it before a call and leaves it after.
#[derive(Debug)]
pub(super) struct Calls {
    epoch: Instant,
    /// Milliseconds from `epoch` to the entry, plus one; 0: nobody is inside.
    entered: Box<[AtomicU64]>,
}

/// Somebody is inside; dropping it is leaving.
pub(super) struct Inside<'a>(&'a AtomicU64);

impl Calls {
    /// Room for `places` sessions.
    pub(super) fn new(places: usize) -> Self {
        Self {
            epoch: Instant::now(),
            entered: (0..places).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The last place.
    pub(super) fn last(&self) -> usize {
        self.entered.len() - 1
    }

    /// Notes that the session at `place` is calling the module.
    pub(super) fn enter(&self, place: usize) -> Inside<'_> {
        let entered = &self.entered[place];
        entered.store(self.now() + 1, Ordering::Relaxed);
        Inside(entered)
    }

    /// How long the longest call has been under way.
    pub(super) fn longest(&self) -> Duration {
        let now = self.now() + 1;
        let entered = self
            .entered
            .iter()
            .map(|entered| entered.load(Ordering::Relaxed));
        let oldest = entered.filter(|entered| *entered != 0).min().unwrap_or(now);
        Duration::from_millis(now.saturating_sub(oldest))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
