//! Who has which session, who waits for one, and which places are to be opened again.
//!
//! A place is where a session was or may be; their number never changes. First come first served.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A session's place in [`super::calls::Calls`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(pub(super) usize);

/// The sessions `S` of one token.
pub(super) struct Pool<S> {
    state: Mutex<State<S>>,
    returned: Condvar,
}

struct State<S> {
    idle: Vec<S>,
    /// Places without a session.
    vacant: Vec<Place>,
    /// Until then no place is opened as long as there are sessions: the token had none to spare.
    short_until: Option<Instant>,
    borrowed: usize,
    /// Threads that wait for a session, in the order of their coming.
    waiting: VecDeque<u64>,
    next: u64,
    /// Threads that call the module in a session that is not the pool's.
    visitors: usize,
    closed: bool,
}

/// What a thread got: to be given back with [`Pool::put`] or [`Pool::vacate`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken<S> {
    Session(S),
    /// A place for a session, to be opened.
    Vacant(Place),
}

/// A thread that calls the module in a session that is not the pool's.
pub(super) struct Visit<'a, S>(&'a Pool<S>);

/// How long a token that had no session to spare is not asked for another.
const SHORTAGE: Duration = Duration::from_secs(1);

impl<S> Pool<S> {
    /// With these sessions, and places for more.
    pub(super) fn new(idle: Vec<S>, vacant: Vec<Place>) -> Self {
        Self {
            state: Mutex::new(State {
                idle,
                vacant,
                short_until: None,
                borrowed: 0,
                waiting: VecDeque::new(),
                next: 0,
                visitors: 0,
                closed: false,
            }),
            returned: Condvar::new(),
        }
    }

    /// Sessions that exist, in use or not.
    pub(super) fn sessions(&self) -> usize {
        let state = self.state();
        state.idle.len() + state.borrowed
    }

    /// A session, or the place of one that is to be opened; `None` when there was neither before
    /// `until`, or the pool is closed.
    pub(super) fn take(&self, until: Instant) -> Option<Taken<S>> {
        let mut state = self.state();
        let ours = state.next;
        state.next += 1;
        state.waiting.push_back(ours);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                state.waiting.retain(|waiting| *waiting != ours);
                self.wake(state);
                return None;
            }
            if state.waiting.front() == Some(&ours)
                && let Some(taken) = state.spare()
            {
                state.waiting.pop_front();
                state.borrowed += 1;
                self.wake(state);
                return Some(taken);
            }
            (state, _) = self
                .returned
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts a session back, or in its place.
    pub(super) fn put(&self, session: S) {
        let mut state = self.state();
        state.borrowed -= 1;
        state.idle.push(session);
        self.wake(state);
    }

    /// Gives back the place of a session that was closed.
    pub(super) fn vacate(&self, place: Place) {
        let mut state = self.state();
        state.borrowed -= 1;
        state.vacant.push(place);
        self.wake(state);
    }

    /// The same, because the token had no session to spare for it. Whether there are others to wait for.
    pub(super) fn is_short(&self, place: Place) -> bool {
        let mut state = self.state();
        state.borrowed -= 1;
        state.vacant.push(place);
        state.short_until = Some(Instant::now() + SHORTAGE);
        let others = state.has_sessions();
        self.wake(state);
        others
    }

    /// Lets a thread work beside the pool; `None` when the pool is closed.
    pub(super) fn visit(&self) -> Option<Visit<'_, S>> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        state.visitors += 1;
        Some(Visit(self))
    }

    /// Gives no more sessions out, waits for those who have one and for visitors, and returns the
    /// sessions; `None` when somebody was still at work after `patience`.
    pub(super) fn close(&self, patience: Duration) -> Option<Vec<S>> {
        let mut state = self.state();
        state.closed = true;
        self.returned.notify_all();
        let (mut state, waited) = self
            .returned
            .wait_timeout_while(state, patience, |state| state.borrowed + state.visitors > 0)
            .unwrap_or_else(PoisonError::into_inner);
        (!waited.timed_out()).then(|| std::mem::take(&mut state.idle))
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets those who wait look whose turn it is; they are few.
    fn wake(&self, state: MutexGuard<'_, State<S>>) {
        let spare = !state.idle.is_empty() || !state.vacant.is_empty();
        let wanted = state.closed || (spare && !state.waiting.is_empty());
        drop(state);
        // Waking nobody is a system call too.
        if wanted {
            self.returned.notify_all();
        }
    }
}

impl<S> State<S> {
    /// A session that nobody uses, or a place for one.
    fn spare(&mut self) -> Option<Taken<S>> {
        if let Some(session) = self.idle.pop() {
            return Some(Taken::Session(session));
        }
        let short = self
            .short_until
            .is_some_and(|until| Instant::now() < until && self.has_sessions());
        if short {
            return None;
        }
        self.vacant.pop().map(Taken::Vacant)
    }

    fn has_sessions(&self) -> bool {
        self.borrowed > 0 || !self.idle.is_empty()
    }
}

impl<S> Drop for Visit<'_, S> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.visitors -= 1;
        let last = state.closed && state.visitors == 0;
        drop(state);
        if last {
            self.0.returned.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn sessions_come_before_places_and_a_shortage_waits_for_a_session() {
        let pool = Pool::new(vec!["one"], vec![Place(1)]);
        assert_eq!(pool.take(soon()), Some(Taken::Session("one")));
        assert_eq!(pool.take(soon()), Some(Taken::Vacant(Place(1))));
        assert!(pool.is_short(Place(1)), "the other one is in use");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| pool.take(soon()));
            pool.put("one");
            assert_eq!(waiting.join().unwrap(), Some(Taken::Session("one")));
        });
        pool.vacate(Place(0));
        // Nothing is left to wait for: the places are tried, shortage or not.
        assert!(matches!(pool.take(soon()), Some(Taken::Vacant(_))));
        assert!(!pool.is_short(Place(0)));
        assert_eq!(pool.sessions(), 0);
    }

    #[test]
    fn a_closed_pool_gives_nothing_and_waits_for_who_is_inside() {
        let pool = Pool::new(vec!["one"], Vec::new());
        let taken = pool.take(soon());
        assert!(pool.close(Duration::from_millis(1)).is_none(), "in use");
        assert!(pool.take(soon()).is_none() && pool.visit().is_none());
        let Some(Taken::Session(session)) = taken else {
            panic!("{taken:?}")
        };
        pool.put(session);
        assert_eq!(pool.close(Duration::ZERO), Some(vec!["one"]));

        let pool = Pool::<()>::new(Vec::new(), Vec::new());
        let visit = pool.visit();
        assert!(pool.close(Duration::from_millis(1)).is_none());
        thread::scope(|scope| {
            let closing = scope.spawn(|| pool.close(Duration::from_secs(60)));
            drop(visit);
            assert!(closing.join().unwrap().is_some());
        });
    }
}
