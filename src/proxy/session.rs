//! One connection whose other side calls: a peer's (ingress), or the application's (egress).

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Either;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Method;
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tonic::service::Routes;

use super::bounded::Counted;
use super::budget::Budget;
use super::exchange::{Outcome, exchange};
use super::gathered::Gathered;
use super::hygiene::{Heard, Watched, silence};
use super::refusal::is_grpc;
use super::settings::Settings;
use super::untaken::{Stalls, Untaken};
use super::{ByteStream, Code, Look, Pool, Refusal, Web, local, translate};
use crate::config::size;

/// How long who was told to leave may go on calling: it may not have heard it yet.
const LEAVE: Duration = Duration::from_secs(5);

/// Where a call goes.
pub(crate) enum Target {
    /// To whoever is behind this pool, if what is sent stands the look.
    Pool(Arc<Pool>, Option<Box<dyn Look>>),
    /// To an application that speaks HTTP/1.1.
    Web(Arc<Web>),
    /// To ourselves, who speak gRPC alone.
    Local(Routes),
    /// Nowhere.
    Refuse(Refusal),
}

impl Target {
    /// For a call that is one of gRPC, or is not.
    pub(super) fn for_grpc(self, grpc: bool) -> Self {
        match self {
            Self::Local(_) if !grpc => Self::Refuse(Refusal {
                code: Code::Unimplemented,
                message: "the node itself speaks gRPC alone".into(),
            }),
            target => target,
        }
    }
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// A peer.
    Ingress,
    /// The application.
    Egress,
}

impl Direction {
    /// The name for metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// A connection's settings, and where its calls go.
pub(crate) struct Session<R> {
    pub(crate) settings: Arc<Settings>,
    pub(crate) direction: Direction,
    /// Reads a call's head, changes what must be changed in it, and says where it goes.
    pub(crate) route: R,
}

/// What time says to a session.
enum Clock {
    /// The other side is to leave.
    Leave,
    /// It has had the time to.
    Left,
    Ended(Ended),
}

/// Why a session is over before the other side ended it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// The other side broke HTTP/2, or sent a flood.
    #[error("HTTP/2: {0}")]
    Broken(#[from] h2::Error),
    /// Not even the beginning of HTTP/2 came in time.
    #[error("it does not begin to speak HTTP/2")]
    Mute,
    /// It answered no PING.
    #[error("it is silent")]
    Silent,
    /// It takes nothing of what it asked for.
    #[error("it takes nothing of what it asked for")]
    Stalled,
    /// It was asked to end long ago.
    #[error("it is older than limits.connection_age_ms, and its calls do not end")]
    Old,
}

/// The next call. When there is none and reading stands still, it goes on after the calls that are under way have
/// had their turn.
async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<S, Bytes>,
    heard: &Heard,
) -> Option<Result<(http::Request<RecvStream>, SendResponse<Bytes>), h2::Error>> {
    poll_fn(|context| {
        let polled = connection.poll_accept(context);
        if polled.is_pending() && heard.go_on() {
            context.waker().wake_by_ref();
        }
        polled
    })
    .await
}

