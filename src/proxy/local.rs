//! Calls that the node answers itself, in tonic's words.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use tokio::time::timeout;
use tonic::service::Routes;
use tower::Service;

use super::exchange::Outcome;
use super::gathered::Gathered;
use super::pump::{Broken, Patience, send};

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

/// Answers `request` by `routes`, until its caller's deadline.
pub(super) async fn answer(
    request: Request<Gathered>,
    respond: SendResponse<Bytes>,
    routes: Routes,
    stall: Duration,
) -> Outcome {
    match time_out(request.headers()) {
        None => answer_in_time(request, respond, routes, stall).await,
        Some(patience) => {
            let answering = answer_in_time(request, respond, routes, stall);
            // The caller counts the same time, and waits no longer.
            timeout(patience, answering)
                .await
                .unwrap_or(Outcome::Cancelled)
        }
    }
}

async fn answer_in_time(
    request: Request<Gathered>,
    mut respond: SendResponse<Bytes>,
    mut routes: Routes,
    stall: Duration,
) -> Outcome {
    let response = tokio::select! {
        Ok(response) = routes.call(request) => response,
        _ = std::future::poll_fn(|context| respond.poll_reset(context)) => return Outcome::Cancelled,
    };
    match reply(response, &mut respond, stall).await {
        Ok(()) => Outcome::Answered,
        Err(Broken::Stalled) => Outcome::Stalled,
        Err(_) => Outcome::Cancelled,
    }
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
    let failed = |error: h2::Error| Broken::To(error.reason());
    let (head, body) = response.into_parts();
    let whole = body.is_end_stream();
    let mut stream = respond
        .send_response(Response::from_parts(head, ()), whole)
        .map_err(failed)?;
    if whole {
        return Ok(());
    }
    send_body(body, &mut stream, stall).await
}

/// Sends all of `body`, with its trailers.
pub(super) async fn send_body(
    mut body: tonic::body::Body,
    stream: &mut SendStream<Bytes>,
    stall: Duration,
) -> Result<(), Broken> {
    let failed = |error: h2::Error| Broken::To(error.reason());
    let mut patience = Patience::new(stall);
    let mut trailers: Option<HeaderMap> = None;
    loop {
        let frame = std::future::poll_fn(|context| {
            if let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(context) {
                return Poll::Ready(Ok(frame));
            }
            stream
                .poll_reset(context)
                .map(|reset| Err(Broken::To(reset.ok())))
        })
        .await?;
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => send(stream, data, &mut patience).await?,
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Some(Err(_)) => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Err(Broken::Body);
            }
            None => break,
        }
    }
    match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None => stream.send_data(Bytes::new(), true),
    }
    .map_err(failed)
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
