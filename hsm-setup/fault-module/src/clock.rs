//! Waiting without anything that a confined process may not do: clock_gettime (no system call on
//! Linux) and clock_nanosleep.

use std::ptr;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How long a wait may take to notice that its rule is gone, ns.
const NOTICE_NS: u64 = 50_000_000;

/// CLOCK_MONOTONIC in ns: the same for all processes.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Sleeps until `end`, or until `epoch` is no longer `seen` (noticed within 50 ms).
pub(crate) fn wait_until(end: u64, epoch: &AtomicU32, seen: u32) {
    loop {
        let now = now();
        if now >= end || epoch.load(Acquire) != seen {
            return;
        }
        sleep_until(end.min(now + NOTICE_NS));
    }
}

fn sleep_until(end: u64) {
    let time = libc::timespec {
        tv_sec: i64::try_from(end / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(end % 1_000_000_000).unwrap_or(0),
    };
    // SAFETY: `time` is valid; no remainder is asked for. A signal ends it early: the caller looks
    // at the clock again.
    unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &raw const time,
            ptr::null_mut(),
        );
    }
}

/// A number in `0..bound` that is good enough for jitter (splitmix64 over a counter and the clock).
pub(crate) fn spread(bound: u64) -> u64 {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let count = CALLS.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    let mut word = count ^ now();
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ (word >> 31)) % bound.max(1)
}
