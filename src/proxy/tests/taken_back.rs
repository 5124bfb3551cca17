//! Calls that end before their time, as honest ones do: what is then still on the way is held against nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use http::request::Parts;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;

use super::{
    DATA, GOAWAY, HEADERS, PING, PIPE, RST_STREAM, SETTINGS, call, caller, frame, next_frame,
    proxied_to,
};
use crate::config::Limits;
use crate::proxy::{Direction, Other, Refusal, Session, Settings, Target};

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// More than any bound of h2's own.
const MANY: u32 = 3000;

/// A peer that begins to answer each call (`:status: 200`, RFC 7541 appendix A), and goes on when the call was taken
/// back, as if it had not heard of it yet.
pub(crate) async fn answers_late(mut stream: DuplexStream) {
    stream.write_all(&frame(SETTINGS, 0, b"")).await.unwrap();
    stream.read_exact(&mut [0; 24]).await.unwrap();
    while let Some((kind, id, _)) = next_frame(&mut stream).await {
        let mut head = frame(HEADERS, id, b"\x88");
        head[4] = END_HEADERS;
        let said = match kind {
            HEADERS => [head, frame(DATA, id, b".")].concat(),
            RST_STREAM => frame(DATA, id, b"late"),
            _ => continue,
        };
        stream.write_all(&said).await.unwrap();
    }
}

#[tokio::test]
async fn answers_that_come_late_end_no_connection_to_a_peer() {
    let mut proxied = proxied_to(Other::Peer, &Limits::default());
    let mut send = caller(proxied.caller, 65_535).await;
    let (beside, _) = send.send_request(call(), true).unwrap();
    let peer = proxied.dialled.recv().await.unwrap();
    tokio::spawn(answers_late(peer));
    let mut beside = beside.await.unwrap().into_body();
    assert_eq!(&beside.data().await.unwrap().unwrap()[..], b".");
    for _ in 0..MANY / 100 {
        let begun: Vec<_> = (0..100)
            .map(|_| send.send_request(call(), true).unwrap().0)
            .collect();
        for answer in begun {
            let mut body = answer.await.unwrap().into_body();
            body.data().await.unwrap().unwrap();
        }
        send = send.ready().await.unwrap();
    }
    // All that is late has come when this has its answer.
    let (last, _) = send.send_request(call(), true).unwrap();
    last.await.unwrap();
    assert!(beside.data().now_or_never().is_none(), "it goes on");
    assert!(proxied.dialled.try_recv().is_err(), "one connection");
}

/// A session that refuses each call, to whose other side the preface has gone.
async fn refusing(direction: Direction) -> DuplexStream {
    refusing_counted(direction, Arc::default()).await
}

/// The same; `asked` counts the calls.
async fn refusing_counted(direction: Direction, asked: Arc<AtomicUsize>) -> DuplexStream {
    let (mut caller, near) = duplex(PIPE);
    let session = Session {
        settings: Arc::new(Settings::new(&Limits::default())),
        direction,
        route: move |_: &mut Parts| {
            asked.fetch_add(1, Ordering::Relaxed);
            Target::Refuse(Refusal::unavailable("not now"))
        },
    };
    tokio::spawn(async move {
        let (_stop, stopping) = watch::channel(false);
        session.serve(Box::new(near), stopping).await
    });
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let begin = [&preface[..], &frame(SETTINGS, 0, b"")].concat();
    caller.write_all(&begin).await.unwrap();
    caller
}

/// The head of a call whose body is to come: `:method: POST`, `:scheme: http` (RFC 7541 appendix A), `:path` and
/// `content-type`.
fn head(stream: u32) -> Vec<u8> {
    let kind = b"\x0f\x10\x10application/grpc";
    let mut head = frame(
        HEADERS,
        stream,
        &[&b"\x83\x86\x04\x0a/test/Call"[..], kind].concat(),
    );
    head[4] = END_HEADERS;
    head
}

/// The other side answers a PING: it has put up with all that came before.
async fn is_there(caller: &mut DuplexStream) {
    caller
        .write_all(&frame(PING, 0, b"are you?"))
        .await
        .unwrap();
    loop {
        let (kind, _, payload) = next_frame(caller).await.expect("it is there");
        assert_ne!(kind, GOAWAY, "{}", String::from_utf8_lossy(&payload[8..]));
        if kind == PING {
            return;
        }
    }
}

#[tokio::test]
async fn what_comes_late_of_calls_that_were_refused_ends_no_connection() {
    let mut caller = refusing(Direction::Ingress).await;
    for batch in 0..MANY / 100 {
        let streams = || (0..100).map(|number| 2 * (100 * batch + number) + 1);
        let heads: Vec<_> = streams().map(head).collect();
        caller.write_all(&heads.concat()).await.unwrap();
        let mut refused = 0;
        while refused < 100 {
            let (kind, _, _) = next_frame(&mut caller).await.expect("it is there");
            refused += u32::from(kind == RST_STREAM);
        }
        let late = streams().map(|stream| {
            let mut trailers = frame(HEADERS, stream, b"");
            trailers[4] = END_HEADERS | END_STREAM;
            [frame(DATA, stream, b"late"), trailers].concat()
        });
        let late: Vec<_> = late.collect();
        caller.write_all(&late.concat()).await.unwrap();
    }
    is_there(&mut caller).await;
}

#[tokio::test]
async fn a_call_that_is_taken_back_with_its_beginning_goes_nowhere() {
    let asked = Arc::<AtomicUsize>::default();
    let mut caller = refusing_counted(Direction::Ingress, Arc::clone(&asked)).await;
    for stream in [1, 3] {
        let cancelled = frame(RST_STREAM, stream, &8_u32.to_be_bytes());
        let call = [head(stream), cancelled].concat();
        caller.write_all(&call).await.unwrap();
    }
    is_there(&mut caller).await;
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    caller.write_all(&head(5)).await.unwrap();
    is_there(&mut caller).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn as_many_calls_as_may_be_begun_may_be_taken_back_before_anybody_looks() {
    for direction in [Direction::Ingress, Direction::Egress] {
        let mut caller = refusing(direction).await;
        let cancel = 8_u32.to_be_bytes();
        let calls: Vec<_> = (0..1000)
            .map(|number| 2 * number + 1)
            .map(|stream| [head(stream), frame(RST_STREAM, stream, &cancel)].concat())
            .collect();
        caller.write_all(&calls.concat()).await.unwrap();
        is_there(&mut caller).await;
    }
}
