//! Connections whose other side speaks HTTP/1.1, or may do so.

use std::convert::Infallible;
use std::io::{self, Cursor};

use http::header::{CONTENT_LENGTH, HOST};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tonic::body::Body;
use tower::ServiceExt;

use super::authority::mended;
use super::bounded::{Bounded, Counted};
use super::exchange::Outcome;
use super::head::take_out_hop_by_hop;
use super::hygiene::Heard;
use super::moving::Moving;
use super::refusal::is_grpc;
use super::translate::{checked, of_refusal, to_pool};
use super::{ByteStream, Refusal, Session, Target};

/// How HTTP/2 begins (RFC 9113 §3.4); no request of HTTP/1.1 begins so.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl<R: Fn(&mut Parts) -> Target> Session<R> {
    /// Serves `stream` as [`Self::serve`] does, or [`Self::serve_http1`]: its first bytes say which.
    ///
    /// # Errors
    /// The connection is closed.
    pub(crate) async fn serve_either(
        self,
        mut stream: Box<dyn ByteStream>,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), String> {
        let mut first = Vec::new();
        let begun = tokio::select! {
            begun = begin(&mut stream, &mut first) => begun,
            () = tokio::time::sleep(self.settings.age()) => return Ok(()),
            _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
        };
        begun.map_err(|error| error.to_string())?;
        let http2 = first == PREFACE;
        let (read, write) = tokio::io::split(stream);
        let stream = Box::new(tokio::io::join(Cursor::new(first).chain(read), write));
        match http2 {
            true => {
                let served = self.serve(stream, stopping).await;
                served.map_err(|error| error.to_string())
            }
            false => self.serve_http1(stream, stopping).await,
        }
    }

    /// Serves `stream`, whose other side speaks HTTP/1.1.
    ///
    /// # Errors
    /// The other side broke HTTP, takes nothing, or is too old.
    pub(crate) async fn serve_http1(
        self,
        stream: Box<dyn ByteStream>,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), String> {
        let settings = &self.settings;
        let limits = settings.limits();
        let asked = Heard::default();
        let service = service_fn(async |request| {
            asked.note();
            Ok::<_, Infallible>(self.ask(request).await)
        });
        // hyper counts from the end of the last answer: who may be idle for so long has as much for a head.
        let patience = limits.handshake_deadline().max(settings.silence() * 2);
        let mut connection = Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience)
            .max_buf_size(crate::config::size(limits.header_list_bytes).max(8192))
            .serve_connection(TokioIo::new(Moving::new(stream, settings.stall())), service);
        let cut = tokio::time::sleep(settings.oldest());
        let mute = async {
            tokio::time::sleep(limits.handshake_deadline()).await;
            if asked.is() {
                std::future::pending().await
            }
        };
        let old = async {
            tokio::select! {
                () = tokio::time::sleep(settings.age()) => {}
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
        };
        tokio::select! {
            ended = &mut connection => {
                let Err(error) = ended else {
                    return Ok(());
                };
                let idle = error.is_timeout() && connection.into_parts().read_buf.is_empty();
                return if idle { Ok(()) } else { Err(error.to_string()) };
            }
            () = mute => return Err("it does not begin to speak HTTP".to_owned()),
            () = old => std::pin::Pin::new(&mut connection).graceful_shutdown(),
        }
        tokio::select! {
            ended = connection => ended.map_err(|error| error.to_string()),
            () = cut => Err("it is older than limits.connection_age_ms".to_owned()),
        }
    }

    async fn ask(&self, request: Request<Incoming>) -> Response<Body> {
        let settings = &self.settings;
        let grpc = is_grpc(request.headers());
        let (mut head, body) = request.into_parts();
        let target = match self.head(&mut head) {
            Ok(()) => (self.route)(&mut head),
            Err(refusal) => Target::Refuse(refusal),
        };
        let body = Body::new(Bounded::new(body, settings));
        let request = Request::from_parts(head, body);
        let mut counted = Counted::new(settings, self.direction);
        let answer = match target.for_grpc(grpc) {
            Target::Pool(pool, _) => to_pool(request, &pool, settings).await,
            Target::Web(web) => web.ask(request).await,
            Target::Local(routes) => match routes.oneshot(request).await {
                Ok(answer) => Ok(answer),
                Err(never) => match never {},
            },
            Target::Refuse(refusal) => {
                counted.outcome = Outcome::Refused;
                return refusal.response(grpc);
            }
        };
        match answer.and_then(|answer| checked(answer, settings)) {
            Ok(mut answer) => {
                *answer.version_mut() = Version::HTTP_11;
                let length = answer.headers().get(CONTENT_LENGTH);
                let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
                answer.map(|body| Body::new(Bounded::new(body, settings).counting(counted, length)))
            }
            Err(refusal) => {
                counted.outcome = of_refusal(&refusal);
                refusal.response(grpc)
            }
        }
    }

    /// What HTTP/1.1 alone says in the head of a request.
    fn head(&self, head: &mut Parts) -> Result<(), Refusal> {
        self.settings.lists.request(head)?;
        if head.method == Method::CONNECT {
            return Err(Refusal::connect());
        }
        one_host(head)?;
        take_out_hop_by_hop(&mut head.headers);
        Ok(())
    }
}

/// There is one `Host` (RFC 9112 §3.2), and what the target of the request says goes before it (§3.2.2).
fn one_host(head: &mut Parts) -> Result<(), Refusal> {
    let count = head.headers.get_all(HOST).iter().count();
    if count > 1 || count == 0 && head.version == Version::HTTP_11 {
        return Err(Refusal::hosts());
    }
    if let Some(authority) = head.uri.authority() {
        let host = HeaderValue::from_str(host(authority)).ok();
        host.and_then(|host| head.headers.insert(HOST, host));
    } else if let Some(host) = head.headers.get_mut(HOST)
        && Authority::try_from(host.as_bytes()).is_err()
        && let Ok(good) = HeaderValue::from_bytes(&mended(host.as_bytes()))
    {
        // The path of a unix socket, as HTTP/2 says it too.
        *host = good;
    }
    Ok(())
}

/// The host and the port of an authority, without the user that may stand before them.
pub(super) fn host(authority: &Authority) -> &str {
    let text = authority.as_str();
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}

/// Reads until it is known whether HTTP/2 begins.
async fn begin(stream: &mut (impl AsyncRead + Unpin), first: &mut Vec<u8>) -> io::Result<()> {
    while first.len() < PREFACE.len() && PREFACE.starts_with(first) {
        let mut bytes = stream.take(bytes_left(first));
        if bytes.read_buf(first).await? == 0 {
            return Ok(());
        }
    }
    Ok(())
}

fn bytes_left(first: &[u8]) -> u64 {
    PREFACE.len().saturating_sub(first.len()) as u64
}
