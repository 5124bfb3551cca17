//! The lane: the few threads on which handshakes compute and wait for the token, so that no thread
//! that serves ever does.
//!
//! As wide as the tokens have sessions and one more, which computes what is to be signed next while
//! every session signs, in the order of [`admission`](crate::admission), and of lower
//! priority than the threads that serve. Bytes and TLS state go in and out; timers and futures stay
//! with the caller's runtime, so a caller may give up at any time, and so do sockets, but for an
//! answer that is sent from here when the socket takes it without waiting. All threads exist
//! from the start: a process that is sealed afterwards needs no `clone(2)`.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, Thread};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::admission::{Class, Hopeless, Number, Queue, Ticket, Turn, Width};
use crate::telemetry::metrics::Histogram;

/// So much higher is nice(2) of the lane's threads: established calls come first on a busy machine.
const NICER: i32 = 10;

/// The threads of handshakes. Dropping it ends them after the work that is queued.
pub struct Lane {
    shared: Arc<Shared>,
    threads: usize,
}

/// Why work was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// Too much is waiting already.
    #[error("too many handshakes are waiting for the token")]
    Full,
    /// Its turn would come too late.
    #[error("the token is too slow to answer before the deadline")]
    TooLate,
    /// The lane ended before the work was done: a bug.
    #[error("the lane of handshakes is gone")]
    Gone,
}

type Job = Box<dyn FnOnce() + Send>;

struct Shared {
    state: Mutex<State>,
    /// By [`Class::index`].
    waits: [Histogram; 3],
}

struct State {
    queue: Queue<Job>,
    /// Threads without work. The last one to become idle is the first to be woken: its stack and its
    /// heap are still in the caches, which a condition variable, waking in turn, would make cold.
    idle: Vec<Thread>,
    closed: bool,
}

impl Lane {
    /// Starts so many threads, at least one, each at lower priority.
    ///
    /// # Errors
    /// When a thread cannot be started or its priority not be lowered.
    pub fn start(width: Width) -> io::Result<Self> {
        let threads = width.threads.max(1);
        let lane = Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    queue: Queue::new(width),
                    idle: Vec::new(),
                    closed: false,
                }),
                waits: Default::default(),
            }),
            threads,
        };
        let (started, outcomes) = mpsc::channel();
        for number in 0..threads {
            let (shared, started) = (lane.shared.clone(), started.clone());
            thread::Builder::new()
                .name(format!("lane-{number}"))
                .spawn(move || {
                    // On Linux the priority belongs to the calling thread (setpriority(2), "C library/
                    // kernel differences"). Never raised, which is not allowed: whoever started us may
                    // have lowered it.
                    let lowered = rustix::process::nice(NICER);
                    let failed = lowered.is_err();
                    let heard = started.send(lowered.map(drop).map_err(io::Error::from));
                    drop(started);
                    if !failed && heard.is_ok() {
                        shared.work();
                    }
                })?;
        }
        drop(started);
        outcomes.into_iter().collect::<io::Result<()>>()?;
        Ok(lane)
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// How many of a class wait for a thread.
    pub fn waiting(&self, class: Class) -> usize {
        self.shared.lock().queue.waiting(class)
    }

    /// Whether work waits for a thread.
    pub fn is_busy(&self) -> bool {
        let state = self.shared.lock();
        Class::ALL
            .into_iter()
            .any(|class| state.queue.waiting(class) > 0)
    }

    /// How many of a class have a thread.
    pub fn running(&self, class: Class) -> usize {
        self.shared.lock().queue.running(class)
    }

    /// How long those of a class have waited.
    pub fn waits(&self, class: Class) -> &Histogram {
        &self.shared.waits[class.index()]
    }

    /// Does `work` on a thread of the lane when its turn comes. Dropping the future takes work that
    /// has not begun out of the queue.
    ///
    /// # Errors
    /// [`LaneError`].
    pub(super) async fn run<T: Send + 'static>(
        &self,
        ticket: Ticket,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LaneError> {
        let loud = || Outcome::Loud(work());
        self.run_until(ticket, loud, std::future::pending()).await
    }

    /// The same, for work after which there may be nothing to do before `news`: a result that is
    /// [`Outcome::Quiet`] is not worth a change of threads, and waits until then.
    ///
    /// # Errors
    /// [`LaneError`].
    pub(super) async fn run_until<T: Send + 'static>(
        &self,
        ticket: Ticket,
        work: impl FnOnce() -> Outcome<T> + Send + 'static,
        news: impl Future<Output = ()>,
    ) -> Result<T, LaneError> {
        let (loud, mut heard) = oneshot::channel();
        let (quiet, found) = oneshot::channel();
        // Nobody hears it when the caller gave up meanwhile.
        let job = Box::new(move || match work() {
            Outcome::Loud(result) => drop(loud.send(result)),
            // The sender goes with the result: dropping it would wake the caller.
            Outcome::Quiet(result) => drop(quiet.send((result, loud))),
        });
        let number = self.shared.push(ticket, job)?;
        let _withdrawing = Withdrawing {
            shared: &self.shared,
            number,
        };
        tokio::select! {
            biased;
            result = &mut heard => return result.or(Err(LaneError::Gone)),
            () = news => {}
        }
        match found.await {
            Ok((result, _)) => Ok(result),
            Err(_) => heard.await.or(Err(LaneError::Gone)),
        }
    }
}

