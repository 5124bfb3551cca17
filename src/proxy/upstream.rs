//! The application, as we reach it.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{ByteStream, Dial, Dialling};
use crate::config::Place;
use crate::telemetry::Lines;

/// Dials the application.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    place: Place,
    /// User id that must be behind a unix socket.
    user: u32,
    patience: Duration,
    lines: Arc<Lines>,
}

impl Upstream {
    /// The application of `user` at `place`, which must take a connection within `patience`.
    pub(crate) fn new(place: Place, user: u32, patience: Duration) -> Self {
        Self {
            place,
            user,
            patience,
            lines: Arc::default(),
        }
    }

    /// A connection to the application, or why there is none, in words that a peer may read.
    pub(crate) async fn connect(&self) -> Result<Box<dyn ByteStream>, String> {
        let connecting = async {
            match &self.place {
                Place::Tcp(address) => {
                    let tcp = TcpStream::connect(address).await?;
                    tcp.set_nodelay(true)?;
                    Ok(Box::new(tcp) as Box<dyn ByteStream>)
                }
                Place::Unix(path) => {
                    let unix = connect(path).await?;
                    let user = unix.peer_cred()?.uid();
                    if user != self.user {
                        return Err(std::io::Error::other(format!(
                            "somebody else answers for the application, user {user} instead of {}; \
                             set application.user if it is the application",
                            self.user
                        )));
                    }
                    Ok(Box::new(unix) as Box<dyn ByteStream>)
                }
            }
        };
        match timeout(self.patience, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.unreachable(&error.to_string())),
            Err(_) => Err(self.unreachable("it does not accept")),
        }
    }

    /// How long somebody may wait for a connection.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// The place and the reason are the operator's; a peer hears that it is not there.
    pub(super) fn unreachable(&self, reason: &str) -> String {
        if let Some(unlogged) = self.lines.take(Instant::now()) {
            tracing::warn!(at = %self.place, reason, unlogged, "the application cannot be reached");
        }
        "the application behind this node does not accept connections".to_owned()
    }
}

/// Where TCP waits when the listener's queue is full, a unix socket fails (connect(2), `EAGAIN`).
async fn connect(path: &Path) -> std::io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            done => return done,
        }
    }
}

impl Dial for Upstream {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(self.connect())
    }
}
