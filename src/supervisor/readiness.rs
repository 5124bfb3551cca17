//! Whether a token counts for readiness. Slower than its health: whoever balances load by readiness must
//! not see one slow signature, nor a keeper that is replaced in a moment, nor a token that comes and goes.

use std::time::{Duration, Instant};

/// A token that does not sign for so long no longer counts; one that only an operator can mend does not
/// at once.
const DOWN: Duration = Duration::from_secs(3);
/// One that signs for so long counts again.
const UP: Duration = Duration::from_secs(1);

/// What is seen of a token now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    Signs,
    DoesNot,
    /// And will not before somebody has come.
    WaitsForOperator,
}

/// The readiness of one token.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    /// `None` before it has signed for the first time, which needs no time to settle.
    counts: Option<bool>,
    /// Since when it is seen otherwise.
    otherwise: Option<Instant>,
}

impl Readiness {
    /// Whether it counted at the last look.
    pub(super) fn counted(&self) -> bool {
        self.counts == Some(true)
    }

    /// Whether it counts, with what is seen `now`. To be called again and again.
    pub(super) fn look(&mut self, sight: Sight, now: Instant) -> bool {
        let signs = sight == Sight::Signs;
        let counts = match self.counts {
            None => signs,
            Some(counts) if counts == signs => counts,
            Some(true) if sight == Sight::WaitsForOperator => false,
            Some(counts) => {
                let since = *self.otherwise.get_or_insert(now);
                let patience = if counts { DOWN } else { UP };
                if now.saturating_duration_since(since) < patience {
                    return counts;
                }
                signs
            }
        };
        self.otherwise = None;
        if signs || self.counts.is_some() {
            self.counts = Some(counts);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::Sight::{DoesNot, Signs, WaitsForOperator};
    use super::*;

    #[test]
    fn readiness_follows_slowly_and_at_once_where_only_an_operator_helps() {
        let start = Instant::now();
        let mut readiness = Readiness::default();
        for (milliseconds, sight, counts) in [
            (0, DoesNot, false),
            (10_000, Signs, true),
            // A keeper is replaced, again and again: each time it is back soon.
            (11_000, DoesNot, true),
            (13_900, DoesNot, true),
            (13_950, Signs, true),
            (14_000, DoesNot, true),
            (16_900, DoesNot, true),
            (17_000, DoesNot, false),
            // It comes and goes.
            (17_500, Signs, false),
            (18_000, DoesNot, false),
            (18_500, Signs, false),
            (19_400, Signs, false),
            (19_500, Signs, true),
            (19_600, WaitsForOperator, false),
            (19_700, Signs, false),
            (20_700, Signs, true),
        ] {
            let now = start + Duration::from_millis(milliseconds);
            assert_eq!(readiness.look(sight, now), counts, "at {milliseconds} ms");
        }
    }
}
