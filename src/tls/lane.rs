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

use crate::admission::{Class, Hopeless, Number, Queue, Ticket, Turn};
use crate::telemetry::metrics::Histogram;

/// nice(2) of the lane's threads: established calls come first on a busy machine.
const NICE: i32 = 10;

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
    /// Starts so many `threads`, at least one, each at lower priority.
    ///
    /// # Errors
    /// When a thread cannot be started or its priority not be lowered.
    pub fn start(threads: usize) -> io::Result<Self> {
        let threads = threads.max(1);
        let lane = Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    queue: Queue::new(threads),
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
                    // kernel differences").
                    let lowered = rustix::process::setpriority_process(None, NICE);
                    let failed = lowered.is_err();
                    let heard = started.send(lowered.map_err(io::Error::from));
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
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};
    use std::time::Duration;

    use super::*;
    use crate::admission::Step;

    fn ticket(class: Class) -> Ticket {
        Ticket {
            class,
            step: Step::First,
            source: None,
            until: Instant::now() + Duration::from_secs(60),
        }
    }

    const LISTED: Class = Class::Listed;

    #[tokio::test]
    async fn work_is_done_in_the_order_of_its_coming_and_at_lower_priority() {
        let ours = rustix::process::getpriority_process(None);
        let lane = Lane::start(1).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut all = Vec::new();
        for number in 0..20 {
            let order = order.clone();
            all.push(lane.run(ticket(LISTED), move || {
                order.lock().unwrap().push(number);
                rustix::process::getpriority_process(None).unwrap()
            }));
        }
        for work in all {
            assert_eq!(work.await, Ok(NICE));
        }
        assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
        assert_eq!(rustix::process::getpriority_process(None), ours);
        assert_eq!(lane.waits(LISTED).count(), 20);
        assert_eq!(lane.waits(Class::Own).count(), 0);
    }

    #[tokio::test]
    async fn work_that_was_given_up_is_not_done_and_leaves_the_queue() {
        let lane = Lane::start(1).unwrap();
        let (release, held) = mpsc::channel::<()>();
        let mut first = Box::pin(lane.run(ticket(LISTED), move || held.recv()));
        assert!(polled_once(&mut first).await.is_none());
        while lane.waiting(LISTED) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let done = Arc::new(Mutex::new(0));
        let mut waiting = Vec::new();
        for _ in 0..100 {
            let done = done.clone();
            let mut work = Box::pin(lane.run(ticket(LISTED), move || *done.lock().unwrap() += 1));
            assert!(polled_once(&mut work).await.is_none());
            waiting.push(work);
        }
        assert_eq!(lane.waiting(LISTED), 100);
        drop(waiting.split_off(1));
        assert_eq!(lane.waiting(LISTED), 1);
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        waiting.pop().unwrap().await.unwrap();
        assert_eq!(lane.run(ticket(LISTED), || 1).await, Ok(1));
        assert_eq!(*done.lock().unwrap(), 1);
    }

    #[tokio::test]
    async fn strangers_leave_a_thread_to_the_others_and_a_closed_lane_does_what_is_queued() {
        let lane = Lane::start(4).unwrap();
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let mut strangers = Vec::new();
        for _ in 0..20 {
            let held = held.clone();
            let mut work = Box::pin(lane.run(ticket(Class::Stranger), move || {
                held.lock().unwrap().recv().is_err()
            }));
            assert!(polled_once(&mut work).await.is_none());
            strangers.push(work);
        }
        for class in [Class::Own, LISTED] {
            assert_eq!(lane.run(ticket(class), || 1).await, Ok(1));
        }
        while lane.running(Class::Stranger) < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(lane.waiting(Class::Stranger), 17);
        drop(release);
        for work in strangers {
            assert_eq!(work.await, Ok(true));
        }
        let shared = Arc::downgrade(&lane.shared);
        drop(lane);
        while shared.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn work_whose_turn_would_come_too_late_is_refused_at_once() {
        let lane = Lane::start(1).unwrap();
        lane.run(ticket(LISTED), || thread::sleep(Duration::from_millis(30)))
            .await
            .unwrap();
        let (_release, held) = mpsc::channel::<()>();
        let mut first = Box::pin(lane.run(ticket(LISTED), move || held.recv()));
        assert!(polled_once(&mut first).await.is_none());
        let mut waiting = Vec::new();
        for _ in 0..20 {
            let mut work = Box::pin(lane.run(ticket(LISTED), || ()));
            assert!(polled_once(&mut work).await.is_none());
            waiting.push(work);
        }
        let soon = Ticket {
            until: Instant::now() + Duration::from_millis(10),
            ..ticket(LISTED)
        };
        let mut late = Box::pin(lane.run(soon, || ()));
        assert_eq!(polled_once(&mut late).await, Some(Err(LaneError::TooLate)));
    }

    #[tokio::test]
    async fn a_quiet_result_wakes_nobody_before_the_news_and_a_loud_one_does() {
        #[derive(Default)]
        struct Woken(AtomicUsize);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let lane = Lane::start(1).unwrap();
        for (quiet, wakes) in [(true, 0), (false, 1)] {
            let outcome = if quiet { Outcome::Quiet } else { Outcome::Loud };
            let (tell, told) = oneshot::channel::<()>();
            let news = async { drop(told.await) };
            let (release, held) = mpsc::channel::<()>();
            let done = move || {
                held.recv().unwrap();
                outcome(7)
            };
            let mut work = pin!(lane.run_until(ticket(LISTED), done, news));
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(woken.clone());
            let polled = work.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            release.send(()).unwrap();
            // The lane has one thread: when the next work is done, this one is.
            lane.run(ticket(LISTED), || ()).await.unwrap();
            assert_eq!(woken.0.load(Ordering::SeqCst), wakes, "quiet: {quiet}");
            tell.send(()).unwrap();
            assert_eq!(work.await, Ok(7));
        }
    }

    #[tokio::test]
    async fn news_before_the_work_is_done_lose_no_result() {
        let lane = Lane::start(1).unwrap();
        for outcome in [Outcome::Quiet, Outcome::Loud] {
            let (release, held) = mpsc::channel::<()>();
            let work = move || {
                held.recv().unwrap();
                outcome(7)
            };
            let mut work = Box::pin(lane.run_until(ticket(LISTED), work, async {}));
            assert!(polled_once(&mut work).await.is_none());
            release.send(()).unwrap();
            assert_eq!(work.await, Ok(7));
        }
    }

    async fn polled_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            let polled = std::pin::Pin::new(&mut *future).poll(context);
            std::task::Poll::Ready(match polled {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
