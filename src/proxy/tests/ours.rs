//! Calls that the node answers itself.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http_body::Frame;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;

use super::*;

/// Answers by the call's name: never, with [`LARGE`] bytes, or with more than anybody takes. When the name says so,
/// what the caller sends is still held elsewhere after the call.
#[derive(Clone)]
struct Ours {
    begun: mpsc::UnboundedSender<Given>,
}

/// Is dropped with the call.
type Given = tokio::sync::oneshot::Receiver<()>;

impl NamedService for Ours {
    const NAME: &'static str = "test";
}

impl Service<Request<Body>> for Ours {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (held, given) = tokio::sync::oneshot::channel();
        self.begun.send(given).unwrap();
        Box::pin(async move {
            let _held: tokio::sync::oneshot::Sender<()> = held;
            let (head, body) = request.into_parts();
            if head.uri.path().ends_with("Moved") {
                tokio::spawn(async move {
                    let _body = body;
                    std::future::pending::<()>().await;
                });
            }
            match head.uri.path() {
                "/test/Large" => Ok(Response::new(Body::new("x".repeat(LARGE)))),
                "/test/Endless" | "/test/EndlessMoved" => Ok(Response::new(Body::new(Endless))),
                _ => std::future::pending().await,
            }
        })
    }
}

const LARGE: usize = 20_000;

struct Endless;

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 1024])))))
    }
}

struct Served {
    caller: DuplexStream,
    begun: mpsc::UnboundedReceiver<Given>,
    ended: tokio::task::JoinHandle<Result<(), Ended>>,
    stop: watch::Sender<bool>,
}

fn served(limits: &Limits) -> Served {
    let (begins, begun) = mpsc::unbounded_channel();
    let routes = Routes::new(Ours { begun: begins });
    let (caller, near) = duplex(PIPE);
    let (stop, stopping) = watch::channel(false);
    let session = Session {
        settings: Arc::new(Settings::new(limits)),
        direction: Direction::Ingress,
        route: move |_: &mut Parts| Target::Local(routes.clone()),
    };
    Served {
        caller,
        begun,
        ended: tokio::spawn(session.serve(Box::new(near), stopping)),
        stop,
    }
}

fn call_of(name: &str, timeout: Option<&str>) -> Request<()> {
    let mut request =
        Request::post(format!("http://a/test/{name}")).header("content-type", "application/grpc");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    request.body(()).unwrap()
}

#[tokio::test]
async fn a_call_ends_with_its_deadline_its_caller_and_its_connection() {
    let mut served = served(&Limits::default());
    let mut send = caller(served.caller, 65_535).await;
    for (timeout, reset) in [(Some("20m"), false), (Some("1H"), true), (None, true)] {
        let (answer, mut body) = send.send_request(call_of("Never", timeout), false).unwrap();
        let given = served.begun.recv().await.unwrap();
        if reset {
            body.send_reset(h2::Reason::CANCEL);
        }
        assert!(given.await.is_err(), "{timeout:?}");
        drop(answer);
    }
    let mut running = Vec::new();
    for timeout in [Some("1H"), None] {
        let sent = send.send_request(call_of("Never", timeout), false).unwrap();
        running.push((sent, served.begun.recv().await.unwrap()));
    }
    // Whether it is the session that ends, or the task that served it.
    served.ended.abort();
    for (_, given) in running {
        assert!(given.await.is_err());
    }
}

