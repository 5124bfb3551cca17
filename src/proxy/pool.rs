//! One HTTP/2 connection to whoever is on the other side, shared by all calls to it and made again
//! when it is lost.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};

use super::hygiene::{Heard, Watched};
use super::opening::{Ready, Room};
use super::refusal::Refusal;
use super::session::Settings;

/// Both directions of a connection.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// A dial under way; the error is for the caller of whoever dials.
pub(crate) type Dialling<'a> =
    Pin<Box<dyn Future<Output = Result<Box<dyn ByteStream>, String>> + Send + 'a>>;

/// Reaches one other side.
pub(crate) trait Dial: Send + Sync {
    /// A new connection, at once or not at all: who waits before trying again says so in the error.
    fn dial(&self) -> Dialling<'_>;
}

/// Who is on the other side of a [`Pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    Peer,
    /// Our own application: what it does for a peer's call is not held against it.
    Application,
}

/// The connection to one other side.
pub(crate) struct Pool {
    dial: Box<dyn Dial>,
    other: Other,
    settings: Arc<Settings>,
    current: Mutex<Option<Current>>,
    /// One dial at a time.
    dialling: tokio::sync::Mutex<()>,
}

/// The connection for the next call.
struct Current {
    ready: Ready,
    /// When another takes its place.
    old: Instant,
}

/// Whether a connection should be replaced.
enum Age {
    Young,
    Old,
}

impl Pool {
    /// No connection is made yet.
    pub(crate) fn new(dial: impl Dial + 'static, other: Other, settings: &Arc<Settings>) -> Self {
        Self {
            dial: Box::new(dial),
            other,
            settings: Arc::clone(settings),
            current: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
        }
    }

    /// What takes a request, and the room for it: its caller holds that until the call has ended.
    pub(super) async fn begin(&self) -> Result<(SendRequest<Bytes>, Room), Refusal> {
        let ready = self.ready().await?;
        let room = ready.room(&self.settings).await?;
        Ok((ready.send, room))
    }

    /// The connection for the next call.
    pub(super) async fn ready(&self) -> Result<Ready, Refusal> {
        if let Some((ready, Age::Young)) = self.usable().await {
            return Ok(ready);
        }
        let _one = self.dialling.lock().await;
        let old = match self.usable().await {
            Some((ready, Age::Young)) => return Ok(ready),
            Some((ready, Age::Old)) => Some(ready),
            None => None,
        };
        let stream = match (self.dial.dial().await, old) {
            (Ok(stream), _) => stream,
            // Until it is cut off, it is better than none: the token may be away for a moment.
            (Err(_), Some(old)) => return Ok(old),
            (Err(error), None) => return Err(Refusal::unavailable(error)),
        };
        let (watched, heard) = Watched::client(stream);
        let watched = match self.other {
            Other::Peer => watched,
            Other::Application => watched.trusting(),
        };
        let watched = watched.bounding(&self.settings.lists);
        let failed = |error: h2::Error| {
            tracing::debug!(%error, "the other side does not speak HTTP/2");
            Refusal::unavailable("the other side does not speak HTTP/2")
        };
        let begun = self.settings.client().handshake(watched).await;
        let (send, connection) = begun.map_err(failed)?;
        tokio::spawn(keep(
            connection,
            heard,
            self.other,
            Arc::clone(&self.settings),
        ));
        let ready = Ready::new(send);
        *self.current() = Some(Current {
            ready: ready.clone(),
            old: Instant::now() + self.settings.age(),
        });
        ready.ready().await.map_err(failed)
    }

    async fn usable(&self) -> Option<(Ready, Age)> {
        let (ready, age) = {
            let current = self.current();
            let current = current.as_ref()?;
            let age = match current.old <= Instant::now() {
                true => Age::Old,
                false => Age::Young,
            };
            (current.ready.clone(), age)
        };
        Some((ready.ready().await.ok()?, age))
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Client = h2::client::Connection<Watched<Box<dyn ByteStream>>, Bytes>;

/// Drives a connection to its end: its own, or that of our patience.
async fn keep(mut connection: Client, heard: Heard, with: Other, settings: Arc<Settings>) {
    let cut = tokio::time::sleep(settings.oldest());
    tokio::pin!(cut);
    let mut asked = false;
    let ended = loop {
        tokio::select! {
            ended = &mut connection => break ended,
            () = tokio::time::sleep(settings.silence()) => match (heard.take(), asked) {
                (true, _) => asked = false,
                (false, true) => {
                    tracing::info!("a connection was closed: the other side is silent");
                    return;
                }
                (false, false) => {
                    asked = true;
                    // SETTINGS, which change nothing and are acknowledged (RFC 9113 §6.5.3). A server
                    // may count PINGs against its client: gRPC's suffer two while no call brings data,
                    // and then end all calls (grpc/doc/keepalive.md).
                    let _ = connection.set_initial_window_size(settings.window());
                }
            },
            () = &mut cut => {
                tracing::info!("a connection was closed: it is older than limits.connection_age_ms");
                return;
            }
        }
    };
    let Err(error) = ended else { return };
    // We ended it, for what was sent.
    let ours = |why: &std::io::Error| why.kind() == std::io::ErrorKind::InvalidData;
    if error.get_io().is_some_and(ours)
        && let Some(unlogged) = settings.lines.take(Instant::now())
    {
        tracing::warn!(?with, %error, unlogged, "a connection of the proxy was given up");
    } else {
        tracing::debug!(%error, "a connection of the proxy ended");
    }
}
