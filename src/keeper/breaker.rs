//! Whether a token is worth asking: what the supervisor says of it, and what we have just seen.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So many failures in a row open the breaker.
const FAILURES: u32 = 3;
/// An open breaker lets a request through again after this time.
const PAUSE: Duration = Duration::from_secs(1);

/// The breaker of one token.
#[derive(Debug)]
pub(super) struct Breaker {
    epoch: Instant,
    /// The supervisor's word: a health probe is a real signature that was verified.
    signs: AtomicBool,
    failures: AtomicU32,
    /// Milliseconds after `epoch` until which we do not ask.
    open_until: AtomicU64,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            signs: AtomicBool::new(true),
            failures: AtomicU32::new(0),
            open_until: AtomicU64::new(0),
        }
    }

    /// Takes the supervisor's word.
    pub(super) fn supervisor_says(&self, signs: bool) {
        self.signs.store(signs, Ordering::Relaxed);
    }

    /// Whether to ask this token before others.
    pub(super) fn is_closed(&self) -> bool {
        self.signs.load(Ordering::Relaxed) && self.open_until.load(Ordering::Relaxed) <= self.now()
    }

    pub(super) fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.open_until.store(0, Ordering::Relaxed);
    }

    /// `hung`: there was no answer at all, which is as bad as several failures.
    pub(super) fn failed(&self, hung: bool) {
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if hung || failures >= FAILURES {
            let pause = u64::try_from(PAUSE.as_millis()).unwrap_or(u64::MAX);
            self.open_until
                .store(self.now().saturating_add(pause), Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
