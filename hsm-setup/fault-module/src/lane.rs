//! Delays: how long a call takes, and how many are served at once.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use crate::clock;
use crate::state::{Cell, MAX_LANES};

/// The time a call has been given. With lanes it is booked: the call that comes first is served
/// first, and never more than so many at once. A process that is killed leaves a booking that runs
/// out by itself.
pub(crate) struct Booking<'a> {
    cell: &'a Cell,
    epoch: u32,
    start: u64,
    end: u64,
    lane: Option<&'a AtomicU64>,
}

impl<'a> Booking<'a> {
    /// Books the next time that is free.
    pub(crate) fn take(cell: &'a Cell) -> Self {
        let epoch = cell.delay_epoch.load(Acquire);
        let length = length(cell.delay_ns.load(Acquire), cell.jitter_ns.load(Acquire));
        let lanes = &cell.lane[..(cell.lanes.load(Acquire) as usize).min(MAX_LANES)];
        let now = clock::now();
        loop {
            let free = lanes
                .iter()
                .map(|lane| (lane.load(Acquire), lane))
                .min_by_key(|free| free.0);
            let Some((taken, lane)) = free else {
                return Self {
                    cell,
                    epoch,
                    start: now,
                    end: now + length,
                    lane: None,
                };
            };
            let start = now.max(taken);
            let end = start + length;
            if lane.compare_exchange(taken, end, AcqRel, Acquire).is_ok() {
                return Self {
                    cell,
                    epoch,
                    start,
                    end,
                    lane: Some(lane),
                };
            }
        }
    }

    /// Waits until it begins.
    pub(crate) fn begin(&self) {
        clock::wait_until(self.start, &self.cell.delay_epoch, self.epoch);
    }

    /// Waits until it ends. When the wrapped module itself took longer than that, so did the lane.
    pub(crate) fn end(self) {
        let now = clock::now();
        if now < self.end {
            clock::wait_until(self.end, &self.cell.delay_epoch, self.epoch);
        } else if let Some(lane) = self.lane {
            // Unless someone has booked behind us: that call starts a little early.
            let _ = lane.compare_exchange(self.end, now, AcqRel, Acquire);
        }
    }
}

fn length(delay: u64, jitter: u64) -> u64 {
    (delay + clock::spread(2 * jitter + 1)).saturating_sub(jitter)
}

#[cfg(test)]
mod tests {
    #[test]
    fn jitter_stays_within_its_bounds() {
        for _ in 0..1000 {
            assert!((15..=25).contains(&super::length(20, 5)));
        }
        assert_eq!(super::length(20, 0), 20);
    }
}
