//! What both sides of HTTP/2 say before they have anything to say, preface, SETTINGS and acknowledgement, in one
//! write: each write of its own is a record, a packet and two changes of threads for every connection.

use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// More is not kept back.
const MOST: usize = 256;

/// A byte stream that keeps back what is written to it, flushed or not, until a read finds nothing to read. It is
/// for protocols whose connection is always read from.
#[derive(Debug)]
pub(super) struct Together<S> {
    stream: S,
    /// Boxed, as an idle connection has none.
    first: Option<Box<First>>,
}

#[derive(Debug, Default)]
struct First {
    bytes: Vec<u8>,
    sent: usize,
    /// Nothing is kept back any longer.
    going: bool,
}

impl<S> Together<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            first: Some(Box::default()),
        }
    }
}

impl<S: AsyncWrite + Unpin> Together<S> {
    /// Keeps `bytes` back when it still does so and they fit.
    fn keeps(&mut self, bytes: &[u8]) -> bool {
        let Some(first) = &mut self.first else {
            return false;
        };
        if first.going || first.bytes.len() + bytes.len() > MOST {
            return false;
        }
        first.bytes.extend_from_slice(bytes);
        true
    }

    /// Sends what was kept back, and keeps nothing back from now on.
    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(first) = &mut self.first else {
            return Poll::Ready(Ok(()));
        };
        first.going = true;
        while first.sent < first.bytes.len() {
            let left = &first.bytes[first.sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => first.sent += sent,
            }
        }
        let was_any = !mem::take(&mut self.first).is_none_or(|first| first.bytes.is_empty());
        match was_any {
            true => Pin::new(&mut self.stream).poll_flush(context),
            false => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Together<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending()
            && let Poll::Ready(Err(error)) = self.poll_first(context)
        {
            return Poll::Ready(Err(error));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Together<S> {
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
        match &self.first {
            Some(first) if !first.going => return Poll::Ready(Ok(())),
            _ => ready!(self.poll_first(context))?,
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_first(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    async fn keeping(room: usize) -> (Together<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(room);
        let mut near = Together::new(near);
        near.write_all(b"settings").await.unwrap();
        near.flush().await.unwrap();
        (near, far)
    }

    /// What is there to read now.
    fn heard(far: &mut DuplexStream) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        let read = far.read(&mut bytes).now_or_never();
        bytes.truncate(read.map_or(0, Result::unwrap));
        bytes
    }

    #[tokio::test]
    async fn the_first_words_go_together_once_nothing_is_left_to_read() {
        let (mut near, mut far) = keeping(1024).await;
        far.write_all(b"preface").await.unwrap();
        near.read_exact(&mut [0; 7]).await.unwrap();
        near.write_all(b", ack").await.unwrap();
        near.flush().await.unwrap();
        assert!(heard(&mut far).is_empty());
        assert!(near.read_u8().now_or_never().is_none());
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
