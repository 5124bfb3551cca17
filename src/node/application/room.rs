//! Room for the application's connections: what all places share, and a few that each has for itself.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// That of one place.
pub(super) struct Room {
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

impl Room {
    pub(super) fn new(own: usize, shared: &Arc<Semaphore>) -> Self {
        Self {
            own: Arc::new(Semaphore::new(own)),
            shared: Arc::clone(shared),
        }
    }

    /// Waits for room for one connection; `full` hears that there is none now.
    pub(super) async fn take(&self, full: impl FnOnce()) -> OwnedSemaphorePermit {
        let both = [&self.own, &self.shared].map(Arc::clone);
        for room in &both {
            if let Ok(held) = Arc::clone(room).try_acquire_owned() {
                return held;
            }
        }
        full();
        let [own, shared] = both.map(Semaphore::acquire_owned);
        let held = tokio::select! {
            held = own => held,
            held = shared => held,
        };
        held.expect("nobody closes it")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;

    use super::*;

    fn never() {
        panic!("there is room");
    }

    #[tokio::test]
    async fn a_place_has_what_is_shared_and_none_has_what_is_anothers_own() {
        let shared = Arc::new(Semaphore::new(3));
        let (busy, quiet) = (Room::new(2, &shared), Room::new(2, &shared));
        let mut held = Vec::new();
        for _ in 0..5 {
            held.push(busy.take(never).await);
        }
        let told = AtomicUsize::new(0);
        let mut waits = Box::pin(busy.take(|| {
            told.fetch_add(1, Ordering::Relaxed);
        }));
        assert!(waits.as_mut().now_or_never().is_none());
        assert_eq!(told.load(Ordering::Relaxed), 1);
        let own = [quiet.take(never).await, quiet.take(never).await];
        // What becomes free of its own is not for the other place.
        drop(own);
        assert!(waits.as_mut().now_or_never().is_none());
        held.pop();
        let _last = waits.await;
    }
}
