//! Sessions over pipes, between callers and applications that do what no library lets them do.

mod forged;
mod header_lists;
mod other_side;
mod ours;
mod stalls;
pub(crate) mod taken_back;
mod web;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use h2::client::SendRequest;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};

use super::session::Ended;
use super::{ByteStream, Dial, Dialling, Direction, Other, Pool, Session, Settings, Target};
use crate::config::Limits;

const PIPE: usize = 1 << 20;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// Each dial is a pipe, whose other end the test gets.
struct Pipes(mpsc::UnboundedSender<DuplexStream>);

impl Dial for Pipes {
    fn dial(&self) -> Dialling<'_> {
        let (near, far) = duplex(PIPE);
        self.0.send(far).expect("the test listens");
        Box::pin(async { Ok(Box::new(near) as Box<dyn ByteStream>) })
    }
}

/// A session between a caller and an application.
struct Proxied {
    settings: Arc<Settings>,
    pool: Arc<Pool>,
    caller: DuplexStream,
    dialled: mpsc::UnboundedReceiver<DuplexStream>,
    ended: tokio::task::JoinHandle<Result<(), Ended>>,
    _stop: watch::Sender<bool>,
}

fn proxied(limits: &Limits) -> Proxied {
    proxied_to(Other::Application, limits)
}

fn proxied_to(other: Other, limits: &Limits) -> Proxied {
    let settings = Arc::new(Settings::new(limits));
    let (dials, dialled) = mpsc::unbounded_channel();
    let pool = Arc::new(Pool::new(Pipes(dials), other, &settings));
    let (caller, near) = duplex(PIPE);
    let (stop, stopping) = watch::channel(false);
    let session = Session {
        settings: Arc::clone(&settings),
        direction: Direction::Ingress,
        route: {
            let pool = Arc::clone(&pool);
            move |_: &mut Parts| Target::Pool(Arc::clone(&pool), None)
        },
    };
    Proxied {
        settings,
        pool,
        caller,
        dialled,
        ended: tokio::spawn(session.serve(Box::new(near), stopping)),
        _stop: stop,
    }
}

/// A caller with this window for each answer.
async fn caller(stream: DuplexStream, window: u32) -> SendRequest<Bytes> {
    let mut builder = h2::client::Builder::new();
    let (send, connection) = builder
        .initial_window_size(window)
        .handshake(stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

fn call() -> Request<()> {
    let request = Request::post("http://a/test/Call").header("content-type", "application/grpc");
    request.body(()).unwrap()
}

/// Takes all of a body; how long it is.
async fn taken(mut body: h2::RecvStream) -> usize {
    let mut taken = 0;
    while let Some(data) = body.data().await {
        let length = data.unwrap().len();
        taken += length;
        body.flow_control().release_capacity(length).unwrap();
    }
    taken
}

fn status(headers: &HeaderMap) -> (&str, &str) {
    let text = |name| headers[name].to_str().unwrap();
    (text("grpc-status"), text("grpc-message"))
}

/// An application of h2's that answers each call with `frames` frames of one byte.
fn drips(mut dialled: mpsc::UnboundedReceiver<DuplexStream>, frames: usize) {
    tokio::spawn(async move {
        while let Some(stream) = dialled.recv().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut body = respond.send_response(Response::new(()), false).unwrap();
                    for _ in 0..frames {
                        body.send_data(Bytes::from_static(b"."), false).unwrap();
                    }
                    body.send_data(Bytes::new(), true).unwrap();
                }
            });
        }
    });
}

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, 0], &stream.to_be_bytes()[..], payload].concat()
}

/// Begins as a server does, and reads up to the first frame of calls.
async fn read_call(stream: &mut DuplexStream) {
    let settings = frame(SETTINGS, 0, b"");
    stream.write_all(&settings).await.unwrap();
    stream.read_exact(&mut [0; 24]).await.unwrap();
    while next_frame(stream).await.unwrap().0 != HEADERS {}
}

/// Kind, stream and payload of the next frame; none when the other side has ended.
async fn next_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, _, id @ ..] = head;
    let length = u32::from_be_bytes([0, a, b, c]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.unwrap();
    Some((kind, u32::from_be_bytes(id), payload))
}

#[tokio::test]
async fn a_call_that_may_have_been_seen_is_never_offered_again() {
    // Last stream and error code.
    let goaway = |last: u32, code: u32| {
        frame(
            GOAWAY,
            0,
            &[last.to_be_bytes(), code.to_be_bytes()].concat(),
        )
    };
    let garbage = frame(0, 0, b"DATA without a stream");
    for (sent, refused) in [
        // It says that it has not seen the call.
        (goaway(0, 0), true),
        (goaway(0, 11), true),
        // It has, and is gone.
        (goaway(1, 0), false),
        (goaway(1, 11), false),
        // We end the connection for what it sends.
        (garbage, false),
        (vec![], false),
    ] {
        let mut proxied = proxied(&Limits::default());
        let mut send = caller(proxied.caller, 65_535).await;
        let (answer, _) = send.send_request(call(), true).unwrap();
        let mut application = proxied.dialled.recv().await.unwrap();
        read_call(&mut application).await;
        application.write_all(&sent).await.unwrap();
        application.shutdown().await.unwrap();
        match answer.await {
            Err(error) => {
                assert!(refused, "{sent:?}");
                assert_eq!(error.reason(), Some(h2::Reason::REFUSED_STREAM));
            }
            Ok(answer) => {
                assert!(!refused, "{sent:?}");
                let lost = ("14", "the connection behind this call was lost");
                assert_eq!(status(answer.headers()), lost);
            }
        }
    }
}

