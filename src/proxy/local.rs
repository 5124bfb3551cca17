//! Calls that the node answers itself, in tonic's words.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use tokio::time::timeout;
use tonic::service::Routes;
use tower::Service;

use super::gathered::Gathered;
use super::pump::{Broken, Patience, send};
use super::untaken::Untaken;

/// The body of a request as tonic reads it: the window grows as it is read.
pub(super) struct Received(pub(super) RecvStream);

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match self.0.poll_data(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(data)) => {
                let data = data.and_then(|data| {
                    self.0.flow_control().release_capacity(data.len())?;
                    Ok(Frame::data(data))
                });
                return Poll::Ready(Some(data));
            }
            Poll::Ready(None) => {}
        }
        let trailers = self.0.poll_trailers(context);
        trailers.map(|trailers| Some(trailers.transpose()?.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

/// A call's answer. When it is dropped before its end was sent, the call is reset: whoever still reads what the caller
/// sends would keep it open.
struct Answering {
    respond: SendResponse<Bytes>,
    ended: bool,
}

impl Answering {
    fn new(respond: SendResponse<Bytes>) -> Self {
        Self {
            respond,
            ended: false,
        }
    }

    /// The end was sent.
    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if !self.ended {
            self.respond.send_reset(Reason::CANCEL);
        }
    }
}

/// Answers `request` by `routes`, in a task of its own, as a service may compute: until its caller's deadline, or
/// until its connection is gone. What has to wait of its answer is `untaken`, for no longer than `stall`.
pub(super) fn answer(
    request: Request<Gathered>,
    respond: SendResponse<Bytes>,
    mut routes: Routes,
    stall: Duration,
    untaken: Arc<Untaken>,
) {
    let patience = time_out(request.headers());
    let mut response = routes.call(request);
    let mut answering = Answering::new(respond);
    // It is moved when it is spawned, so it holds nothing twice.
    let task = async move {
        let respond = &mut answering.respond;
        let answered = std::future::poll_fn(|context| {
            if let Poll::Ready(Ok(response)) = response.poll_unpin(context) {
                return Poll::Ready(Some(response));
            }
            respond.poll_reset(context).map(|_| None)
        });
        let Some(answered) = answered.await.map(|response| begin(response, respond)) else {
            return;
        };
        let sent = match answered {
            Ok(Some((body, mut stream))) => {
                match send_body(body, &mut stream, stall, Some(&untaken)).await {
                    Err(Broken::Refused(refusal)) => stream
                        .send_trailers(refusal.trailers())
                        .map_err(|error| Broken::To(error.reason())),
                    sent => sent,
                }
            }
            answered => answered.map(drop),
        };
        if sent.is_ok() {
            answering.end();
        }
    };
    match patience {
        None => tokio::spawn(task),
        // The caller counts the same time, and waits no longer.
        Some(patience) => tokio::spawn(timeout(patience, task).map(drop)),
    };
}

/// `grpc-timeout`: up to eight digits and a unit (grpc/doc/PROTOCOL-HTTP2.md, Requests). What is not of that
/// form is none.
fn time_out(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// Answers with `response`.
pub(super) async fn reply(
    response: Response<tonic::body::Body>,
    respond: &mut SendResponse<Bytes>,
    stall: Duration,
) -> Result<(), Broken> {
    match begin(response, respond)? {
        Some((body, mut stream)) => send_body(body, &mut stream, stall, None).await,
        None => Ok(()),
    }
}

/// Sends the head of `response`. What is still to be sent, and where, if there is more.
fn begin(
    response: Response<tonic::body::Body>,
    respond: &mut SendResponse<Bytes>,
) -> Result<Option<(tonic::body::Body, SendStream<Bytes>)>, Broken> {
    let (head, body) = response.into_parts();
    let whole = body.is_end_stream();
    let stream = respond
        .send_response(Response::from_parts(head, ()), whole)
        .map_err(|error| Broken::To(error.reason()))?;
    Ok((!whole).then_some((body, stream)))
}

/// Sends all of `body`, with its trailers: one piece of it at a time is held.
pub(super) async fn send_body(
    mut body: tonic::body::Body,
    stream: &mut SendStream<Bytes>,
    stall: Duration,
    untaken: Option<&Untaken>,
) -> Result<(), Broken> {
    let failed = |error: h2::Error| Broken::To(error.reason());
    let mut patience = Patience::new(stall);
    loop {
        let data = {
            let frame = std::future::poll_fn(|context| {
                if let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(context) {
                    return Poll::Ready(Ok(frame));
                }
                stream
                    .poll_reset(context)
                    .map(|reset| Err(Broken::To(reset.ok())))
            });
            match frame.await?.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => data,
                Some(Ok(Err(frame))) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return stream.send_trailers(trailers).map_err(failed);
                }
                Some(Err(_)) => {
                    stream.send_reset(Reason::INTERNAL_ERROR);
                    return Err(Broken::Body);
                }
                None => return stream.send_data(Bytes::new(), true).map_err(failed),
            }
        };
        send(stream, data, &mut patience, untaken).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_is_eight_digits_and_a_unit() {
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-timeout"),
                text.parse().unwrap(),
            )]);
            time_out(&headers)
        };
        assert_eq!(of("3H"), Some(Duration::from_secs(10_800)));
        assert_eq!(of("2M"), Some(Duration::from_secs(120)));
        assert_eq!(of("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(of("1m"), Some(Duration::from_millis(1)));
        assert_eq!(of("1u"), Some(Duration::from_micros(1)));
        assert_eq!(of("0n"), Some(Duration::ZERO));
        for malformed in ["", "S", "1", "1s", "+1S", "-1S", "100000000S", " 1S", "1 S"] {
            assert_eq!(of(malformed), None, "{malformed:?}");
        }
    }
}
