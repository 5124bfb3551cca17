//! The socket during a handshake: bytes to and from the machine of `exchange`, and a goodbye that
//! the peer can hear.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::blame::HandshakeError;
use super::exchange::Step;

/// What rustls takes at a time. A flight with a chain of three fits; a longer one is read in
/// several pieces.
const READ_SIZE: usize = 4096;
/// How long, and how many bytes, we wait for a refused peer to hear the alert: a socket closed
/// over unread bytes sends a reset that overtakes it.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 64 * 1024;

/// A socket during a handshake, and what was just read from it.
pub(super) struct Wire {
    pub(super) tcp: TcpStream,
    pub(super) input: Vec<u8>,
}

impl Wire {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            input: Vec::new(),
        }
    }

    /// Replaces `input` with what comes next, at least one byte.
    pub(super) async fn receive(&mut self) -> io::Result<()> {
        self.input.clear();
        self.input.reserve(READ_SIZE);
        match self.tcp.read_buf(&mut self.input).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Sends what a step has for the peer, in one write, and takes its outcome.
    pub(super) async fn send<T>(&mut self, step: Step<T>) -> Result<T, HandshakeError> {
        match step.outcome {
            Ok(outcome) => {
                self.tcp.write_all(&step.output).await?;
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
        if alert.is_empty() {
            return;
        }
        let goodbye = async {
            self.tcp.write_all(alert).await?;
            self.tcp.shutdown().await?;
            let mut left = LINGER_BYTES;
            while left > 0 {
                self.input.clear();
                self.input.reserve(READ_SIZE);
                match self.tcp.read_buf(&mut self.input).await? {
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