#[tokio::test]
async fn many_small_frames_that_nobody_reads_yet_are_held_and_arrive() {
    const FRAMES: usize = 100_000;
    let proxied = proxied(&Limits::default());
    drips(proxied.dialled, FRAMES);
    // So few that the frames that come before it closes are no flood for h2 on our side of the test.
    let mut send = caller(proxied.caller, 40).await;
    let (slow, _) = send.send_request(call(), true).unwrap();
    let slow = slow.await.unwrap().into_body();
    let (other, _) = send.send_request(call(), true).unwrap();
    let other = other.await.unwrap().into_body();
    // What the other call reads comes behind all frames of the first.
    for body in [other, slow] {
        assert_eq!(taken(body).await, FRAMES);
    }
}

#[tokio::test]
async fn an_old_connection_takes_no_new_call_and_ends_with_those_that_do_not() {
    let limits = Limits {
        connection_age_ms: 100,
        ..Limits::default()
    };
    let mut proxied = proxied(&limits);
    let mut send = caller(proxied.caller, 65_535).await;
    let (_answer, _body) = send.send_request(call(), false).unwrap();
    let _held = proxied.dialled.recv().await.unwrap();
    let ended = proxied.ended.await.unwrap();
    assert!(matches!(ended, Err(Ended::Old)), "{ended:?}");
}

/// A pool whose dials come out of the receiver.
fn pool(limits: &Limits) -> (Arc<Pool>, mpsc::UnboundedReceiver<DuplexStream>) {
    pool_to(Other::Application, limits)
}

fn pool_to(other: Other, limits: &Limits) -> (Arc<Pool>, mpsc::UnboundedReceiver<DuplexStream>) {
    let (dials, dialled) = mpsc::unbounded_channel();
    let settings = Arc::new(Settings::new(limits));
    let pool = Pool::new(Pipes(dials), other, &settings);
    (Arc::new(pool), dialled)
}

#[tokio::test]
async fn a_dial_goes_on_when_its_callers_have_left_and_the_next_find_its_connection() {
    let (pool, mut dialled) = pool(&Limits::default());
    for _ in 0..3 {
        let short = Duration::from_millis(10);
        assert!(tokio::time::timeout(short, pool.ready()).await.is_err());
    }
    let mut other = dialled.recv().await.unwrap();
    other.write_all(&frame(SETTINGS, 0, b"")).await.unwrap();
    pool.ready().await.unwrap();
    assert!(dialled.try_recv().is_err(), "one dial for all");
}

#[tokio::test]
async fn an_old_connection_serves_until_another_is_made() {
    let limits = Limits {
        connection_age_ms: 500,
        ..Limits::default()
    };
    let (pool, mut dialled) = pool(&limits);
    let first = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.ready().await }
    });
    let mut one = dialled.recv().await.unwrap();
    one.write_all(&frame(SETTINGS, 0, b"")).await.unwrap();
    first.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(501)).await;
    // The other side of the next one says nothing.
    for _ in 0..3 {
        pool.ready().now_or_never().unwrap().unwrap();
    }
    let _two = dialled.recv().await.unwrap();
    assert!(dialled.try_recv().is_err(), "one dial at a time");
}

#[tokio::test]
async fn who_takes_the_connection_and_says_nothing_is_no_http2() {
    let (pool, mut dialled) = pool(&Limits::default());
    for answer in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let asked = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.ready().await }
        });
        let mut other = dialled.recv().await.unwrap();
        other.write_all(answer).await.unwrap();
        drop(other);
        let refusal = asked.await.unwrap().err().unwrap();
        assert_eq!(
            refusal.message,
            "the application behind this node does not speak HTTP/2"
        );
    }
}

#[tokio::test]
async fn a_call_without_an_authority_is_passed_on_and_connect_is_not() {
    let mut proxied = proxied(&Limits::default());
    let field = |name: &[u8], value: &[u8]| {
        let length = |text: &[u8]| u8::try_from(text.len()).unwrap();
        [&[0, length(name)], name, &[length(value)], value].concat()
    };
    let call = |stream: u32, fields: &[(&[u8], &[u8])]| {
        let block: Vec<u8> = fields
            .iter()
            .flat_map(|(name, value)| field(name, value))
            .collect();
        let mut call = frame(HEADERS, stream, &block);
        // END_STREAM and END_HEADERS.
        call[4] = 5;
        call
    };
    let plain = [
        (&b":method"[..], &b"POST"[..]),
        (b":scheme", b"http"),
        (b":path", b"/test/Call"),
    ];
    let connect = [
        (&b":method"[..], &b"CONNECT"[..]),
        (b":authority", b"elsewhere:1"),
    ];
    let bytes = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, b""),
        call(1, &connect),
        call(3, &plain),
    ];
    proxied.caller.write_all(&bytes.concat()).await.unwrap();
    let application = proxied.dialled.recv().await.unwrap();
    let mut connection = h2::server::handshake(application).await.unwrap();
    let (request, _) = connection.accept().await.unwrap().unwrap();
    assert_eq!(
        (request.method().as_str(), request.uri().path()),
        ("POST", "/test/Call")
    );
    assert_eq!(request.uri().authority().unwrap(), "localhost");
    // The other has its answer by now: :status 404 (RFC 7541 appendix A, index 13).
    loop {
        let (kind, stream, payload) = next_frame(&mut proxied.caller).await.unwrap();
        if kind == HEADERS {
            assert_eq!((stream, payload.first()), (1, Some(&0x8d)));
            return;
        }
    }
}
