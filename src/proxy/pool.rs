//! One HTTP/2 connection to whoever is on the other side, shared by all calls to it and made again
//! when it is lost.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};

use super::hygiene::{Heard, Watched, silence};
use super::refusal::Refusal;

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

/// The connection to one other side.
pub(crate) struct Pool {
    dial: Box<dyn Dial>,
    builder: Builder,
    /// A side that is silent so long is asked whether it is there; `None`: it cannot vanish silently.
    keepalive: Option<Duration>,
    current: Mutex<Option<SendRequest<Bytes>>>,
    /// One dial at a time.
    dialling: tokio::sync::Mutex<()>,
}

impl Pool {
    /// No connection is made yet.
    pub(crate) fn new(
        dial: impl Dial + 'static,
        builder: Builder,
        keepalive: Option<Duration>,
    ) -> Self {
        Self {
            dial: Box::new(dial),
            builder,
            keepalive,
            current: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
        }
    }

    /// What takes a request.
    pub(super) async fn ready(&self) -> Result<SendRequest<Bytes>, Refusal> {
        if let Some(ready) = self.usable().await {
            return Ok(ready);
        }
        let _one = self.dialling.lock().await;
        if let Some(ready) = self.usable().await {
            return Ok(ready);
        }
        let stream = self.dial.dial().await.map_err(Refusal::unavailable)?;
        let (watched, heard) = Watched::client(stream);
        let failed = |error: h2::Error| {
            Refusal::unavailable(format!("the other side does not speak HTTP/2: {error}"))
        };
        let (send, connection) = self.builder.handshake(watched).await.map_err(failed)?;
        tokio::spawn(keep(connection, heard, self.keepalive));
        *self.current() = Some(send.clone());
        send.ready().await.map_err(failed)
    }

    async fn usable(&self) -> Option<SendRequest<Bytes>> {
        let current = self.current().clone()?;
        current.ready().await.ok()
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<SendRequest<Bytes>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Client = h2::client::Connection<Watched<Box<dyn ByteStream>>, Bytes>;

/// Drives a connection to its end.
async fn keep(mut connection: Client, heard: Heard, keepalive: Option<Duration>) {
    let ping = connection.ping_pong();
    let ended = match (keepalive, ping) {
        (Some(every), Some(ping)) => tokio::select! {
            ended = connection => ended,
            () = silence(ping, heard, every) => {
                tracing::info!("a connection was closed: the other side is silent");
                Ok(())
            }
        },
        _ => connection.await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the proxy ended");
    }
}
