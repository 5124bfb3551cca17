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

/// A lane of so many threads, each with a session.
fn lane(threads: usize) -> Lane {
    Lane::start(Width {
        threads,
        sessions: threads,
    })
    .unwrap()
}

const LISTED: Class = Class::Listed;

#[tokio::test]
async fn work_is_done_in_the_order_of_its_coming_and_at_lower_priority() {
    let ours = rustix::process::getpriority_process(None).unwrap();
    let lane = lane(1);
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
        assert_eq!(work.await, Ok((ours + NICER).min(19)));
    }
    assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
    assert_eq!(rustix::process::getpriority_process(None), Ok(ours));
    assert_eq!(lane.waits(LISTED).count(), 20);
    assert_eq!(lane.waits(Class::Own).count(), 0);
}

#[tokio::test]
async fn work_that_was_given_up_is_not_done_and_leaves_the_queue() {
    let lane = lane(1);
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
    let lane = lane(4);
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
    let lane = lane(1);
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
    let lane = lane(1);
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
    let lane = lane(1);
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
