//! One call, passed on.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, Uri};

use super::head::clean;
use super::pump::{Broken, Patience, pump};
use super::refusal::is_grpc;
use super::settings::Settings;
use super::{Code, Look, Pool, Refusal};

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
    /// The caller did not take the answer.
    Stalled,
    /// The other side did not take what the caller sent.
    Unread,
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
            Self::Unread => "unread",
        }
    }
}

/// Passes `request` on to whoever is behind `pool`, and the answer back.
pub(super) async fn exchange(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    pool: &Arc<Pool>,
    mut look: Option<Box<dyn Look>>,
    settings: &Settings,
) -> Outcome {
    let grpc = is_grpc(request.headers());
    let (mut head, mut body) = request.into_parts();
    head.uri = with_authority(head.uri, &head.headers);
    // No body comes, so nobody would say that it has ended.
    if body.is_end_stream()
        && let Some(Err(refusal)) = look.as_mut().map(|look| look.end())
    {
        refusal.answer(&mut respond, grpc);
        return Outcome::Refused;
    }
    let ready = {
        let mut ready = pin!(pool.begin());
        let mut or_cancelled = pin!(poll_fn(|context| respond.poll_reset(context)));
        tokio::select! {
            biased;
            ready = &mut ready => Some(ready),
            _ = &mut or_cancelled => None,
        }
    };
    let (mut upstream, _room) = match ready {
        Some(Ok(begun)) => begun,
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
            tracing::debug!(%error, "a call could not be passed on");
            Refusal::unavailable("the call could not be passed on").answer(&mut respond, grpc);
            return Outcome::Unreachable;
        }
    };
    let mut down = None;
    let ended = {
        let mut answering = pin!(answer(response, &mut respond, &mut down, settings));
        let patience = Patience::new(settings.stall());
        let mut asking = pin!(pump(&mut body, &mut up, patience, look, &settings.lists));
        let mut asked = whole;
        loop {
            tokio::select! {
                biased;
                ended = &mut answering => break ended.map_err(End::of_answer),
                ended = &mut asking, if !asked => match ended {
                    // Its answer may still come, and says more.
                    Ok(()) | Err(Broken::To(_)) => asked = true,
                    Err(broken) => break Err(End::of_question(broken)),
                },
            }
        }
    };
    let Err(end) = ended else {
        return Outcome::Answered;
    };
    match (end.told, down) {
        (Told::Nothing, _) => {}
        (Told::Reset(reason), None) => respond.send_reset(reason),
        (Told::Reset(reason), Some(mut down)) => down.send_reset(reason),
        (Told::Refusal(refusal), None) => refusal.answer(&mut respond, grpc),
        (Told::Refusal(refusal), Some(mut down)) if grpc => {
            let _ = down.send_trailers(refusal.trailers());
        }
        (Told::Refusal(_), Some(mut down)) => down.send_reset(Reason::INTERNAL_ERROR),
    }
    up.send_reset(end.passed_on);
    end.outcome
}

/// A request need not have an `:authority` (RFC 9113 §8.3.1), but h2 passes none on without.
pub(super) fn with_authority(uri: Uri, headers: &HeaderMap) -> Uri {
    if uri.authority().is_some() {
        return uri;
    }
    let host = headers
        .get(HOST)
        .and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = uri.into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(host.unwrap_or(Authority::from_static("localhost")));
    Uri::from_parts(parts).unwrap_or_default()
}

/// How a call ended that was not answered to its end.
struct End {
    outcome: Outcome,
    /// What the caller hears.
    told: Told,
    /// What the other side hears.
    passed_on: Reason,
}

/// What the caller of such a call hears.
enum Told {
    /// It is gone.
    Nothing,
    Reset(Reason),
    Refusal(Refusal),
}

impl End {
    fn new(outcome: Outcome, told: Told) -> Self {
        Self {
            outcome,
            told,
            passed_on: Reason::CANCEL,
        }
    }

    /// The answer did not arrive.
    fn of_answer(broken: Broken) -> Self {
        match broken {
            Broken::To(reason) => Self {
                passed_on: reason.unwrap_or(Reason::CANCEL),
                ..Self::new(Outcome::Cancelled, Told::Nothing)
            },
            Broken::From(error) => Self::new(Outcome::Broken, lost(&error)),
            Broken::Stalled => Self::late(Outcome::Stalled, "the answer was not taken in time"),
            Broken::Refused(refusal) => Self::new(Outcome::Refused, Told::Refusal(refusal)),
            Broken::Body => Self::new(Outcome::Broken, Told::Reset(Reason::INTERNAL_ERROR)),
        }
    }

    /// What the caller sends did not arrive.
    fn of_question(broken: Broken) -> Self {
        match broken {
            Broken::From(error) => Self::of_answer(Broken::To(error.reason())),
            Broken::Stalled => Self::late(
                Outcome::Unread,
                "the other side does not take what was sent in time",
            ),
            broken => Self::of_answer(broken),
        }
    }

    fn late(outcome: Outcome, what: &str) -> Self {
        Self::new(outcome, Told::Refusal(late(what)))
    }
}

/// Somebody takes too little.
pub(super) fn late(what: &str) -> Refusal {
    Refusal {
        code: Code::DeadlineExceeded,
        message: format!("{what} (limits.stall_ms)"),
    }
}

/// What a caller hears of an error of the other side who knows no resets.
pub(super) fn lost_in_words(error: &h2::Error) -> Refusal {
    match lost(error) {
        Told::Refusal(refusal) => refusal,
        Told::Nothing | Told::Reset(_) => Refusal::unavailable("the other side ended the call"),
    }
}

/// What the caller hears of an error of the other side.
fn lost(error: &h2::Error) -> Told {
    match error.reason() {
        // Only with a GOAWAY that came has the other side said that it has not seen the call, and the
        // caller may send it again (RFC 9113 §8.7): h2 ends those calls with it that are above its
        // last stream, and lets the others go on.
        Some(_) if error.is_go_away() && error.is_remote() => Told::Reset(Reason::REFUSED_STREAM),
        // h2 does not say what it found.
        Some(Reason::PROTOCOL_ERROR) if error.is_reset() && error.is_library() => {
            let broken =
                "the answer breaks HTTP/2, or its headers are far above limits.header_list_bytes";
            Told::Refusal(Refusal {
                code: Code::Internal,
                message: broken.into(),
            })
        }
        Some(reason) if error.is_reset() => Told::Reset(reason),
        _ => {
            let lost = "the connection behind this call was lost";
            let refusal = match error.get_io() {
                // We ended it, for what was sent.
                Some(why) if why.kind() == io::ErrorKind::InvalidData => {
                    Refusal::unavailable(format!("{lost}: {why}"))
                }
                _ => Refusal::unavailable(lost),
            };
            Told::Refusal(refusal)
        }
    }
}

/// Passes the answer back; `down` is there once its head was.
async fn answer(
    mut response: ResponseFuture,
    respond: &mut SendResponse<Bytes>,
    down: &mut Option<SendStream<Bytes>>,
    settings: &Settings,
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
    let lists = &settings.lists;
    lists.answer(&head.headers).map_err(Broken::Refused)?;
    clean(&mut head.headers);
    let whole = body.is_end_stream();
    let sent = respond.send_response(http::Response::from_parts(head, ()), whole);
    let down = down.insert(sent.map_err(|error| Broken::To(error.reason()))?);
    match whole {
        true => Ok(()),
        false => {
            pump(
                &mut body,
                down,
                Patience::new(settings.stall()),
                None,
                lists,
            )
            .await
        }
    }
}