/// Calls again and again and takes nothing, until the connection is closed for that.
async fn is_left(limits: &Limits, timeout: Option<&str>) {
    let served = served(limits);
    let mut send = caller(served.caller, 1).await;
    let mut running = Vec::new();
    // The session looks when a call comes.
    let calling = async {
        for _ in 0..500 {
            send = send.ready().await?;
            running.push(send.send_request(call_of("Endless", timeout), true)?);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, h2::Error>(())
    };
    assert!(
        calling.await.is_err(),
        "{timeout:?}: the connection goes on"
    );
    let ended = served.ended.await.unwrap();
    assert!(matches!(ended, Err(Ended::Stalled)), "{ended:?}");
}

#[tokio::test]
async fn who_takes_no_answer_of_ours_too_often_is_left_whatever_its_deadlines() {
    let limits = Limits {
        stall_ms: 50,
        ..Limits::default()
    };
    is_left(&limits, None).await;
    is_left(&Limits::default(), Some("5m")).await;
}

/// So little that three large answers may wait.
fn narrow() -> Limits {
    Limits {
        message_bytes: 1024,
        connection_window_bytes: 65_535,
        ..Limits::default()
    }
}

#[tokio::test]
async fn answers_of_ours_that_wait_are_bounded_and_those_beyond_say_why_they_end() {
    let served = served(&narrow());
    let mut send = caller(served.caller, 1000).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let (answer, _) = send.send_request(call_of("Large", None), true).unwrap();
        waiting.push(answer.await.unwrap().into_body());
    }
    let (answer, _) = send.send_request(call_of("Large", None), true).unwrap();
    let mut beyond = answer.await.unwrap().into_body();
    // What fits its window was sent.
    assert_eq!(beyond.data().await.unwrap().unwrap().len(), 1000);
    assert!(beyond.data().await.is_none());
    let trailers = beyond.trailers().await.unwrap().unwrap();
    let why = "too much of this connection's answers is not taken";
    assert_eq!(status(&trailers), ("8", why));
    // What waits arrives whole once it is taken, and makes room.
    for body in waiting {
        assert_eq!(taken(body).await, LARGE);
    }
    let (answer, _) = send.send_request(call_of("Large", None), true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap().len(), 1000);
    let more = tokio::time::timeout(Duration::from_millis(50), body.data());
    assert!(more.await.is_err(), "it waits");
}

#[tokio::test]
async fn a_call_ends_for_its_caller_though_its_service_still_holds_the_request() {
    let limits = Limits {
        stall_ms: 50,
        ..Limits::default()
    };
    let served = served(&limits);
    let mut send = caller(served.caller, 1).await;
    let long = Duration::from_secs(10);
    let (answer, _sending) = send
        .send_request(call_of("Moved", Some("20m")), false)
        .unwrap();
    let error = tokio::time::timeout(long, answer).await.unwrap();
    assert_eq!(error.unwrap_err().reason(), Some(h2::Reason::CANCEL));
    let (answer, _sending) = send
        .send_request(call_of("EndlessMoved", None), false)
        .unwrap();
    let mut body = answer.await.unwrap().into_body();
    body.data().await.unwrap().unwrap();
    let error = tokio::time::timeout(long, body.data()).await.unwrap();
    let error = error.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
}

#[tokio::test]
async fn who_is_told_to_leave_and_goes_on_calling_is_refused() {
    let mut served = served(&Limits::default());
    // :method POST, :scheme http, :path, content-type (RFC 7541 appendix A).
    let path = b"\x04\x0b/test/Never";
    let kind = b"\x0f\x10\x10application/grpc";
    let block = [b"\x83\x86", &path[..], kind].concat();
    let call = |stream: u32| {
        let mut call = frame(HEADERS, stream, &block);
        // END_STREAM and END_HEADERS.
        call[4] = 5;
        call
    };
    let begin = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, b""),
    ];
    served.caller.write_all(&begin.concat()).await.unwrap();
    served.stop.send(true).unwrap();
    // It answers no PING, so nothing of HTTP/2 ends it.
    let mut refused = false;
    let began = std::time::Instant::now();
    for id in (1..).step_by(2) {
        served.caller.write_all(&call(id)).await.unwrap();
        let given = tokio::time::timeout(Duration::from_secs(1), served.begun.recv()).await;
        refused = given.is_err();
        tokio::time::sleep(Duration::from_millis(100)).await;
        if refused || began.elapsed() > Duration::from_secs(30) {
            break;
        }
    }
    assert!(refused);
    assert!(began.elapsed() > Duration::from_secs(4), "it had time");
}
