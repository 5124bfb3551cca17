//! What the other side of a connection does beside its calls: floods of frames ([`Frames`]), and silence.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::announced::Announced;
use super::corked::Corked;
use super::frames::{Frames, PREFACE};
use super::header_lists::HeaderLists;

/// Whether anything was received since the last look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<State>);

#[derive(Debug, Default)]
struct State {
    anything: AtomicBool,
    taken_back: AtomicBool,
}

impl Heard {
    /// Whether anything was; from now on it counts anew.
    pub(super) fn take(&self) -> bool {
        self.0.anything.swap(false, Ordering::Relaxed)
    }

    /// Whether anything was, without a change.
    pub(super) fn is(&self) -> bool {
        self.0.anything.load(Ordering::Relaxed)
    }

    pub(super) fn note(&self) {
        self.0.anything.store(true, Ordering::Relaxed);
    }

    /// Whether reading stands still because calls were taken back; it goes on. For whoever has looked at all calls
    /// that came before.
    pub(super) fn go_on(&self) -> bool {
        self.0.taken_back.load(Ordering::Relaxed)
            && self.0.taken_back.swap(false, Ordering::Relaxed)
    }
}

/// A byte stream whose incoming frames are counted.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: Corked<S>,
    heard: Heard,
    frames: Frames,
    /// Until our first frame was sent.
    announced: Option<Announced>,
    /// Whether reading stands still at calls that are taken back.
    pausing: bool,
}

impl<S> Watched<S> {
    /// The other side is a client: it begins with the preface.
    pub(crate) fn server(stream: S) -> (Self, Heard) {
        Self::new(stream, PREFACE)
    }

    /// Reads no more once calls were taken back, until [`Heard::go_on`]: h2 would read on, and keep every call
    /// that is begun and taken back meanwhile.
    pub(super) fn pausing(mut self) -> Self {
        self.pausing = true;
        self
    }

    /// Mends the authorities of calls: the other side may be on a unix socket.
    pub(super) fn mending(mut self) -> Self {
        self.frames.mend();
        self
    }

    /// Holds no frame against the other side: it is trusted.
    pub(super) fn trusting(mut self) -> Self {
        self.frames.trust();
        self
    }

    /// Bounds header lists, whoever sends them.
    pub(super) fn bounding(mut self, lists: &HeaderLists) -> Self {
        let first = PREFACE - self.frames.preface();
        self.frames.bound(lists.encoded());
        self.announced = Some(Announced::new(lists.most(), first));
        self
    }

    /// The other side is a server.
    pub(super) fn client(stream: S) -> (Self, Heard) {
        Self::new(stream, 0)
    }

    fn new(stream: S, skip: usize) -> (Self, Heard) {
        let heard = Heard::default();
        let watched = Self {
            stream: Corked::new(stream),
            heard: heard.clone(),
            frames: Frames::new(skip, Instant::now()),
            announced: None,
            pausing: false,
        };
        (watched, heard)
    }
}

/// Comes to its end when nothing was received for `every`, nor then for as long after a PING.
pub(super) async fn silence(mut ping: PingPong, heard: Heard, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        if heard.take() {
            continue;
        }
        match tokio::time::timeout(every, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection ends by itself.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let this = &mut *self;
        if this.heard.0.taken_back.load(Ordering::Relaxed) {
            // Who lets it go on asks again.
            return Poll::Pending;
        }
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = &read {
            match &mut buffer.filled_mut()[before..] {
                [] => this.frames.end()?,
                read => {
                    this.heard.note();
                    let resets = this.frames.take(read)?;
                    if resets && this.pausing {
                        this.heard.0.taken_back.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
        read
    }
}

impl<S> Watched<S> {
    fn count_written(&mut self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.frames.sent(*bytes);
        }
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    /// Sends some of `bytes`, which begin before the end of our first frame.
    fn announce(
        &mut self,
        mut announced: Announced,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Our first frame has less than 64.
        let mut first = [0; 128];
        let length = bytes.len().min(first.len());
        first[..length].copy_from_slice(&bytes[..length]);
        announced.clone().pass(&mut first[..length]);
        let written = Pin::new(&mut self.stream).poll_write(context, &first[..length]);
        if let Poll::Ready(Ok(written)) = &written {
            first[..length].copy_from_slice(&bytes[..length]);
            announced.pass(&mut first[..*written]);
        }
        self.announced = (!announced.is_done()).then_some(announced);
        written
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match self.announced.take() {
            None => Pin::new(&mut self.stream).poll_write(context, bytes),
            Some(announced) => self.announce(announced, context, bytes),
        };
        self.count_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match self.announced.take() {
            None => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
            Some(announced) => {
                let first = slices.iter().find(|slice| !slice.is_empty());
                self.announce(announced, context, first.map_or(&[], |slice| slice))
            }
        };
        self.count_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, empty};

    use super::*;

    #[tokio::test]
    async fn an_end_before_the_first_frame_is_named() {
        let (mut nothing, heard) = Watched::client(empty());
        let error = nothing.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(!heard.is());
        let (mut nobody, _) = Watched::server(empty());
        let error = nobody.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_comes_behind_calls_that_are_taken_back_waits() {
        let (near, mut far) = duplex(1024);
        let (watched, heard) = Watched::server(near);
        let mut watched = watched.pausing();
        let mut bytes = vec![0; PREFACE];
        // RST_STREAM of the first call (RFC 9113 §6.4).
        bytes.extend([0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8]);
        far.write_all(&bytes).await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(watched.read(&mut buffer).await.unwrap(), bytes.len());
        far.write_all(&[0]).await.unwrap();
        assert!(watched.read(&mut buffer).now_or_never().is_none());
        assert!(heard.go_on());
        assert_eq!(watched.read(&mut buffer).await.unwrap(), 1);
        assert!(!heard.go_on());
    }
}
