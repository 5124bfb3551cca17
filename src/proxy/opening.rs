//! Calls that have to wait until others on their connection have ended (RFC 9113 §5.1.2). h2 would hold them back for
//! as long as that takes, and pass even those on, later, that were taken back meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Refusal;
use super::settings::Settings;

/// A connection that takes calls.
#[derive(Clone)]
pub(super) struct Ready {
    pub(super) send: SendRequest<Bytes>,
    under_way: Arc<UnderWay>,
}

#[derive(Default)]
struct UnderWay {
    calls: AtomicUsize,
    ended: Notify,
}

/// Room for one call, for as long as it is under way.
pub(super) struct Room(Arc<UnderWay>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
        self.0.ended.notify_one();
    }
}

impl Ready {
    pub(super) fn new(send: SendRequest<Bytes>) -> Self {
        Self {
            send,
            under_way: Arc::default(),
        }
    }

    /// The same, when the connection is still there.
    pub(super) async fn ready(self) -> Result<Self, h2::Error> {
        Ok(Self {
            send: self.send.ready().await?,
            ..self
        })
    }

    /// Waits for room.
    ///
    /// # Errors
    /// The other side takes no more calls at once, and none of them has ended meanwhile.
    pub(super) async fn room(&self, settings: &Settings) -> Result<Room, Refusal> {
        if let Some(room) = self.room_now() {
            return Ok(room);
        }
        let wait = async {
            loop {
                let ended = self.under_way.ended.notified();
                if let Some(room) = self.room_now() {
                    return room;
                }
                ended.await;
            }
        };
        let patience = Duration::from_millis(settings.limits().connect_ms);
        timeout(patience, wait).await.map_err(|_elapsed| {
            let why =
                "the other side takes no more calls at once, and none ended in limits.connect_ms";
            if let Some(unlogged) = settings.lines.take(Instant::now()) {
                tracing::warn!(unlogged, "a call was not begun: {why}");
            }
            Refusal::unavailable(why)
        })
    }

    fn room_now(&self) -> Option<Room> {
        let most = self.send.current_max_send_streams();
        let more = |calls| (calls < most).then_some(calls + 1);
        let calls = &self.under_way.calls;
        let begun = calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        begun.is_ok().then(|| Room(Arc::clone(&self.under_way)))
    }
}
