//! One HTTP/2 connection to whoever is on the other side, shared by all calls to it and made again
//! when it is lost.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::hygiene::{Heard, Watched};
use super::opening::{Ready, Room};
use super::refusal::Refusal;
use super::settings::Settings;

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

    /// What a dial that has not ended yet waits for.
    fn waits_for(&self) -> String {
        "the other side".to_owned()
    }
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
    /// One at a time.
    underway: Mutex<Option<Underway>>,
}

/// A dial that goes on when those who wait for it have left: a call's deadline is not the token's.
type Underway = Shared<BoxFuture<'static, Result<Ready, Refusal>>>;

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
            underway: Mutex::default(),
        }
    }

    /// What takes a request, and the room for it: its caller holds that until the call has ended.
    pub(super) async fn begin(self: &Arc<Self>) -> Result<(SendRequest<Bytes>, Room), Refusal> {
        let ready = self.ready().await?;
        let room = ready.room(&self.settings).await?;
        Ok((ready.send, room))
    }

    /// The connection for the next call. An old one does until there is a new one: the token may be slow, or
    /// away for a moment.
    pub(super) async fn ready(self: &Arc<Self>) -> Result<Ready, Refusal> {
        match self.usable().await {
            Some((ready, Age::Young)) => Ok(ready),
            Some((ready, Age::Old)) => {
                drop(self.dialled());
                Ok(ready)
            }
            None => self.dialled_soon().await,
        }
    }

    /// Waits for a new connection, to a peer no longer than a caller should: the dial goes on when the token or
    /// the peer is slow, and another call may find what it comes to.
    async fn dialled_soon(self: &Arc<Self>) -> Result<Ready, Refusal> {
        let dial = self.dialled();
        if self.other == Other::Application {
            return dial.await;
        }
        let patience = Duration::from_millis(self.settings.limits().connect_ms);
        timeout(patience, dial).await.unwrap_or_else(|_elapsed| {
            let what = self.dial.waits_for();
            Err(Refusal::unavailable(format!(
                "no connection yet, after limits.connect_ms: waiting for {what}"
            )))
        })
    }

    /// The dial under way, or one that begins now.
    fn dialled(self: &Arc<Self>) -> Underway {
        let mut underway = self.underway.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dial) = &*underway
            && dial.peek().is_none()
        {
            return dial.clone();
        }
        let pool = Arc::clone(self);
        let dial = async move { pool.connect().await }.boxed().shared();
        tokio::spawn(dial.clone());
        *underway = Some(dial.clone());
        dial
    }

    async fn connect(&self) -> Result<Ready, Refusal> {
        // Another dial may have ended since it was asked for.
        if let Some((ready, Age::Young)) = self.usable().await {
            return Ok(ready);
        }
        let stream = self.dial.dial().await.map_err(Refusal::unavailable)?;
        let (watched, heard) = Watched::client(stream);
        let watched = match self.other {
            Other::Peer => watched,
            Other::Application => watched.trusting(),
        };
        let watched = watched.bounding(&self.settings.lists);
        let begun = async {
            let (send, mut connection) = self.settings.client().handshake(watched).await?;
            first_word(&mut connection, &heard).await?;
            Ok::<_, h2::Error>((send, connection))
        };
        let (send, connection) = match timeout(self.settings.begin(), begun).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return Err(self.mute(&error)),
            Err(_) => return Err(self.mute(&"nothing came in time")),
        };
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
        Ok(ready)
    }

    /// The other side let us in, and then said nothing of HTTP/2.
    fn mute(&self, error: &dyn std::fmt::Display) -> Refusal {
        if self.other == Other::Peer {
            return Refusal::unavailable(format!("the peer did not take the connection: {error}"));
        }
        if let Some(unlogged) = self.settings.lines.take(Instant::now()) {
            tracing::warn!(
                %error,
                unlogged,
                "the application does not speak HTTP/2: see application.mode and application.http2"
            );
        }
        Refusal::unavailable("the application behind this node does not speak HTTP/2")
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

    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Client = h2::client::Connection<Watched<Box<dyn ByteStream>>, Bytes>;

/// Drives a connection until the other side has sent its first bytes: in TLS 1.3 a server may refuse a
/// client that believes itself connected (RFC 8446 §4.4.2.4), and only then do we hear of it.
async fn first_word(connection: &mut Client, heard: &Heard) -> Result<(), h2::Error> {
    poll_fn(|context| match Pin::new(&mut *connection).poll(context) {
        Poll::Ready(ended) => Poll::Ready(ended.and(Err(h2::Reason::NO_ERROR.into()))),
        Poll::Pending if heard.is() => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await
}

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
