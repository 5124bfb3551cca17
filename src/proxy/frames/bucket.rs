//! What frames of one kind have cost, and may cost.

use std::io;
use std::time::{Duration, Instant};

/// What the frames of a connection may cost at once.
const BURST: u32 = 10_000;
/// And then one more in this time.
const PAUSE: Duration = Duration::from_millis(1);

/// The most that they may cost in `time`.
pub(super) fn most(time: Duration) -> u128 {
    u128::from(BURST) + time.as_millis() / PAUSE.as_millis()
}

/// What frames of one kind have cost.
#[derive(Debug)]
pub(super) struct Bucket {
    used: u32,
    pub(super) refilled: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            used: 0,
            refilled: now,
        }
    }

    pub(super) fn earn(&mut self, credit: u32) {
        self.used = self.used.saturating_sub(credit);
    }

    pub(super) fn charge(&mut self, cost: u32, now: Instant) -> io::Result<()> {
        let since = now.saturating_duration_since(self.refilled);
        let earned = since.as_millis() / PAUSE.as_millis();
        if earned > 0 {
            self.earn(u32::try_from(earned).unwrap_or(u32::MAX));
            self.refilled = now;
        }
        if self.used + cost > BURST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a flood of HTTP/2 control frames",
            ));
        }
        self.used += cost;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_comes_back() {
        let mut bucket = Bucket::new(Instant::now());
        let mut now = bucket.refilled;
        for _ in 0..10_000 {
            now += PAUSE;
            bucket.charge(1, now).unwrap();
        }
    }
}