impl<R: Fn(&mut Parts) -> Target> Session<R> {
    /// Serves `stream` until its other side ends it, or until `stopping` turns true and the running
    /// calls have ended.
    ///
    /// # Errors
    /// [`Ended`]: the connection is closed.
    pub(crate) async fn serve(
        self,
        stream: Box<dyn ByteStream>,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), Ended> {
        let settings = &self.settings;
        let (watched, heard) = Watched::server(stream);
        let watched = watched.bounding(&settings.lists).pausing();
        let watched = match self.direction {
            Direction::Egress => watched.mending(),
            Direction::Ingress => watched,
        };
        // Boxed, as all that is not wanted later: an idle connection should cost little.
        let begun = Box::pin(tokio::time::timeout(
            settings.begin(),
            settings.server.handshake::<_, Bytes>(watched),
        ));
        let Ok(begun) = begun.await else {
            return Err(Ended::Mute);
        };
        let mut connection = begun?;
        let Some(ping) = connection.ping_pong() else {
            return Ok(());
        };
        let silent = async {
            silence(ping, heard.clone(), settings.silence()).await;
            Clock::Ended(Ended::Silent)
        };
        let cut = async {
            tokio::time::sleep(settings.oldest()).await;
            Clock::Ended(Ended::Old)
        };
        let old = async {
            tokio::select! {
                () = tokio::time::sleep(settings.age()) => {}
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
            Clock::Leave
        };
        // Each is asked only when it has something to say, and not with every call.
        let mut clocks = FuturesUnordered::from_iter([silent.boxed(), cut.boxed(), old.boxed()]);
        let mut calls = FuturesUnordered::new();
        let budget = Arc::new(Budget::new(settings.budget()));
        let untaken = Arc::new(Untaken::new(settings.budget()));
        let mut stalls = Stalls::new(settings.stall());
        let mut leaving = false;
        loop {
            tokio::select! {
                biased;
                // First, as who always has the next call ready would let nothing behind it come.
                Some(clock) = clocks.next() => match clock {
                    Clock::Ended(ended) => return Err(ended),
                    Clock::Leave => {
                        connection.graceful_shutdown();
                        clocks.push(tokio::time::sleep(LEAVE).map(|()| Clock::Left).boxed());
                    }
                    Clock::Left => leaving = true,
                },
                Some(outcome) = calls.next(), if !calls.is_empty() => {
                    if outcome == Outcome::Stalled {
                        stalls.note();
                    }
                }
                accepted = accept(&mut connection, &heard) => {
                    let (request, mut respond) = match accepted {
                        Some(accepted) => accepted?,
                        None => return Ok(()),
                    };
                    // Taken back before anybody has looked at it: it goes nowhere.
                    if poll_fn(|context| respond.poll_reset(context)).now_or_never().is_some() {
                        settings.count(self.direction, Outcome::Cancelled);
                        continue;
                    }
                    let (request, target) = self.target(request);
                    let target = match leaving {
                        true => Target::Refuse(Refusal::unavailable("this connection is to end")),
                        false => target,
                    };
                    match (request, target) {
                        (request, Target::Pool(pool, look)) => {
                            calls.push(Either::Left(self.pass_on(request, respond, pool, look)));
                        }
                        (request, Target::Web(web)) => {
                            calls.push(Either::Right(self.translate(request, respond, web)));
                        }
                        (request, Target::Local(routes)) => {
                            let longest = size(settings.limits().message_bytes);
                            let request = request.map(|body| Gathered::new(body, longest, budget.clone()));
                            local::answer(request, respond, routes, settings.stall(), untaken.clone());
                        }
                        (request, Target::Refuse(refusal)) => {
                            self.refuse(&request, respond, &refusal);
                        }
                    }
                    // Asked when there is something to do anyway: to be woken for each would cost every
                    // call another round of the connection.
                    for _ in 0..untaken.stalled() {
                        stalls.note();
                    }
                }
            }
            if stalls.are_too_many() {
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                return Err(Ended::Stalled);
            }
        }
    }

    fn target(&self, request: http::Request<RecvStream>) -> (http::Request<RecvStream>, Target) {
        let (mut head, body) = request.into_parts();
        let target = match (self.settings.lists.request(&head), &head.method) {
            (Err(refusal), _) => Target::Refuse(refusal),
            (Ok(()), &Method::CONNECT) => Target::Refuse(Refusal::connect()),
            (Ok(()), _) => (self.route)(&mut head),
        };
        let request = http::Request::from_parts(head, body);
        let grpc = is_grpc(request.headers());
        (request, target.for_grpc(grpc))
    }

    async fn pass_on(
        &self,
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
        pool: Arc<Pool>,
        look: Option<Box<dyn Look>>,
    ) -> Outcome {
        let mut counted = Counted::new(&self.settings, self.direction);
        counted.outcome = exchange(request, respond, &pool, look, &self.settings).await;
        counted.outcome
    }

    async fn translate(
        &self,
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
        web: Arc<Web>,
    ) -> Outcome {
        let mut counted = Counted::new(&self.settings, self.direction);
        counted.outcome = translate::to_web(request, respond, &web, &self.settings).await;
        counted.outcome
    }

    fn refuse(
        &self,
        request: &http::Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        refusal: &Refusal,
    ) {
        refusal.answer(&mut respond, is_grpc(request.headers()));
        self.settings.count(self.direction, Outcome::Refused);
    }
}
