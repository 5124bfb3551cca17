//! Whether a token is worth asking: what the supervisor says of it, and what we have just seen.
//!
//! A token that failed gets no handshake as long as another token signs. It is asked for a signature that
//! nobody waits for, and believed again when that one verifies.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// So many failures in a row open the breaker.
const FAILURES: u32 = 3;
/// From the opening to the first proof that is asked for. Doubled each time it opens again, or the proof
/// fails, without a time of service between: a token that only its probes find well costs less and less.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// After so long in service the next opening is the first one again.
const SETTLED: Duration = Duration::from_secs(60);

/// What the supervisor knows of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Its keeper is there, and its health is good.
    Signs,
    /// Its health is bad, or its keeper is being replaced: asked when no other token signs.
    Doubtful,
    /// No keeper is there, and none is expected soon: nobody waits for it.
    Gone,
}

/// The breaker of one token.
#[derive(Debug)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug)]
struct State {
    standing: Standing,
    failures: u32,
    /// While it is open: when the next proof is due.
    open: Option<Instant>,
    closed_since: Instant,
    /// How often it opened or stayed open since it was last settled.
    trips: u32,
}

impl Breaker {
    /// A closed one.
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(State {
            standing: Standing::Signs,
            failures: 0,
            open: None,
            closed_since: now,
            trips: 0,
        }))
    }

    /// Takes the supervisor's word. A token that is back proves itself before others yield to it.
    pub(super) fn supervisor_says(&self, standing: Standing, now: Instant) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.standing, standing);
        if standing == Standing::Signs && before != Standing::Signs {
            state.open.get_or_insert(now);
        }
    }

    /// Whether to ask this token before others.
    pub(super) fn is_closed(&self) -> bool {
        let state = self.state();
        state.standing == Standing::Signs && state.open.is_none()
    }

    /// Whether asking is in vain.
    pub(super) fn is_gone(&self) -> bool {
        self.state().standing == Standing::Gone
    }

    /// Whether it is time to ask for a signature that nobody waits for.
    pub(super) fn wants_proof(&self, now: Instant) -> bool {
        let state = self.state();
        state.standing == Standing::Signs && state.open.is_some_and(|due| due <= now)
    }

    /// It signed. What was asked before it opened proves nothing.
    pub(super) fn succeeded(&self, now: Instant) {
        let mut state = self.state();
        state.failures = 0;
        if state.open.is_some_and(|due| due <= now) {
            state.open = None;
            state.closed_since = now;
        }
    }

    /// It did not sign. `fatal`: there was no answer at all, or a wrong one, which is as bad as several
    /// failures.
    pub(super) fn failed(&self, fatal: bool, now: Instant) {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        let trips = match state.open {
            // One of those that were under way when it opened.
            Some(due) => due <= now,
            None => fatal || state.failures >= FAILURES,
        };
        if trips {
            state.trip(now);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn trip(&mut self, now: Instant) {
        if self.open.is_none() && now.saturating_duration_since(self.closed_since) > SETTLED {
            self.trips = 0;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.trips.min(16));
        self.open = Some(now + pause.min(LONGEST_PAUSE));
        self.trips = self.trips.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn one_hang_or_three_failures_in_a_row_open_it() {
        let now = Instant::now();
        let breaker = Breaker::new(now);
        for _ in 0..5 {
            breaker.failed(false, now);
            breaker.failed(false, now);
            breaker.succeeded(now);
        }
        assert!(breaker.is_closed());
        for _ in 0..3 {
            assert!(breaker.is_closed());
            breaker.failed(false, now);
        }
        assert!(!breaker.is_closed());
        let breaker = Breaker::new(now);
        breaker.failed(true, now);
        assert!(!breaker.is_closed() && !breaker.is_gone());
    }

    #[test]
    fn only_a_proof_after_the_pause_closes_it() {
        let now = Instant::now();
        let breaker = Breaker::new(now);
        breaker.failed(true, now);
        // Those that hung with it, and one that got its signature late.
        for _ in 0..8 {
            breaker.failed(true, now + 10 * MILLISECOND);
        }
        breaker.succeeded(now + 20 * MILLISECOND);
        assert!(!breaker.is_closed() && !breaker.wants_proof(now + 499 * MILLISECOND));
        assert!(breaker.wants_proof(now + FIRST_PAUSE));
        breaker.succeeded(now + FIRST_PAUSE);
        assert!(breaker.is_closed());
    }

    #[test]
    fn a_token_that_opens_again_and_again_waits_longer_each_time_until_it_has_served_for_long() {
        let mut now = Instant::now();
        let breaker = Breaker::new(now);
        let mut pause_of = |settled: Duration| {
            now += settled;
            breaker.failed(true, now);
            let since = now;
            while !breaker.wants_proof(now) {
                now += 100 * MILLISECOND;
            }
            breaker.succeeded(now);
            (now - since).as_millis()
        };
        let pauses: Vec<_> = (0..7).map(|_| pause_of(MILLISECOND)).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 8000, 8000]);
        assert_eq!(pause_of(SETTLED + MILLISECOND), 500);
    }

    #[test]
    fn a_token_that_is_back_proves_itself_and_one_that_is_away_is_not_asked_for_proofs() {
        let now = Instant::now();
        let breaker = Breaker::new(now);
        for away in [Standing::Doubtful, Standing::Gone] {
            breaker.supervisor_says(away, now);
            assert_eq!(breaker.is_gone(), away == Standing::Gone);
            assert!(!breaker.is_closed() && !breaker.wants_proof(now));
            breaker.supervisor_says(Standing::Signs, now);
            assert!(!breaker.is_closed() && breaker.wants_proof(now));
            breaker.succeeded(now);
            assert!(breaker.is_closed());
        }
        // The word that nothing has changed changes nothing.
        breaker.supervisor_says(Standing::Signs, now);
        assert!(breaker.is_closed());
        breaker.failed(true, now);
        breaker.supervisor_says(Standing::Doubtful, now);
        breaker.supervisor_says(Standing::Signs, now);
        assert!(!breaker.wants_proof(now), "its pause stays");
    }
}
