//! An application that speaks HTTP/1.1. Its peers may speak HTTP/2 or HTTP/1.1 with us.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use http_body::Body as _;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::body::Body;

use super::exchange::late;
use super::http1::host;
use super::moving::Moving;
use super::{ByteStream, Code, Refusal, Settings, Upstream};
use crate::config::size;

/// How long a connection to the application is kept for the next request: while it is, no other peer has it.
const KEPT: Duration = Duration::from_secs(1);
/// What hyper reads of an answer ahead of its caller; three times as much may be held of each. A head must fit, too.
const AHEAD: usize = 64 << 10;
/// Why a request had none.
const FULL: &str =
    "all connections to the application are busy (limits.connections, limits.peer_connections)";

/// The application as an HTTP/1.1 server; its connections are kept for the next request.
pub(crate) struct Web(Client<tower::util::BoxCloneSyncService<Uri, Held, io::Error>, Body>);

impl Web {
    /// No connection is made yet. HTTP/1.1 needs one for each request under way: there are never more
    /// than a peer may have, nor than `all` has room for; a request waits until one is free,
    /// as long as for the application itself. One whose application takes nothing for too long ends.
    pub(crate) fn new(upstream: Upstream, settings: &Settings, all: Arc<Semaphore>) -> Self {
        let (limits, stall) = (settings.limits(), settings.stall());
        let own = Arc::new(Semaphore::new(size(limits.peer_connections)));
        let dial = tower::service_fn(move |_: Uri| {
            let (upstream, own, all) = (upstream.clone(), Arc::clone(&own), Arc::clone(&all));
            async move {
                let room = async { (own.acquire_owned().await, all.acquire_owned().await) };
                let (Ok(own), Ok(all)) =
                    timeout(upstream.patience(), room).await.map_err(|late| {
                        upstream.unreachable(FULL);
                        io::Error::new(io::ErrorKind::ResourceBusy, late)
                    })?
                else {
                    return Err(io::ErrorKind::BrokenPipe.into());
                };
                let stream = upstream.connect().await.map_err(io::Error::other)?;
                Ok(Held(TokioIo::new(Moving::new(stream, stall)), own, all))
            }
        });
        let dial = tower::util::BoxCloneSyncService::new(dial);
        let mut client = Client::builder(TokioExecutor::new());
        client
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT)
            .http1_max_buf_size(AHEAD.max(size(limits.header_list_bytes)));
        Self(client.build(dial))
    }

    /// Asks the application.
    pub(super) async fn ask(&self, mut request: Request<Body>) -> Result<Response<Body>, Refusal> {
        // What HTTP/2 says in its pseudo-header, HTTP/1.1 says here and nowhere else (RFC 9113 §8.3.1).
        if let Some(authority) = request.uri().authority()
            && let Ok(host) = HeaderValue::from_str(host(authority))
        {
            request.headers_mut().insert(HOST, host);
        }
        if request.headers().get_all(HOST).iter().count() > 1 {
            return Err(Refusal::hosts());
        }
        one_cookie(request.headers_mut());
        request.headers_mut().remove(TE);
        // hyper sends no body of a GET or a HEAD unless its headers say that there is one.
        if !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH) {
            let chunked = HeaderValue::from_static("chunked");
            request.headers_mut().insert(TRANSFER_ENCODING, chunked);
        }
        *request.uri_mut() = local(request.uri());
        *request.version_mut() = Version::HTTP_11;
        let answer = self.0.request(request).await;
        answer
            .map(|answer| answer.map(Body::new))
            .map_err(|error| no_answer(&error))
    }
}

/// HTTP/2 may cut a `Cookie` into several lines; HTTP/1.1 has one (RFC 9113 §8.2.3).
fn one_cookie(headers: &mut HeaderMap) {
    let cut: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cut.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&cut.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

/// Why there is no answer, in words that a peer may read.
fn no_answer(error: &hyper_util::client::legacy::Error) -> Refusal {
    let first: &(dyn std::error::Error + 'static) = error;
    tracing::debug!(error = %crate::fault::chain(first), "the application gives no answer");
    let mut causes = std::iter::successors(Some(first), |error| error.source());
    let known = causes.find_map(|error| {
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && error.is_parse_too_large()
        {
            return Some(Refusal {
                code: Code::AnswerTooLarge,
                message: "the headers of the answer are too large, or more than 100".into(),
            });
        }
        match error.downcast_ref::<io::Error>()?.kind() {
            io::ErrorKind::ResourceBusy => Some(Refusal::unavailable(FULL)),
            io::ErrorKind::TimedOut => {
                Some(late("the application does not take what was sent in time"))
            }
            _ => None,
        }
    });
    known
        .unwrap_or_else(|| Refusal::unavailable("the application behind this node gives no answer"))
}

/// The same path at a place that is never looked up.
fn local(uri: &Uri) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(http::uri::Authority::from_static("localhost"));
    let path = uri.path_and_query().cloned();
    parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(parts).unwrap_or_default()
}

/// A connection of [`Client`]'s pool.
pub(crate) struct Held(
    TokioIo<Moving<Box<dyn ByteStream>>>,
    #[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit,
    #[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit,
);

impl Connection for Held {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
