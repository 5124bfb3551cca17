//! Bodies in hyper's words, whose trailers say nothing that only we may say and are no larger than they may be.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::clean;
use super::exchange::Outcome;
use super::head::take_out_hop_by_hop;
use super::session::Direction;
use super::settings::Settings;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Such a body.
pub(super) struct Bounded<B> {
    body: B,
    settings: Arc<Settings>,
    /// Counts the call whose answer it is.
    counted: Option<Counted>,
    /// Bytes that are still to come, when the answer says so: hyper reads no further.
    left: Option<u64>,
}

impl<B> Bounded<B> {
    pub(super) fn new(body: B, settings: &Arc<Settings>) -> Self {
        Self {
            body,
            settings: Arc::clone(settings),
            counted: None,
            left: None,
        }
    }

    /// With the end of the body, which has so many bytes, its call ends too.
    pub(super) fn counting(mut self, counted: Counted, length: Option<u64>) -> Self
    where
        B: Body,
    {
        (self.counted, self.left) = (Some(counted), length);
        if self.body.is_end_stream() {
            self.ended(Outcome::Answered);
        }
        self
    }

    fn ended(&mut self, outcome: Outcome) {
        if let Some(counted) = &mut self.counted {
            counted.outcome = outcome;
        }
    }
}

impl<B: Body + Unpin> Body for Bounded<B>
where
    B::Error: Into<Error>,
{
    type Data = B::Data;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Error>>> {
        let this = &mut *self;
        let mut frame = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                this.ended(Outcome::Broken);
                return Poll::Ready(Some(Err(error.into())));
            }
            None => {
                this.ended(Outcome::Answered);
                return Poll::Ready(None);
            }
        };
        if let Some(trailers) = frame.trailers_mut() {
            if let Err(refusal) = this.settings.lists.trailers(trailers) {
                this.ended(Outcome::Refused);
                return Poll::Ready(Some(Err(refusal.message.into())));
            }
            clean_all(trailers);
        }
        if let (Some(left), Some(data)) = (&mut this.left, frame.data_ref()) {
            *left = left.saturating_sub(data.remaining() as u64);
        }
        if this.body.is_end_stream() || this.left == Some(0) {
            this.ended(Outcome::Answered);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Takes out of a request or an answer what only we may say, and what goes no further than this
/// connection.
pub(super) fn clean_all(headers: &mut HeaderMap) {
    clean(headers);
    take_out_hop_by_hop(headers);
}

/// A call that is counted when it is dropped. Until something else is known of it, its caller broke off.
pub(super) struct Counted {
    settings: Arc<Settings>,
    direction: Direction,
    pub(super) outcome: Outcome,
}

impl Counted {
    pub(super) fn new(settings: &Arc<Settings>, direction: Direction) -> Self {
        Self {
            settings: Arc::clone(settings),
            direction,
            outcome: Outcome::Cancelled,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.settings.count(self.direction, self.outcome);
    }
}
