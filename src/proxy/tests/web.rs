//! Applications that speak HTTP/1.1.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::request::Parts;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::{PIPE, call, caller, proxied, status};
use crate::config::{Limits, Place};
use crate::proxy::{Direction, Refusal, Session, Settings, Target, Upstream, Web};

/// A session between a caller of HTTP/2 and such an application.
pub(super) struct Translated {
    settings: Arc<Settings>,
    pub(super) application: TcpListener,
    _stop: watch::Sender<bool>,
}

pub(super) async fn translated(limits: &Limits) -> (DuplexStream, Translated) {
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = Place::Tcp(application.local_addr().unwrap());
    let (caller, settings, stop) = before(place, limits);
    let translated = Translated {
        settings,
        application,
        _stop: stop,
    };
    (caller, translated)
}

/// A session before the application at `place`.
fn before(place: Place, limits: &Limits) -> (DuplexStream, Arc<Settings>, watch::Sender<bool>) {
    let settings = Arc::new(Settings::new(limits));
    let user = rustix::process::geteuid().as_raw();
    let upstream = Upstream::new(place, user, Duration::from_secs(10));
    let web = Arc::new(Web::new(upstream, &settings, Arc::new(Semaphore::new(1))));
    let (caller, near) = duplex(PIPE);
    let (stop, stopping) = watch::channel(false);
    let session = Session {
        settings: Arc::clone(&settings),
        direction: Direction::Ingress,
        route: move |_: &mut Parts| Target::Web(Arc::clone(&web)),
    };
    tokio::spawn(session.serve(Box::new(near), stopping));
    (caller, settings, stop)
}

impl Translated {
    /// The application's end of a connection, on which a request has begun.
    async fn asked(&self) -> TcpStream {
        let (mut stream, _) = self.application.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream
    }
}

/// The only call comes to be counted so.
async fn counted(settings: &Settings, outcome: &'static str) {
    let one = [(("ingress", outcome), 1)];
    for _ in 0..1000 {
        if !settings.calls.snapshot().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(settings.calls.snapshot(), one);
}

#[tokio::test]
async fn an_answer_that_breaks_off_counts_as_broken() {
    let limits = Limits {
        header_list_bytes: 1024,
        ..Limits::default()
    };
    let chunked = "Transfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n";
    for rest in [
        "Content-Length: 1000\r\n\r\nfour".to_owned(),
        chunked.to_owned(),
        format!("{chunked}0\r\nx-large: {}\r\n\r\n", "x".repeat(2000)),
    ] {
        let (stream, translated) = translated(&limits).await;
        let mut send = caller(stream, 65_535).await;
        let (answer, _) = send.send_request(call(), true).unwrap();
        let mut application = translated.asked().await;
        let said = format!("HTTP/1.1 200 OK\r\n{rest}");
        application.write_all(said.as_bytes()).await.unwrap();
        application.shutdown().await.unwrap();
        let mut body = answer.await.unwrap().into_body();
        let error = loop {
            match body.data().await.unwrap() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
        counted(&translated.settings, "broken").await;
    }
}

#[tokio::test]
async fn calls_are_counted_whose_callers_connection_goes() {
    let (stream, translated) = translated(&Limits::default()).await;
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let caller = tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    let (_answer, _) = send.send_request(call(), true).unwrap();
    let _application = translated.asked().await;
    caller.abort();
    counted(&translated.settings, "cancelled").await;

    let mut proxied = proxied(&Limits::default());
    let (send, connection) = h2::client::handshake(proxied.caller).await.unwrap();
    let caller = tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    let (_answer, _) = send.send_request(call(), true).unwrap();
    let mut application = proxied.dialled.recv().await.unwrap();
    super::read_call(&mut application).await;
    caller.abort();
    counted(&proxied.settings, "cancelled").await;
}

#[tokio::test]
async fn an_application_that_does_not_read_is_given_up_and_one_that_thinks_is_not() {
    let limits = Limits {
        stall_ms: 100,
        ..Limits::default()
    };
    let (stream, deaf) = translated(&limits).await;
    let mut send = caller(stream, 65_535).await;
    let (answer, mut body) = send.send_request(call(), false).unwrap();
    body.send_data(vec![0; 32 << 20].into(), true).unwrap();
    let _application = deaf.asked().await;
    let answer = tokio::time::timeout(Duration::from_secs(10), answer).await;
    let answer = answer.unwrap().unwrap();
    let late = "the application does not take what was sent in time (limits.stall_ms)";
    assert_eq!(status(answer.headers()), ("4", late));
    counted(&deaf.settings, "unread").await;

    let (stream, slow) = translated(&limits).await;
    let mut send = caller(stream, 65_535).await;
    let (answer, _) = send.send_request(call(), true).unwrap();
    let mut application = slow.asked().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let said = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    application.write_all(said).await.unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    counted(&slow.settings, "answered").await;
}

#[tokio::test]
async fn a_call_whose_answer_is_not_taken_ends_though_its_request_is_not_at_its_end() {
    let limits = Limits {
        stall_ms: 50,
        ..Limits::default()
    };
    let (stream, translated) = translated(&limits).await;
    let mut send = caller(stream, 1).await;
    let (answer, _sending) = send.send_request(call(), false).unwrap();
    let mut application = translated.asked().await;
    let said = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nlonger than one byte";
    application.write_all(said).await.unwrap();
    let mut body = answer.await.unwrap().into_body();
    body.data().await.unwrap().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), body.data()).await;
    let error = ended.unwrap().unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    counted(&translated.settings, "stalled").await;
}

