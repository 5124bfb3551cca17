//! What only a node may say, said by others: wherever it stands, it is taken out.

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;

use super::web::translated;
use super::{PIPE, call, caller, proxied};
use crate::config::Limits;
use crate::proxy::{Direction, Session, Target};

const FORGED: [&str; 2] = ["x-fastness-peer-id", "x_fastness_pin_label"];

fn fields() -> HeaderMap {
    let names = FORGED.iter().chain(&["x-own"]);
    names
        .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")))
        .collect()
}

/// Of forged ones and an own one only that is left.
#[track_caller]
fn assert_clean(headers: &HeaderMap, place: &str) {
    assert_eq!(
        headers.get("x-own").map(HeaderValue::as_bytes),
        Some(&b"1"[..]),
        "{place}"
    );
    for name in FORGED {
        assert!(!headers.contains_key(name), "{name} in {place}");
    }
}

/// The trailers behind a body.
async fn trailers(mut body: RecvStream) -> HeaderMap {
    while let Some(data) = body.data().await {
        let length = data.unwrap().len();
        body.flow_control().release_capacity(length).unwrap();
    }
    body.trailers().await.unwrap().expect("trailers")
}

/// Answers the first call with forged headers and trailers, and looks at its own trailers.
async fn forge(stream: DuplexStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    let mut head = Response::new(());
    *head.headers_mut() = fields();
    head.headers_mut().insert("trailer", trailer());
    let answering = async move {
        assert_clean(
            &trailers(request.into_body()).await,
            "the trailers of a request",
        );
        let mut body = respond.send_response(head, false).unwrap();
        body.send_data(Bytes::from_static(b"data"), false).unwrap();
        body.send_trailers(fields()).unwrap();
    };
    let going_on = async { while connection.accept().await.is_some() {} };
    tokio::join!(answering, going_on);
}

/// HTTP/1.1 sends those trailers only that were announced.
fn trailer() -> HeaderValue {
    [FORGED[0], FORGED[1], "x-own"].join(", ").parse().unwrap()
}

/// Sends forged trailers, and looks at what the answer says.
async fn ask(stream: DuplexStream, request: Request<()>) {
    let mut send = caller(stream, 65_535).await;
    let (answer, mut body) = send.send_request(request, false).unwrap();
    body.send_trailers(fields()).unwrap();
    let (head, body) = answer.await.unwrap().into_parts();
    assert_clean(&head.headers, "the head of an answer");
    assert_clean(&trailers(body).await, "the trailers of an answer");
}

/// What comes until `end`.
async fn until(stream: &mut (impl AsyncReadExt + Unpin), end: &str) -> String {
    let mut heard = Vec::new();
    while !heard.ends_with(end.as_bytes()) {
        heard.push(stream.read_u8().await.expect("more"));
    }
    String::from_utf8(heard).unwrap()
}

/// The same fields as [`fields`], in HTTP/1.1.
fn lines() -> String {
    let names = FORGED.iter().chain(&["x-own"]);
    names.map(|name| format!("{name}: 1\r\n")).collect()
}

#[track_caller]
fn assert_lines_clean(text: &str, place: &str) {
    assert!(text.contains("x-own: 1\r\n"), "{place}: {text}");
    for name in FORGED {
        assert!(!text.contains(&format!("{name}:")), "{place}: {text}");
    }
}

#[tokio::test]
async fn in_grpc_neither_trailers_nor_answers_say_it() {
    let mut proxied = proxied(&Limits::default());
    let application = async { forge(proxied.dialled.recv().await.unwrap()).await };
    tokio::select! {
        () = ask(proxied.caller, call()) => {}
        () = application => unreachable!("the connection stays"),
    }
}

#[tokio::test]
async fn before_an_application_of_http1_neither_trailers_nor_answers_say_it() {
    let (stream, translated) = translated(&Limits::default()).await;
    let application = async {
        let (mut stream, _) = translated.application.accept().await.unwrap();
        until(&mut stream, "\r\n\r\n0\r\n").await;
        let trailers = until(&mut stream, "\r\n\r\n").await;
        assert_lines_clean(&trailers, "the trailers of a request");
        let head = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{}\r\n",
            lines()
        );
        let body = format!("4\r\ndata\r\n0\r\n{}\r\n", lines());
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    };
    let mut request = call();
    request.headers_mut().insert("trailer", trailer());
    tokio::select! {
        () = ask(stream, request) => {}
        () = application => {}
    }
}

#[tokio::test]
async fn before_a_caller_of_http1_neither_trailers_nor_answers_say_it() {
    let mut proxied = proxied(&Limits::default());
    let (mut caller, near) = duplex(PIPE);
    let session = Session {
        settings: proxied.settings.clone(),
        direction: Direction::Egress,
        route: {
            let pool = proxied.pool.clone();
            move |_: &mut _| Target::Pool(pool.clone(), None)
        },
    };
    let (_stop, stopping) = watch::channel(false);
    let asking = async {
        let head =
            "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n";
        let request = format!("{head}4\r\ndata\r\n0\r\n{}\r\n", lines());
        caller.write_all(request.as_bytes()).await.unwrap();
        let head = until(&mut caller, "\r\n\r\n").await;
        assert_lines_clean(&head, "the head of an answer");
        until(&mut caller, "data\r\n0\r\n").await;
        let trailers = until(&mut caller, "\r\n\r\n").await;
        assert_lines_clean(&trailers, "the trailers of an answer");
    };
    tokio::select! {
        () = asking => {}
        () = async { forge(proxied.dialled.recv().await.unwrap()).await } => unreachable!("the connection stays"),
        ended = session.serve_http1(Box::new(near), stopping) => panic!("{ended:?}"),
    }
}
