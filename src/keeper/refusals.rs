//! Refused requests are counted, and logged at a rate that cannot stall the keeper or fill a disk.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::message::Refusal;

/// One line in this time; the count says how many there were.
const INTERVAL: Duration = Duration::from_secs(1);

/// The refusals of one keeper.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Tally>);

#[derive(Debug, Default)]
struct Tally {
    total: u64,
    unlogged: u64,
    logged_at: Option<Instant>,
}

impl Refusals {
    /// How many there were.
    pub(super) fn total(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).total
    }

    /// Counts one refusal.
    pub(super) fn note(&self, refusal: Refusal) {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tally.total += 1;
        tally.unlogged += 1;
        let now = Instant::now();
        if tally.logged_at.is_none_or(|at| now - at >= INTERVAL) {
            tracing::warn!(
                violation = %refusal,
                since_last_line = tally.unlogged,
                total = tally.total,
                "request refused: the node asked for what it may not have"
            );
            tally.logged_at = Some(now);
            tally.unlogged = 0;
        }
    }
}
