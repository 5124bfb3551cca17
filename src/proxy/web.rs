//! An application that speaks HTTP/1.1. Its peers may speak HTTP/2 or HTTP/1.1 with us, and it may speak
//! either with us: hyper translates.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::HOST;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tonic::body::Body;

use super::head::take_out_hop_by_hop;
use super::hygiene::Watched;
use super::moving::Moving;
use super::session::Settings;
use super::{ByteStream, Upstream, clean};

/// An answer, or the text of why there is none.
pub(crate) type Answer = Result<Response<Body>, String>;

/// How long a connection to the application is kept for the next request: while it is, no other peer has it.
const KEPT: Duration = Duration::from_secs(1);
/// Why a request had none.
const FULL: &str =
    "all connections to the application are busy (limits.connections, limits.peer_connections)";

/// The application as an HTTP/1.1 server; its connections are kept for the next request.
pub(crate) struct Web(Client<tower::util::BoxCloneSyncService<Uri, Held, io::Error>, Body>);

impl Web {
    /// No connection is made yet. HTTP/1.1 needs one for each request under way: there are never more
    /// than `most`, nor than `all` has room for; a request waits until one is free,
    /// as long as for the application itself.
    pub(crate) fn new(upstream: Upstream, most: usize, all: Arc<Semaphore>) -> Self {
        let own = Arc::new(Semaphore::new(most));
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
                Ok(Held(TokioIo::new(stream), own, all))
            }
        });
        let dial = tower::util::BoxCloneSyncService::new(dial);
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_timer(TokioTimer::new()).pool_idle_timeout(KEPT);
        Self(client.build(dial))
    }

    /// Asks the application.
    pub(crate) async fn ask(&self, mut request: Request<Body>) -> Answer {
        // What HTTP/2 says in its pseudo-header (RFC 9113 §8.3.1), HTTP/1.1 says here.
        if let Some(authority) = request.uri().authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            request.headers_mut().entry(HOST).or_insert(host);
        }
        let mut request = request.map(|body| Body::new(CleanTrailers(body)));
        *request.uri_mut() = local(request.uri());
        *request.version_mut() = Version::HTTP_11;
        let answer = self.0.request(request).await.map_err(|error| {
            let full = is_full(&error);
            let error = crate::fault::chain(&error).to_string();
            tracing::debug!(error, "the application gives no answer");
            match full {
                true => FULL.to_owned(),
                false => "the application behind this node gives no answer".to_owned(),
            }
        })?;
        let mut answer = answer.map(|body| Body::new(CleanTrailers(body)));
        clean_all(answer.headers_mut());
        Ok(answer)
    }
}

/// Whether no connection was free.
fn is_full(error: &hyper_util::client::legacy::Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::ResourceBusy)
}

/// The same path at a place that is never looked up.
fn local(uri: &Uri) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(http::uri::Authority::from_static("application.invalid"));
    let path = uri.path_and_query().cloned();
    parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(parts).unwrap_or_default()
}

/// Takes out of a request or an answer what only we may say, and what goes no further than this
/// connection.
pub(crate) fn clean_all(headers: &mut HeaderMap) {
    clean(headers);
    take_out_hop_by_hop(headers);
}

/// A body whose trailers say nothing that only we may say.
struct CleanTrailers<B>(B);

impl<B: http_body::Body + Unpin> http_body::Body for CleanTrailers<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut frame = ready!(Pin::new(&mut self.0).poll_frame(context));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            clean_all(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// Serves one connection, whichever HTTP it speaks, by `ask`, until its other side ends it or `stopping`
/// turns true and the running requests have ended. With `counted` it speaks HTTP/2, and its frames are
/// counted.
///
/// # Errors
/// The other side broke HTTP, takes nothing, or is too old.
pub(crate) async fn serve<F>(
    settings: &Settings,
    stream: impl ByteStream,
    counted: bool,
    mut stopping: watch::Receiver<bool>,
    ask: impl Fn(Request<Body>) -> F,
) -> Result<(), String>
where
    F: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let asked = ask(request.map(Body::new));
        async move { Ok::<_, Infallible>(asked.await.unwrap_or_else(unavailable)) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    settings.bound(&mut builder);
    let stream = Moving::new(stream, settings.stall());
    let stream: Box<dyn ByteStream> = match counted {
        true => Box::new(Watched::server(stream).0),
        false => Box::new(stream),
    };
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let cut = tokio::time::sleep(settings.oldest());
    tokio::pin!(connection);
    let old = async {
        tokio::select! {
            () = tokio::time::sleep(settings.age()) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    };
    tokio::select! {
        ended = &mut connection => return ended.map_err(|error| error.to_string()),
        () = old => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = connection => ended.map_err(|error| error.to_string()),
        () = cut => Err("it is older than limits.connection_age_ms".to_owned()),
    }
}

fn unavailable(why: String) -> Response<Body> {
    let mut response = Response::new(Body::new(why + "\n"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

impl Settings {
    fn bound(&self, builder: &mut auto::Builder<TokioExecutor>) {
        let limits = self.limits();
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.handshake_deadline())
            .max_buf_size(crate::config::size(limits.header_list_bytes).max(8192));
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(self.silence())
            .keep_alive_timeout(self.silence())
            .initial_stream_window_size(crate::config::size32(limits.stream_window_bytes))
            .initial_connection_window_size(crate::config::size32(limits.connection_window_bytes))
            .max_concurrent_streams(crate::config::size32(limits.streams))
            .max_frame_size(crate::config::size32(limits.frame_bytes))
            .max_header_list_size(crate::config::size32(limits.header_list_bytes));
    }
}

/// A connection of [`Client`]'s pool.
pub(crate) struct Held(
    TokioIo<Box<dyn ByteStream>>,
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
