//! A runtime whose threads all exist: a sealed process starts none.

use std::io;
use std::sync::{Arc, Barrier, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// Threads for the application's `spawn_blocking`; more calls at once than that wait for their turn.
const BLOCKING: usize = 4;
/// Idle threads do not end: none could be started instead.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A runtime with `workers` threads that serve and [`BLOCKING`] more, every one of them past its start.
pub(super) fn runtime(workers: usize) -> io::Result<Runtime> {
    let started = Arc::new((Mutex::new(0), Condvar::new()));
    let counted = Arc::clone(&started);
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(FOREVER)
        .on_thread_start(move || {
            *counted.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            counted.1.notify_one();
        })
        .enable_all()
        .build()?;
    let all_at_once = Arc::new(Barrier::new(BLOCKING + 1));
    for _ in 0..BLOCKING {
        let all_at_once = Arc::clone(&all_at_once);
        runtime.spawn_blocking(move || all_at_once.wait());
    }
    all_at_once.wait();
    let count = started.0.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = workers + BLOCKING;
    drop(
        started
            .1
            .wait_while(count, |count| *count < wanted)
            .unwrap_or_else(PoisonError::into_inner),
    );
    // The first random bytes set up what all threads share, with calls that are not needed again.
    aws_lc_rs::rand::fill(&mut [0; 32]).map_err(io::Error::other)?;
    Ok(runtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_work_starts_a_thread() {
        let threads = || {
            std::fs::read_dir("/proc/self/task")
                .unwrap()
                .filter_map(|task| {
                    let name = std::fs::read_to_string(task.ok()?.path().join("comm")).ok()?;
                    name.starts_with("tokio-").then_some(())
                })
                .count()
        };
        let runtime = runtime(2).unwrap();
        let before = threads();
        assert!(before >= 2 + BLOCKING);
        runtime.block_on(async {
            let work = (0..20).map(|_| {
                tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5)))
            });
            for done in work.collect::<Vec<_>>() {
                done.await.unwrap();
            }
        });
        assert_eq!(threads(), before);
    }
}
