//! A token bucket: so many a second, and at most one second's worth at once.

use std::time::{Duration, Instant};

/// What is left of a rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// Nanoseconds' worth of the rate, so that no fraction is lost: one costs 1 s / rate.
    saved: Duration,
    filled: Instant,
}

const FULL: Duration = Duration::from_secs(1);

impl Bucket {
    /// A full one.
    pub(super) fn full(now: Instant) -> Self {
        Self {
            saved: FULL,
            filled: now,
        }
    }

    /// Takes one of `rate` a second. False when there is none, always so with the rate 0.
    #[must_use]
    pub(super) fn take(&mut self, rate: u32, now: Instant) -> bool {
        self.fill(now);
        let Some(price) = FULL.checked_div(rate) else {
            return false;
        };
        match self.saved.checked_sub(price) {
            Some(left) => {
                self.saved = left;
                true
            }
            None => false,
        }
    }

    /// Whether it is as good as new.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.saved == FULL
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        self.saved = self.saved.saturating_add(passed).min(FULL);
        self.filled = self.filled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_second_s_worth_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::full(start);
        let taken = |bucket: &mut Bucket, now| (0..1000).filter(|_| bucket.take(7, now)).count();
        assert_eq!(taken(&mut bucket, start), 7);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(500)), 3);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(1000)), 4);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(100)), 7);
        // A clock that stands still or goes back gives nothing.
        assert_eq!(taken(&mut bucket, start), 0);
    }

    #[test]
    fn the_rate_zero_gives_nothing() {
        let now = Instant::now();
        assert!(!Bucket::full(now).take(0, now));
    }
}