/// Whether the caller is woken for a result.
pub(super) enum Outcome<T> {
    /// At once.
    Loud(T),
    /// Not before the news that it waits for.
    Quiet(T),
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.idle.drain(..).for_each(|thread| thread.unpark());
    }
}

/// Takes a job out of the queue when its caller is gone.
struct Withdrawing<'a> {
    shared: &'a Shared,
    number: Number,
}

impl Drop for Withdrawing<'_> {
    fn drop(&mut self) {
        let withdrawn = self.shared.lock().queue.withdraw(self.number);
        // It holds a whole handshake: not under the lock.
        drop(withdrawn);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, ticket: Ticket, job: Job) -> Result<Number, LaneError> {
        let mut state = self.lock();
        let pushed = state.queue.push(ticket, job, Instant::now());
        let number = pushed.map_err(|hopeless| match hopeless {
            Hopeless::Full => LaneError::Full,
            Hopeless::TooLate => LaneError::TooLate,
        })?;
        let idle = state.idle.pop();
        drop(state);
        if let Some(idle) = idle {
            idle.unpark();
        }
        Ok(number)
    }

    fn work(&self) {
        while let Some(turn) = self.next() {
            self.waits[turn.number.class().index()].observe(turn.waited);
            // A panic ends the process: see `sandbox::panic`.
            (turn.work)();
            self.lock().queue.done(turn.number, Instant::now());
        }
        // Threads that wait because strangers have their share learn that there is nothing left.
        self.lock()
            .idle
            .drain(..)
            .for_each(|thread| thread.unpark());
    }

    fn next(&self) -> Option<Turn<Job>> {
        let ourselves = thread::current();
        let mut state = self.lock();
        loop {
            if let Some(turn) = state.queue.pop(Instant::now()) {
                return Some(turn);
            }
            if state.closed
                && Class::ALL
                    .into_iter()
                    .all(|class| state.queue.waiting(class) == 0)
            {
                return None;
            }
            state.idle.push(ourselves.clone());
            drop(state);
            thread::park();
            state = self.lock();
            // Parking may end without reason (std::thread::park): then we still stand among the idle.
            state.idle.retain(|idle| idle.id() != ourselves.id());
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting: usize = Class::ALL
            .into_iter()
            .map(|class| self.waiting(class))
            .sum();
        write!(f, "Lane({} threads, {waiting} waiting)", self.threads)
    }
}

#[cfg(test)]
mod tests;
