//! When to start a role again.

use std::time::{Duration, Instant};

/// At once the first time, then doubling from 100 ms to half a second, so that a token that is back is
/// in use within two; a minute of service starts it over.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    serving_since: Option<Instant>,
}

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_millis(500);
const SETTLED: Duration = Duration::from_secs(60);

impl Backoff {
    /// The role became ready.
    pub(super) fn started(&mut self) {
        self.serving_since = Some(Instant::now());
    }

    /// The role is gone: the time of the next start.
    pub(super) fn next(&mut self) -> Instant {
        let settled = self
            .serving_since
            .take()
            .is_some_and(|since| since.elapsed() > SETTLED);
        if settled {
            self.failures = 0;
        }
        let wait = match self.failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => FIRST.saturating_mul(1 << doublings.min(16)).min(LONGEST),
        };
        self.failures += 1;
        Instant::now() + wait
    }
}
