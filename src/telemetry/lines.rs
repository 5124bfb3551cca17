//! A bound on lines of one kind, so that whoever causes them cannot flood the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines at once.
const BURST: u32 = 100;
/// And then one in this time.
const PAUSE: Duration = Duration::from_millis(50);

/// The lines of one kind.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    used: u32,
    refilled: Option<Instant>,
    unlogged: u64,
}

impl Lines {
    /// Whether to write a line now, and how many were not written since the last one.
    pub(crate) fn take(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refilled = *state.refilled.get_or_insert(now);
        let earned = now.saturating_duration_since(refilled).as_millis() / PAUSE.as_millis();
        if earned > 0 {
            state.used = state
                .used
                .saturating_sub(u32::try_from(earned).unwrap_or(u32::MAX));
            state.refilled = Some(now);
        }
        if state.used < BURST {
            state.used += 1;
            Some(std::mem::take(&mut state.unlogged))
        } else {
            state.unlogged += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let (lines, start) = (Lines::default(), Instant::now());
        let written = (0..1000).filter(|_| lines.take(start).is_some()).count();
        assert_eq!(written, 100);
        assert_eq!(lines.take(start + PAUSE), Some(900));
        assert_eq!(lines.take(start + PAUSE), None);
        assert_eq!(lines.take(start + 100 * PAUSE), Some(1));
    }
}