#[tokio::test]
async fn a_request_is_said_in_the_words_of_http1() {
    let whole = |request: http::request::Builder| request.body(()).unwrap();
    let request = |method: &str| Request::builder().method(method).uri("http://a/");
    let crumbs = request("GET").header("cookie", "a=1");
    let crumbs = crumbs.header("cookie", "b=2").header("te", "trailers");
    let sized = request("GET").header("content-length", "4");
    for (request, body, said) in [
        (
            whole(crumbs),
            "",
            "GET / HTTP/1.1\r\ncookie: a=1; b=2\r\nhost: a\r\n\r\n",
        ),
        (
            whole(request("GET")),
            "four",
            "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
        ),
        (
            whole(request("HEAD")),
            "four",
            "HEAD / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
        ),
        (
            whole(sized),
            "four",
            "GET / HTTP/1.1\r\ncontent-length: 4\r\nhost: a\r\n\r\nfour",
        ),
        (
            whole(request("DELETE")),
            "",
            "DELETE / HTTP/1.1\r\nhost: a\r\n\r\n",
        ),
    ] {
        let (stream, translated) = translated(&Limits::default()).await;
        let mut send = caller(stream, 65_535).await;
        let (_answer, mut sending) = send.send_request(request, body.is_empty()).unwrap();
        if !body.is_empty() {
            sending.send_data(body.into(), true).unwrap();
        }
        let (mut application, _) = translated.application.accept().await.unwrap();
        let mut heard = vec![0; said.len()];
        application.read_exact(&mut heard).await.unwrap();
        assert_eq!(String::from_utf8(heard).unwrap(), said);
    }
}

#[tokio::test]
async fn little_is_read_of_an_answer_ahead_of_who_takes_nothing() {
    let folder = std::env::temp_dir().join(format!("fastness-web-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("socket");
    // Its socket's own buffer has a known size, unlike one of TCP.
    let application = tokio::net::UnixListener::bind(&path).unwrap();
    let (stream, _settings, _stop) = before(Place::Unix(path), &Limits::default());
    // It takes enough for hyper to read with large buffers.
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(4 << 20);
    builder.initial_connection_window_size(4 << 20);
    let (mut send, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let (_answer, _): (_, h2::SendStream<bytes::Bytes>) = send.send_request(call(), true).unwrap();
    let (mut stream, _) = application.accept().await.unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    stream.read_u8().await.unwrap();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let data = vec![0; 1 << 20];
    let mut written = 0;
    let quiet = Duration::from_millis(500);
    while let Ok(more) = tokio::time::timeout(quiet, stream.write(&data)).await {
        written += more.unwrap();
    }
    let ahead = written - (4 << 20);
    assert!(ahead < 450 << 10, "{ahead}");
}

/// A connection of HTTP/1.1 whose requests are all refused, and how it ends.
fn refusing(limits: &Limits) -> (DuplexStream, JoinHandle<Result<(), String>>) {
    let (caller, near) = duplex(PIPE);
    let session = Session {
        settings: Arc::new(Settings::new(limits)),
        direction: Direction::Ingress,
        route: |_: &mut Parts| Target::Refuse(Refusal::hosts()),
    };
    let serving = async move {
        let (_stop, stopping) = watch::channel(false);
        session.serve_http1(Box::new(near), stopping).await
    };
    (caller, tokio::spawn(serving))
}

#[tokio::test]
async fn an_idle_connection_is_kept_and_ends_without_a_fault() {
    let limits = Limits {
        handshake_deadline_ms: 400,
        keepalive_ms: 2000,
        ..Limits::default()
    };
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (rest, ends_well) in [(&b""[..], true), (b"GET / HT", false)] {
        let (mut caller, ended) = refusing(&limits);
        for _ in 0..2 {
            caller.write_all(request).await.unwrap();
            assert!(caller.read(&mut [0; 4096]).await.unwrap() > 0);
            tokio::time::sleep(Duration::from_millis(600)).await;
        }
        caller.write_all(rest).await.unwrap();
        assert_eq!(ended.await.unwrap().is_ok(), ends_well);
    }
    // Who asks for nothing at all has less time.
    for first in [&b""[..], b"GET / HT"] {
        let (mut caller, ended) = refusing(&limits);
        caller.write_all(first).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_millis(1600), ended).await;
        assert!(ended.unwrap().unwrap().is_err());
    }
}
