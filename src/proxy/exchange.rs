//! One call, passed on.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Request;

use super::head::clean;
use super::pump::{Broken, pump};
use super::refusal::is_grpc;
use super::{Look, Pool, Refusal};

/// How a call ended, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The other side answered, whatever it said.
    Answered,
    /// The caller broke off.
    Cancelled,
    /// The other side broke off.
    Broken,
    /// The other side could not be reached.
    Unreachable,
    /// Passing it on was not allowed.
    Refused,
    /// Somebody did not take what was sent.
    Stalled,
}

impl Outcome {
    /// The name for metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Cancelled => "cancelled",
            Self::Broken => "broken",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Stalled => "stalled",
        }
    }
}

/// Passes `request` on to whoever is behind `pool`, and the answer back.
pub(super) async fn exchange(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    pool: &Pool,
    mut look: Option<Box<dyn Look>>,
    stall: Duration,
) -> Outcome {
    let grpc = is_grpc(request.headers());
    let (head, mut body) = request.into_parts();
    // No body comes, so nobody would say that it has ended.
    if body.is_end_stream()
        && let Some(Err(refusal)) = look.as_mut().map(|look| look.end())
    {
        refusal.answer(&mut respond, grpc);
        return Outcome::Refused;
    }
    let ready = {
        let mut ready = pin!(pool.ready());
        let mut or_cancelled = pin!(poll_fn(|context| respond.poll_reset(context)));
        tokio::select! {
            biased;
            ready = &mut ready => Some(ready),
            _ = &mut or_cancelled => None,
        }
    };
    let mut upstream = match ready {
        Some(Ok(upstream)) => upstream,
        Some(Err(refusal)) => {
            refusal.answer(&mut respond, grpc);
            return Outcome::Unreachable;
        }
        None => return Outcome::Cancelled,
    };
    let whole = body.is_end_stream();
    let (response, mut up) = match upstream.send_request(Request::from_parts(head, ()), whole) {
        Ok(begun) => begun,
        Err(error) => {
            Refusal::unavailable(format!("the call could not be passed on: {error}"))
                .answer(&mut respond, grpc);
            return Outcome::Unreachable;
        }
    };
    let mut down = None;
    let ended = {
        let mut answering = pin!(answer(response, &mut respond, &mut down, stall));
        let mut asking = pin!(pump(&mut body, &mut up, stall, look));
        let mut asked = whole;
        loop {
            tokio::select! {
                biased;
                ended = &mut answering => break ended,
                ended = &mut asking, if !asked => match ended {
                    // Its answer may still come, and says more.
                    Ok(()) | Err(Broken::To(_)) => asked = true,
                    Err(Broken::From(error)) => break Err(Broken::To(error.reason())),
                    Err(broken) => break Err(broken),
                },
            }
        }
    };
    let (outcome, reason) = finish(ended, &mut respond, down, grpc);
    if outcome != Outcome::Answered {
        up.send_reset(reason);
    }
    outcome
}

/// Tells the caller how it ended; says how to count it, and what to tell the other side.
fn finish(
    ended: Result<(), Broken>,
    respond: &mut SendResponse<Bytes>,
    down: Option<SendStream<Bytes>>,
    grpc: bool,
) -> (Outcome, Reason) {
    let lost = |error: &h2::Error| match error.reason() {
        // It has not seen the call: the caller may send it again (RFC 9113 §8.7).
        Some(_) if error.is_go_away() => Ok(Reason::REFUSED_STREAM),
        Some(reason) if error.is_reset() => Ok(reason),
        _ => Err(Refusal::unavailable(
            "the connection behind this call was lost",
        )),
    };
    match (ended, down) {
        (Ok(()), _) => (Outcome::Answered, Reason::NO_ERROR),
        (Err(Broken::To(reason)), _) => (Outcome::Cancelled, reason.unwrap_or(Reason::CANCEL)),
        (Err(Broken::From(error)), None) => {
            match lost(&error) {
                Ok(reason) => respond.send_reset(reason),
                Err(refusal) => refusal.answer(respond, grpc),
            }
            (Outcome::Broken, Reason::CANCEL)
        }
        (Err(Broken::From(error)), Some(mut down)) => {
            match lost(&error) {
                Err(refusal) if grpc => {
                    let _ = down.send_trailers(refusal.trailers());
                }
                Ok(reason) => down.send_reset(reason),
                Err(_) => down.send_reset(Reason::INTERNAL_ERROR),
            }
            (Outcome::Broken, Reason::CANCEL)
        }
        (Err(Broken::Stalled), down) => {
            match down {
                Some(mut down) => down.send_reset(Reason::CANCEL),
                None => respond.send_reset(Reason::CANCEL),
            }
            (Outcome::Stalled, Reason::CANCEL)
        }
        (Err(Broken::Refused(refusal)), None) => {
            refusal.answer(respond, grpc);
            (Outcome::Refused, Reason::CANCEL)
        }
        (Err(Broken::Refused(refusal)), Some(mut down)) => {
            let _ = down.send_trailers(refusal.trailers());
            (Outcome::Refused, Reason::CANCEL)
        }
    }
}

/// Passes the answer back; `down` is there once its head was.
async fn answer(
    mut response: ResponseFuture,
    respond: &mut SendResponse<Bytes>,
    down: &mut Option<SendStream<Bytes>>,
    stall: Duration,
) -> Result<(), Broken> {
    let response = poll_fn(|context| {
        if let Poll::Ready(response) = Future::poll(std::pin::Pin::new(&mut response), context) {
            return Poll::Ready(response.map_err(Broken::From));
        }
        respond
            .poll_reset(context)
            .map(|reset| Err(Broken::To(reset.ok())))
    })
    .await?;
    let (mut head, mut body) = response.into_parts();
    clean(&mut head.headers);
    let whole = body.is_end_stream();
    let sent = respond.send_response(http::Response::from_parts(head, ()), whole);
    let down = down.insert(sent.map_err(|error| Broken::To(error.reason()))?);
    match whole {
        true => Ok(()),
        false => pump(&mut body, down, stall, None).await,
    }
}
