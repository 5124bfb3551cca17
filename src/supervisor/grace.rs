//! How long a start waits for the other tokens once one is open: one that hangs must not keep the rest waiting.

use std::time::{Duration, Instant};

/// Most tokens that are there open within this time of each other. What opens later is taken up then.
const GRACE: Duration = Duration::from_secs(2);

/// The time that tokens which are not open yet have left.
#[derive(Debug, Default)]
pub(super) struct Grace {
    /// When the first one was seen open.
    since: Option<Instant>,
}

impl Grace {
    /// Whether it is over `now`, when a token is open. To be called again and again.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        now.saturating_duration_since(since) >= GRACE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_the_first_open_token_and_not_anew_with_the_next() {
        let start = Instant::now();
        let mut grace = Grace::default();
        for (milliseconds, over) in [(0, false), (1900, false), (2000, true), (2100, true)] {
            let now = start + Duration::from_millis(milliseconds);
            assert_eq!(grace.is_over(now), over, "at {milliseconds} ms");
        }
    }
}
