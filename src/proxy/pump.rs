//! One direction of a call: what comes is passed on as far as the receiver's window allows, and only
//! then the sender's window grows again (RFC 9113 §5.2). What we hold is bounded by these windows, in
//! bytes: what comes while the receiver's is closed is put together, so that many small frames do not
//! cost more than their bytes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use tokio::time::timeout;

use super::head::clean;
use super::header_lists::HeaderLists;
use super::untaken::Untaken;
use super::{Look, Refusal};

/// What is shorter is put together with what comes behind it while both have to wait.
const SMALL: usize = 4 << 10;
/// What a receiver must take within the time of its patience: any single byte would be too cheap.
const LEAST: usize = 64 << 10;

/// Why a direction ended before its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// Whoever sends broke off.
    From(h2::Error),
    /// Whoever receives broke off; the reason, when it gave one.
    To(Option<Reason>),
    /// Whoever receives has taken too little for too long.
    Stalled,
    /// What is sent must not be passed on.
    Refused(Refusal),
    /// The body came to no end.
    Body,
}

/// How long a receiver may make us wait, all waits together, until it has taken [`LEAST`] bytes.
#[derive(Debug)]
pub(super) struct Patience {
    stall: Duration,
    waited: Duration,
    taken: usize,
}

impl Patience {
    pub(super) fn new(stall: Duration) -> Self {
        Self {
            stall,
            waited: Duration::ZERO,
            taken: 0,
        }
    }

    fn took(&mut self, bytes: usize) {
        self.taken += bytes;
        if self.taken >= LEAST {
            (self.taken, self.waited) = (0, Duration::ZERO);
        }
    }

    async fn wait<T>(&mut self, receiver: impl Future<Output = T>) -> Result<T, Broken> {
        let began = Instant::now();
        let ended = timeout(self.stall.saturating_sub(self.waited), receiver).await;
        self.waited += began.elapsed();
        ended.or(Err(Broken::Stalled))
    }
}

/// Passes on all of `from`, with its trailers.
pub(super) async fn pump(
    from: &mut RecvStream,
    to: &mut SendStream<Bytes>,
    mut patience: Patience,
    mut look: Option<Box<dyn Look>>,
    lists: &HeaderLists,
) -> Result<(), Broken> {
    let mut held = Held::default();
    let mut rest = Rest::Data;
    while rest == Rest::Data || !held.is_empty() {
        let next = poll_fn(|context| next(from, to, rest, !held.is_empty(), context));
        let next = match held.is_empty() {
            true => next.await?,
            false => patience.wait(next).await??,
        };
        match next {
            Next::Data(data) => {
                if from.is_end_stream() {
                    rest = Rest::Nothing;
                }
                if let Some(look) = &mut look {
                    look.data(&data).map_err(Broken::Refused)?;
                }
                held.push(data);
            }
            Next::Over => rest = Rest::Trailers,
            Next::Room => {}
        }
        if rest != Rest::Data
            && let Some(mut look) = look.take()
        {
            look.end().map_err(Broken::Refused)?;
        }
        held.pass_on(from, to, rest == Rest::Nothing, &mut patience)?;
    }
    if rest == Rest::Nothing {
        return Ok(());
    }
    let sent = match from.trailers().await.map_err(Broken::From)? {
        Some(mut trailers) => {
            lists.trailers(&trailers).map_err(Broken::Refused)?;
            clean(&mut trailers);
            to.send_trailers(trailers)
        }
        None => to.send_data(Bytes::new(), true),
    };
    sent.map_err(|error| Broken::To(error.reason()))
}

/// What is still to come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Data,
    /// No more data, but perhaps trailers.
    Trailers,
    Nothing,
}

/// What happens next.
enum Next {
    Data(Bytes),
    /// There is no more data.
    Over,
    /// The receiver's window may have opened.
    Room,
}

fn next(
    from: &mut RecvStream,
    to: &mut SendStream<Bytes>,
    rest: Rest,
    waiting: bool,
    context: &mut Context<'_>,
) -> Poll<Result<Next, Broken>> {
    if rest == Rest::Data {
        match from.poll_data(context) {
            Poll::Ready(Some(data)) => {
                return Poll::Ready(data.map(Next::Data).map_err(Broken::From));
            }
            Poll::Ready(None) => return Poll::Ready(Ok(Next::Over)),
            Poll::Pending => {}
        }
    }
    if !waiting {
        let reset = to.poll_reset(context);
        return reset.map(|reset| Err(Broken::To(reset.ok())));
    }
    to.poll_capacity(context).map(|room| match room {
        Some(Ok(_)) => Ok(Next::Room),
        Some(Err(error)) => Err(Broken::To(error.reason())),
        None => Err(Broken::To(None)),
    })
}

/// What has come and is not passed on yet: never more than the sender's window.
#[derive(Default)]
struct Held {
    pieces: VecDeque<Bytes>,
    /// Small pieces, behind all others.
    small: BytesMut,
    length: usize,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.small.is_empty()
    }

    fn push(&mut self, data: Bytes) {
        self.length += data.len();
        if self.pieces.is_empty() || data.len() >= SMALL {
            self.seal();
            self.pieces.push_back(data);
            return;
        }
        self.small.extend_from_slice(&data);
        if self.small.len() >= LEAST {
            self.seal();
        }
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
    }

    /// Sends what the receiver's window allows, and opens the sender's again for as much.
    fn pass_on(
        &mut self,
        from: &mut RecvStream,
        to: &mut SendStream<Bytes>,
        last: bool,
        patience: &mut Patience,
    ) -> Result<(), Broken> {
        while !self.is_empty() {
            to.reserve_capacity(self.length);
            let room = to.capacity();
            if room == 0 && self.length > 0 {
                break;
            }
            if self.pieces.is_empty() {
                self.seal();
            }
            let Some(mut piece) = self.pieces.pop_front() else {
                break;
            };
            if piece.len() > room {
                self.pieces.push_front(piece.split_off(room));
            }
            let length = piece.len();
            self.length -= length;
            let last = last && self.is_empty();
            to.send_data(piece, last)
                .map_err(|error| Broken::To(error.reason()))?;
            from.flow_control()
                .release_capacity(length)
                .map_err(Broken::From)?;
            patience.took(length);
        }
        Ok(())
    }
}

/// Sends `data` in as many pieces as the receiver's window makes of it. While it has to wait, it is `untaken`, whole:
/// its pieces share its memory.
pub(super) async fn send(
    to: &mut SendStream<Bytes>,
    mut data: Bytes,
    patience: &mut Patience,
    untaken: Option<&Untaken>,
) -> Result<(), Broken> {
    let failed = |error: h2::Error| Broken::To(error.reason());
    let whole = data.len();
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let piece = data.split_to(to.capacity().min(data.len()));
        if piece.is_empty() {
            // Boxed, as it is seldom: a call should be moved cheaply.
            let waiting = untaken.map(|untaken| untaken.wait(whole)).transpose()?;
            let room = Box::pin(patience.wait(poll_fn(|context| to.poll_capacity(context))));
            let room = room.await?;
            if let Some(waiting) = waiting {
                waiting.end();
            }
            room.ok_or(Broken::To(None))?.map_err(failed)?;
            continue;
        }
        patience.took(piece.len());
        to.send_data(piece, false).map_err(failed)?;
    }
    Ok(())
}
