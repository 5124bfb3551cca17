//! The lane: the few threads on which handshakes compute and wait for the token, so that no thread
//! that serves ever does.
//!
//! As wide as the token has sessions, first come first served, and of lower priority than the
//! threads that serve. Only bytes and TLS state go in and out; sockets, timers and futures stay
//! with the caller's runtime, so a caller may give up at any time. All threads exist from the start:
//! a process that is sealed afterwards needs no `clone(2)`.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, Thread};

use tokio::sync::oneshot;

/// nice(2) of the lane's threads: established calls come first on a busy machine.
const NICE: i32 = 10;
/// Longer queues are refused: at 400 signatures a second this is ten seconds, which is more than
/// any handshake may take.
const LONGEST_QUEUE: usize = 4096;

/// The threads of handshakes. Dropping it ends them after the work that is queued.
pub struct Lane {
    shared: Arc<Shared>,
    sessions: usize,
}

/// Why work was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// Too much is waiting already.
    #[error("too many handshakes are waiting for the token")]
    Full,
    /// The work panicked: a bug.
    #[error("a handshake panicked")]
    Panicked,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads without work. The last one to become idle is the first to be woken: its stack and its
    /// heap are still in the caches, which a condition variable, waking in turn, would make cold.
    idle: Vec<Thread>,
    closed: bool,
}

impl Lane {
    /// Starts `sessions` threads, at least one, each at lower priority.
    ///
    /// # Errors
    /// When a thread cannot be started or its priority not be lowered.
    pub fn start(sessions: usize) -> io::Result<Self> {
        let sessions = sessions.max(1);
        let lane = Self {
            shared: Arc::default(),
            sessions,
        };
        let (started, outcomes) = mpsc::channel();
        for number in 0..sessions {
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

    /// How many signatures can be waited for at once.
    pub fn sessions(&self) -> usize {
        self.sessions
    }

    /// How many handshakes wait for a thread.
    pub fn waiting(&self) -> usize {
        self.shared.lock().jobs.len()
    }

    /// Does `work` on a thread of the lane, after all that was queued before. Dropping the future
    /// takes work that has not begun out of the queue's way.
    ///
    /// # Errors
    /// [`LaneError`].
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LaneError> {
        let (reply, answer) = oneshot::channel();
        self.shared.push(Box::new(move || {
            if !reply.is_closed() {
                // Nobody hears it when the caller gave up meanwhile.
                drop(reply.send(work()));
            }
        }))?;
        answer.await.or(Err(LaneError::Panicked))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        queue.idle.drain(..).for_each(|thread| thread.unpark());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) -> Result<(), LaneError> {
        let mut queue = self.lock();
        if queue.jobs.len() >= LONGEST_QUEUE {
            return Err(LaneError::Full);
        }
        queue.jobs.push_back(job);
        let idle = queue.idle.pop();
        drop(queue);
        if let Some(idle) = idle {
            idle.unpark();
        }
        Ok(())
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            // A panic costs one handshake and not a thread; its caller sees `Panicked`.
            drop(catch_unwind(AssertUnwindSafe(job)));
        }
    }

    fn next(&self) -> Option<Job> {
        let ourselves = thread::current();
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue.idle.push(ourselves.clone());
            drop(queue);
            thread::park();
            queue = self.lock();
            // Parking may end without reason (std::thread::park): then we still stand among the idle.
            queue.idle.retain(|idle| idle.id() != ourselves.id());
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Lane({} sessions, {} waiting)",
            self.sessions,
            self.waiting()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_is_done_in_the_order_of_its_coming_and_at_lower_priority() {
        let lane = Lane::start(1).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut all = Vec::new();
        for number in 0..20 {
            let order = order.clone();
            all.push(lane.run(move || {
                order.lock().unwrap().push(number);
                rustix::process::getpriority_process(None).unwrap()
            }));
        }
        for work in all {
            assert_eq!(work.await, Ok(NICE));
        }
        assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
        assert!(rustix::process::getpriority_process(None).unwrap() < NICE);
    }

    #[tokio::test]
    async fn a_panic_costs_one_handshake_and_no_thread() {
        let lane = Lane::start(1).unwrap();
        let panicked = lane
            .run(|| std::panic::resume_unwind(Box::new("test")))
            .await;
        assert_eq!(panicked.map(|()| 0), Err(LaneError::Panicked));
        assert_eq!(lane.run(|| 1).await, Ok(1));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_work_that_was_given_up_is_not_done() {
        let lane = Lane::start(1).unwrap();
        let (release, held) = mpsc::channel::<()>();
        let mut first = Box::pin(lane.run(move || held.recv()));
        assert!(polled_once(&mut first).await.is_none());
        while lane.waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let done = Arc::new(Mutex::new(0));
        let mut waiting = Vec::new();
        for _ in 0..LONGEST_QUEUE {
            let done = done.clone();
            let mut work = Box::pin(lane.run(move || *done.lock().unwrap() += 1));
            assert!(polled_once(&mut work).await.is_none());
            waiting.push(work);
        }
        assert_eq!(lane.run(|| 1).await, Err(LaneError::Full));
        drop(waiting.split_off(1));
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        waiting.pop().unwrap().await.unwrap();
        assert_eq!(lane.run(|| 1).await, Ok(1));
        assert_eq!(*done.lock().unwrap(), 1);
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
