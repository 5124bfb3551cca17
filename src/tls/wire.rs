//! The socket during a handshake: bytes to and from the machine of `exchange`, and a goodbye that
//! the peer can hear.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::blame::HandshakeError;
use super::exchange::Step;
use super::lane::Outcome;

/// What rustls takes at a time. A flight with a chain of three fits; a longer one is read in
/// several pieces.
const READ_SIZE: usize = 4096;
/// How long, and how many bytes, we wait for a refused peer to hear the alert: a socket closed
/// over unread bytes sends a reset that overtakes it.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 64 * 1024;

/// A socket during a handshake, and what was just read from it.
pub(super) struct Wire {
    /// Shared with a thread of the lane as long as that has something to send.
    tcp: Arc<TcpStream>,
    pub(super) input: Vec<u8>,
}

/// The sending half of a [`Wire`], for a thread that must not wait.
pub(super) struct Sending(Arc<TcpStream>);

impl Wire {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self {
            tcp: Arc::new(tcp),
            input: Vec::new(),
        }
    }

    /// Our end of the connection.
    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Ends when the peer has closed the connection; never while there is something of it that was not read.
    pub(super) async fn closed(&self) {
        if let Ok(1..) = self.tcp.peek(&mut [0]).await {
            std::future::pending().await
        }
    }

    /// The socket itself.
    pub(super) fn into_tcp(self) -> Result<TcpStream, HandshakeError> {
        Arc::into_inner(self.tcp).ok_or(STILL_SENDING)
    }

    /// For the lane; given back before its step is told.
    pub(super) fn sending(&self) -> Sending {
        Sending(Arc::clone(&self.tcp))
    }

    /// Ends when the peer has said something more, or is gone.
    pub(super) async fn news(&self) {
        // An error comes again when we read.
        drop(self.tcp.readable().await);
    }

    /// Replaces `input` with what comes next, at least one byte.
    pub(super) async fn receive(&mut self) -> Result<(), HandshakeError> {
        let tcp = Arc::get_mut(&mut self.tcp).ok_or(STILL_SENDING)?;
        self.input.clear();
        self.input.reserve(READ_SIZE);
        match tcp.read_buf(&mut self.input).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }

    /// Sends what a step has for the peer, in one write, and takes its outcome.
    pub(super) async fn send<T>(&mut self, step: Step<T>) -> Result<T, HandshakeError> {
        match step.outcome {
            Ok(outcome) => {
                let tcp = Arc::get_mut(&mut self.tcp).ok_or(STILL_SENDING)?;
                tcp.write_all(&step.output).await?;
                Ok(outcome)
            }
            Err(error) => {
                self.linger(&step.output).await;
                Err(error.into())
            }
        }
    }

    /// Says goodbye with `alert` so that it can be heard.
    pub(super) async fn linger(&mut self, alert: &[u8]) {
        let Some(tcp) = Arc::get_mut(&mut self.tcp).filter(|_| !alert.is_empty()) else {
            return;
        };
        let goodbye = async {
            tcp.write_all(alert).await?;
            tcp.shutdown().await?;
            let mut left = LINGER_BYTES;
            while left > 0 {
                self.input.clear();
                self.input.reserve(READ_SIZE);
                match tcp.read_buf(&mut self.input).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            Ok::<_, io::Error>(())
        };
        // The peer is refused already; whether it hears why is its own affair.
        drop(timeout(LINGER, goodbye).await);
    }
}

const STILL_SENDING: HandshakeError =
    HandshakeError::Bug("a step was told before its socket was given back");

impl Sending {
    /// Sends what can be sent at once. When that is all of it there is nothing to do before the peer
    /// answers; the rest, and a goodbye, are left in the step.
    pub(super) fn send<T>(self, mut step: Step<T>) -> Outcome<Step<T>> {
        if step.outcome.is_err() {
            return Outcome::Loud(step);
        }
        // An error comes again with the rest. As one slice of a vector: writev(2) has no arguments that the
        // filters look at.
        let output = [io::IoSlice::new(&step.output)];
        let sent = self.0.try_write_vectored(&output).unwrap_or_default();
        step.output.drain(..sent);
        if step.output.is_empty() {
            Outcome::Quiet(step)
        } else {
            Outcome::Loud(step)
        }
    }
}
