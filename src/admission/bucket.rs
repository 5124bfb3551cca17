//! A token bucket: so many a second, and no more than so many at once.

use std::time::{Duration, Instant};

/// How fast a bucket fills, and how much is in a full one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) a_second: u32,
    pub(super) at_once: u32,
}

impl Rate {
    /// So many a second, and one second's worth at once.
    pub(super) fn of(a_second: u32) -> Self {
        Self {
            a_second,
            at_once: a_second,
        }
    }

    /// The time in which one comes. `None` when none ever does.
    fn price(self) -> Option<Duration> {
        Duration::from_secs(1).checked_div(self.a_second)
    }
}

/// What is gone of a rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// The time until it is full again, so that no fraction is lost.
    gone: Duration,
    filled: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn full(now: Instant) -> Self {
        Self {
            gone: Duration::ZERO,
            filled: now,
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// There is none before so long a time.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        let price = rate.price().ok_or(Duration::MAX)?;
        let gone = self.gone + price;
        match gone.saturating_sub(price * rate.at_once) {
            Duration::ZERO => self.gone = gone,
            wait => return Err(wait),
        }
        Ok(())
    }

    /// Puts one back.
    pub(super) fn put(&mut self, rate: Rate) {
        let price = rate.price().unwrap_or_default();
        self.gone = self.gone.saturating_sub(price);
    }

    /// Whether it is as good as new.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.gone.is_zero()
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        self.gone = self.gone.saturating_sub(passed);
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
        let rate = Rate::of(7);
        let taken = |bucket: &mut Bucket, now| {
            let takes = (0..1000).filter(|_| bucket.take(rate, now).is_ok());
            takes.count()
        };
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
        assert!(Bucket::full(now).take(Rate::of(0), now).is_err());
    }

    #[test]
    fn an_empty_one_says_when_there_is_one_and_what_is_put_back_can_be_taken_again() {
        let start = Instant::now();
        let mut bucket = Bucket::full(start);
        let rate = Rate {
            a_second: 10,
            at_once: 3,
        };
        for _ in 0..3 {
            bucket.take(rate, start).unwrap();
        }
        let wait = bucket.take(rate, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        bucket.put(rate);
        bucket.take(rate, start).unwrap();
        bucket.take(rate, start + wait).unwrap();
        assert!(bucket.take(rate, start + wait).is_err());
        // No more than there was.
        (0..9).for_each(|_| bucket.put(rate));
        assert_eq!(
            (0..9).filter(|_| bucket.take(rate, start).is_ok()).count(),
            3
        );
    }
}
