//! Calls between the two versions of HTTP: a caller of HTTP/2 and an application of HTTP/1.1 ([`to_web`]), or a
//! caller of HTTP/1.1 and a peer ([`to_pool`]).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::HOST;
use http::{Request, Response, Version};
use http_body::{Body as _, Frame};
use tokio::task::JoinSet;
use tonic::body::Body;

use super::bounded::{Bounded, clean_all};
use super::exchange::{Outcome, late, lost_in_words, with_authority};
use super::local::{Received, reply, send_body};
use super::opening::Room;
use super::pump::Broken;
use super::refusal::is_grpc;
use super::settings::Settings;
use super::{Code, Pool, Refusal, Web};

/// Passes `request` on to an application that speaks HTTP/1.1, and the answer back.
pub(super) async fn to_web(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    web: &Web,
    settings: &Arc<Settings>,
) -> Outcome {
    let grpc = is_grpc(request.headers());
    let request = request.map(|body| Body::new(Bounded::new(Received(body), settings)));
    let answer = tokio::select! {
        answer = web.ask(request) => answer,
        _ = std::future::poll_fn(|context| respond.poll_reset(context)) => return Outcome::Cancelled,
    };
    let answer = match answer.and_then(|answer| checked(answer, settings)) {
        Ok(answer) => answer.map(|body| Body::new(Bounded::new(body, settings))),
        Err(refusal) => {
            refusal.answer(&mut respond, grpc);
            return of_refusal(&refusal);
        }
    };
    match reply(answer, &mut respond, settings.stall()).await {
        Ok(()) => Outcome::Answered,
        Err(Broken::Stalled) => Outcome::Stalled,
        Err(Broken::Body) => Outcome::Broken,
        Err(_) => Outcome::Cancelled,
    }
}

/// Passes `request` on to whoever is behind `pool`.
pub(super) async fn to_pool(
    request: Request<Body>,
    pool: &Arc<Pool>,
    settings: &Settings,
) -> Result<Response<Body>, Refusal> {
    let (mut head, body) = request.into_parts();
    head.uri = with_authority(head.uri, &head.headers);
    head.headers.remove(HOST);
    head.version = Version::HTTP_2;
    let whole = body.is_end_stream();
    let (mut upstream, room) = pool.begin().await?;
    let begun = upstream.send_request(Request::from_parts(head, ()), whole);
    let (response, up) = begun.map_err(|error| {
        tracing::debug!(%error, "a call could not be passed on");
        Refusal::unavailable("the call could not be passed on")
    })?;
    // An answer may well come before its question has ended; the two go on side by side.
    let mut upload = JoinSet::new();
    if !whole {
        upload.spawn(send_request_body(body, up, settings.stall()));
    }
    tokio::pin!(response);
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut response => break answer.map_err(|error| lost_in_words(&error))?,
            Some(ended) = upload.join_next() => if let Ok(Err(refusal)) = ended {
                return Err(refusal);
            },
        }
    };
    Ok(answer.map(|body| {
        Body::new(Answering {
            body: Received(body),
            _upload: upload,
            _room: room,
        })
    }))
}

/// An answer whose head may be passed on.
pub(super) fn checked(
    mut answer: Response<Body>,
    settings: &Settings,
) -> Result<Response<Body>, Refusal> {
    settings.lists.answer(answer.headers())?;
    clean_all(answer.headers_mut());
    Ok(answer)
}

/// What a call counts as that was answered so.
pub(super) fn of_refusal(refusal: &Refusal) -> Outcome {
    match refusal.code {
        Code::Unavailable => Outcome::Unreachable,
        Code::DeadlineExceeded => Outcome::Unread,
        _ => Outcome::Refused,
    }
}

async fn send_request_body(
    body: Body,
    mut up: SendStream<Bytes>,
    stall: std::time::Duration,
) -> Result<(), Refusal> {
    match send_body(body, &mut up, stall, None).await {
        Err(Broken::Stalled) => {
            up.send_reset(h2::Reason::CANCEL);
            Err(late("the other side does not take what was sent in time"))
        }
        // Its answer says more.
        _ => Ok(()),
    }
}

/// The body of an answer, and what is still sent to whoever gives it: both end with it.
struct Answering {
    body: Received,
    _upload: JoinSet<Result<(), Refusal>>,
    _room: Room,
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
