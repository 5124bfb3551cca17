//! What both sides of HTTP/2 say before they have anything to say, preface, SETTINGS and acknowledgement, in one
//! write: each write of its own is a record, a packet and two changes of threads for every connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// More is not kept back.
const MOST: usize = 256;

/// A byte stream under a connection of h2 whose first words are kept back, as by TCP_CORK (tcp(7)), until there was
/// nothing to read: h2 flushes each time then.
#[derive(Debug)]
pub(super) struct Corked<S> {
    stream: S,
    /// Boxed, as an idle connection has none.
    first: Option<Box<First>>,
}

#[derive(Debug, Default)]
struct First {
    bytes: Vec<u8>,
    sent: usize,
    /// A flush was answered before the other side had spoken: a server that waits for the preface flushes no
    /// second time.
    owed: bool,
    /// There was nothing to read, or too much to keep: whatever is flushed goes.
    open: bool,
}

impl<S> Corked<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            first: Some(Box::default()),
        }
    }
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    /// Keeps `bytes` back if they fit.
    fn keeps(&mut self, bytes: &[u8]) -> bool {
        let Some(first) = &mut self.first else {
            return false;
        };
        let fits = first.bytes.len() + bytes.len() <= MOST;
        if fits {
            first.bytes.extend_from_slice(bytes);
        }
        fits
    }

    /// Sends and flushes what was kept back; nothing is from then on.
    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(first) = &mut self.first else {
            return Poll::Ready(Ok(()));
        };
        first.open = true;
        while first.sent < first.bytes.len() {
            let left = &first.bytes[first.sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => first.sent += sent,
            }
        }
        if first.sent > 0 {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        }
        self.first = None;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(first) = &mut self.first else {
            return read;
        };
        if read.is_ready() {
            first.owed = false;
            return read;
        }
        // Once it is open, what is still here was flushed in vain.
        let goes = first.owed || first.open;
        first.open = true;
        if goes && let Poll::Ready(Err(error)) = self.poll_first(context) {
            return Poll::Ready(Err(error));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.keeps(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(self.poll_first(context))?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.first.is_some() {
            let slice = slices.iter().find(|slice| !slice.is_empty());
            return self.poll_write(context, slice.map_or(&[], |slice| slice));
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.first {
            Some(first) if !first.open => {
                first.owed = true;
                Poll::Ready(Ok(()))
            }
            Some(_) => self.poll_first(context),
            None => Pin::new(&mut self.stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_first(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::proxy::hygiene::Watched;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const ACK: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];

    /// A pipe whose first flush has to be asked for twice, and how often it was written to.
    struct Counted {
        pipe: DuplexStream,
        writes: Arc<AtomicUsize>,
        flushes: usize,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.pipe).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.pipe).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            if self.flushes == 1 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Pin::new(&mut self.pipe).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.pipe).poll_shutdown(context)
        }
    }

    fn pipe(room: usize) -> (Counted, DuplexStream, impl Fn() -> usize) {
        let (pipe, far) = duplex(room);
        let writes = Arc::<AtomicUsize>::default();
        let counted = Counted {
            pipe,
            writes: Arc::clone(&writes),
            flushes: 0,
        };
        (counted, far, move || writes.load(Ordering::Relaxed))
    }

    /// What is there to read now.
    fn heard(far: &mut DuplexStream) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        let read = far.read(&mut bytes).now_or_never();
        bytes.truncate(read.map_or(0, Result::unwrap));
        bytes
    }

    /// Polls what has still to wait, and once more, as a first flush has itself woken.
    fn poll(waits: impl Future) {
        let mut waits = std::pin::pin!(waits);
        for _ in 0..2 {
            assert!(waits.as_mut().now_or_never().is_none());
        }
    }

    #[tokio::test]
    async fn a_server_says_all_in_one_write_when_the_client_has_spoken() {
        let (near, mut far, writes) = pipe(1024);
        far.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
        let (watched, _) = Watched::server(near);
        let mut server = h2::server::handshake(watched).await.unwrap();
        assert!(heard(&mut far).is_empty());
        poll(server.accept());
        let said = heard(&mut far);
        assert_eq!(said[3..5], SETTINGS[3..5]);
        assert!(said.ends_with(ACK), "{said:?}");
        assert_eq!(writes(), 1);
        // The client is in no hurry to be heard, and the server not held up.
        far.write_all(ACK).await.unwrap();
        poll(server.accept());
    }

    #[tokio::test]
    async fn a_server_waits_for_no_client_that_waits_for_it() {
        let (near, mut far, writes) = pipe(1024);
        let (watched, _) = Watched::server(near);
        let mut server = std::pin::pin!(h2::server::handshake(watched));
        assert!(server.as_mut().now_or_never().is_none());
        let said = heard(&mut far);
        assert_eq!(said[3..5], SETTINGS[3..5]);
        far.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
        let mut server = server.await.unwrap();
        poll(server.accept());
        assert_eq!(heard(&mut far), ACK);
        assert_eq!(writes(), 2);
    }

    #[tokio::test]
    async fn a_client_says_all_in_one_write() {
        let (near, mut far, writes) = pipe(1024);
        let (watched, _) = Watched::client(near);
        let (_send, connection) = h2::client::handshake(watched).await.unwrap();
        let mut connection = std::pin::pin!(connection);
        let _: &h2::client::Connection<_, bytes::Bytes> = &connection;
        assert!(connection.as_mut().now_or_never().is_none());
        let said = heard(&mut far);
        assert!(said.starts_with(PREFACE), "{said:?}");
        assert_eq!(said[PREFACE.len()..][3..5], SETTINGS[3..5], "{said:?}");
        assert_eq!(writes(), 1);
    }

    async fn keeping(room: usize) -> (Corked<Counted>, DuplexStream) {
        let (near, far, _) = pipe(room);
        let mut near = Corked::new(near);
        near.write_all(b"settings").await.unwrap();
        near.flush().await.unwrap();
        (near, far)
    }

    #[tokio::test]
    async fn the_first_words_are_one_write_whose_flush_is_not_forgotten() {
        let (mut near, mut far) = keeping(1024).await;
        far.write_all(b"preface").await.unwrap();
        near.read_exact(&mut [0; 7]).await.unwrap();
        assert!(near.read_u8().now_or_never().is_none());
        near.write_all(b", ack").await.unwrap();
        assert!(heard(&mut far).is_empty());
        assert!(near.flush().now_or_never().is_none());
        assert_eq!(near.stream.flushes, 1);
        assert!(near.read_u8().now_or_never().is_none());
        assert_eq!(near.stream.flushes, 2);
        assert_eq!(near.stream.writes.load(Ordering::Relaxed), 1);
        assert_eq!(heard(&mut far), b"settings, ack");
        near.write_all(b", more").await.unwrap();
        assert_eq!(heard(&mut far), b", more");
    }

    #[tokio::test]
    async fn they_go_piece_by_piece_where_there_is_little_room() {
        let (mut near, mut far) = keeping(3).await;
        let mut all = Vec::new();
        while all.len() < b"settings".len() {
            assert!(near.read_u8().now_or_never().is_none());
            let piece = heard(&mut far);
            assert!(!piece.is_empty());
            all.extend(piece);
        }
        assert_eq!(all, b"settings");
    }

    #[tokio::test]
    async fn what_is_long_is_not_kept_back_and_stays_behind_them() {
        let (mut near, mut far) = keeping(1024).await;
        near.write_all(&[b'x'; MOST]).await.unwrap();
        let heard = heard(&mut far);
        assert_eq!(heard, [&b"settings"[..], &[b'x'; MOST]].concat());
    }

    #[tokio::test]
    async fn an_end_leaves_nothing_behind() {
        let (mut near, mut far) = keeping(1024).await;
        near.shutdown().await.unwrap();
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"settings");
    }
}
