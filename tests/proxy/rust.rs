//! tonic at both ends: what it sees is the same directly and through two nodes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use http::uri::PathAndQuery;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use crate::support::{Mesh, Node, PATIENCE, free_port, id_of};

type Codec = ProstCodec<String, String>;

/// A service without generated code; its messages are strings. It tells of calls that wait.
#[derive(Clone)]
struct Words(mpsc::UnboundedSender<&'static str>);

impl NamedService for Words {
    const NAME: &'static str = "test.Words";
}

impl Service<http::Request<Body>> for Words {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let tells = self.0.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Codec::default());
            Ok(match request.uri().path() {
                "/test.Words/Join" => grpc.client_streaming(service_fn(join), request).await,
                "/test.Words/Echo" => grpc.streaming(service_fn(echo), request).await,
                "/test.Words/Wait" => {
                    let wait = service_fn(move |_: Request<String>| wait(tells.clone()));
                    grpc.unary(wait, request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// All of its words in one, with the caller's own metadata and what the node said of it.
async fn join(request: Request<Streaming<String>>) -> Result<Response<String>, Status> {
    let (metadata, _, mut words) = request.into_parts();
    let mut whole = String::new();
    while let Some(word) = words.message().await? {
        whole += &word;
    }
    let mut response = Response::new(whole);
    let answer = response.metadata_mut();
    if let Some(own) = metadata.get("own") {
        answer.insert("own", own.clone());
    }
    if let Some(own) = metadata.get_bin("own-bin") {
        answer.insert_bin("own-bin", own.clone());
    }
    if let Some(peer) = metadata.get("x-fastness-peer-id") {
        answer.insert("peer", peer.clone());
    }
    Ok(response)
}

/// Each word as it comes, and a last one when the caller has said all.
async fn echo(
    request: Request<Streaming<String>>,
) -> Result<Response<BoxStream<'static, Result<String, Status>>>, Status> {
    let last = stream::once(async { Ok("that was all".to_owned()) });
    Ok(Response::new(request.into_inner().chain(last).boxed()))
}

async fn wait(tells: mpsc::UnboundedSender<&'static str>) -> Result<Response<String>, Status> {
    struct Over(mpsc::UnboundedSender<&'static str>);
    impl Drop for Over {
        fn drop(&mut self) {
            let _ = self.0.send("over");
        }
    }
    let _ = tells.send("asked");
    let _over = Over(tells);
    std::future::pending().await
}

/// Nodes `a`, whose application is to listen at the first address, and `b`, whose application reaches it at the
/// second.
fn joined(mesh: &Mesh) -> ((Node, Node), SocketAddr, SocketAddr) {
    let [upstream, egress] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    mesh.section("a", &format!("[application]\nupstream = \"{upstream}\"\n"));
    mesh.section(
        "b",
        &format!("[application]\negress = {{ a = \"{egress}\" }}\n"),
    );
    (mesh.start_both(), upstream, egress)
}

fn channel(at: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{at}"));
    endpoint.expect("an address").connect_lazy()
}

#[test]
fn tonic_speaks_with_tonic() {
    let mesh = Mesh::new();
    let (_nodes, upstream, egress) = joined(&mesh);
    Runtime::new().expect("a runtime").block_on(async {
        let (reporter, service) = tonic_health::server::health_reporter();
        reporter
            .set_service_status("x", ServingStatus::Serving)
            .await;
        tokio::spawn(Server::builder().add_service(service).serve(upstream));
        let mut client = HealthClient::new(channel(egress));
        let about = |service: &str| HealthCheckRequest {
            service: service.into(),
        };
        let unknown = client.check(about("y")).await.expect_err("unknown");
        assert_eq!(unknown.code(), Code::NotFound);
        let mut seen = client.watch(about("x")).await.expect("x").into_inner();
        for status in [ServingStatus::Serving, ServingStatus::NotServing] {
            let next = seen.message().await.expect("a stream").expect("a message");
            assert_eq!(next.status, status as i32);
            reporter
                .set_service_status("x", ServingStatus::NotServing)
                .await;
        }
    });
}

#[test]
fn tonic_streams_waits_and_takes_back_through_two_nodes_as_without() {
    let mesh = Mesh::new();
    let (_nodes, upstream, egress) = joined(&mesh);
    let all = async {
        let (tells, mut told) = mpsc::unbounded_channel();
        tokio::spawn(Server::builder().add_service(Words(tells)).serve(upstream));
        while TcpStream::connect(upstream).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for (place, peer) in [(upstream, None), (egress, Some(id_of("b")))] {
            let mut client = Grpc::new(channel(place));
            streams(&mut client, peer.as_deref()).await;
            ends(&mut client, &mut told).await;
        }
    };
    let runtime = Runtime::new().expect("a runtime");
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, all).await });
    ended.expect("it comes to its end");
}

fn method(name: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(name)
}

async fn streams(client: &mut Grpc<Channel>, peer: Option<&str>) {
    let words = ["one ", "two ", "three"].map(str::to_owned);
    let mut request = Request::new(stream::iter(words));
    let metadata = request.metadata_mut();
    metadata.insert("own", MetadataValue::from_static("kept"));
    metadata.insert_bin("own-bin", MetadataValue::from_bytes(&[0, 0xab, 0xff]));
    client.ready().await.expect("a server");
    let answer = client.client_streaming(request, method("/test.Words/Join"), Codec::default());
    let answer = answer.await.expect("an answer");
    let metadata = answer.metadata();
    assert_eq!(metadata.get("own").expect("it is kept"), "kept");
    let bytes = metadata.get_bin("own-bin").expect("it is kept").to_bytes();
    assert_eq!(*bytes.expect("bytes"), [0, 0xab, 0xff]);
    let told = metadata.get("peer").map(|id| id.to_str().expect("text"));
    assert_eq!(told, peer);
    assert_eq!(answer.into_inner(), "one two three");

    let (says, said) = mpsc::channel(1);
    let request = Request::new(ReceiverStream::new(said));
    client.ready().await.expect("a server");
    let answer = client.streaming(request, method("/test.Words/Echo"), Codec::default());
    let mut answers = answer.await.expect("an answer").into_inner();
    // Each is heard before the next is said.
    for word in ["ping", "", "pong"] {
        says.send(word.to_owned()).await.expect("it listens");
        assert_eq!(
            answers.message().await.expect("a word").as_deref(),
            Some(word)
        );
    }
    // The caller has said all; the answer goes on.
    drop(says);
    let last = answers.message().await.expect("a word");
    assert_eq!(last.as_deref(), Some("that was all"));
    assert_eq!(answers.message().await.expect("the end"), None);
}

async fn ends(client: &mut Grpc<Channel>, told: &mut mpsc::UnboundedReceiver<&'static str>) {
    let mut late = Request::new(String::new());
    late.set_timeout(Duration::from_secs(2));
    client.ready().await.expect("a server");
    let waiting = client.unary(late, method("/test.Words/Wait"), Codec::default());
    let status: Status = waiting
        .await
        .map(|answer: Response<String>| answer.into_inner())
        .expect_err("no answer");
    // Both ends count, and have words of their own for it.
    assert!(
        matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded),
        "{status}"
    );
    assert_eq!(told.recv().await, Some("asked"));
    assert_eq!(told.recv().await, Some("over"));

    client.ready().await.expect("a server");
    let request = Request::new(String::new());
    let waiting =
        client.unary::<_, String, _>(request, method("/test.Words/Wait"), Codec::default());
    tokio::select! {
        answer = waiting => panic!("{answer:?}"),
        asked = told.recv() => assert_eq!(asked, Some("asked")),
    }
    // Nobody waits for it any more.
    assert_eq!(told.recv().await, Some("over"));
}

#[test]
fn an_answer_of_trailers_alone_is_one_frame_to_the_caller() {
    let mesh = Mesh::new();
    let (_nodes, upstream, egress) = joined(&mesh);
    Runtime::new().expect("a runtime").block_on(async {
        let (tells, _told) = mpsc::unbounded_channel();
        tokio::spawn(Server::builder().add_service(Words(tells)).serve(upstream));
        while TcpStream::connect(upstream).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for place in [upstream, egress] {
            let stream = TcpStream::connect(place).await.expect("somebody listens");
            let handshake = h2::client::handshake(stream).await;
            let (send, connection) = handshake.expect("HTTP/2");
            tokio::spawn(connection);
            let request = http::Request::post(format!("http://{place}/test.Words/None"))
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            let mut send = send.ready().await.expect("room");
            let sent = send.send_request(request.body(()).expect("a request"), true);
            let answer = sent.expect("it is taken").0.await.expect("an answer");
            assert_eq!(answer.headers()["grpc-status"], "12", "{place}");
            // Nothing came behind it, trailers or an empty end.
            assert!(answer.body().is_end_stream(), "{place}");
        }
    });
}
