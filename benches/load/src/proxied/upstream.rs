//! The application behind the proxies: plaintext gRPC at a unix socket. It answers the product's own
//! calls under another name, as the product keeps its own to itself.

use std::path::Path;
use std::pin::Pin;

use anyhow::Context;
use http::Uri;
use http::uri::PathAndQuery;
use tokio::net::UnixListener;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tower::util::MapRequestLayer;

use crate::peer::peer_server::{Peer, PeerServer};
use crate::peer::{HelloRequest, HelloResponse, PingRequest, PingResponse, TransferRequest, TransferResponse};

/// What the product calls its service, and what the application does: as long as each other.
const OURS: &str = "/fastness.peer.v1.Peer/";
const THEIRS: &str = "/benchmrk.peer.v1.Peer/";

/// `uri` under the application's name.
pub fn outgoing<B>(request: http::Request<B>) -> http::Request<B> {
    renamed(request, OURS, THEIRS)
}

fn incoming<B>(request: http::Request<B>) -> http::Request<B> {
    renamed(request, THEIRS, OURS)
}

fn renamed<B>(mut request: http::Request<B>, from: &str, to: &str) -> http::Request<B> {
    if let Some(call) = request.uri().path().strip_prefix(from)
        && let Ok(path) = format!("{to}{call}").parse::<PathAndQuery>()
    {
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

struct Application;

#[tonic::async_trait]
impl Peer for Application {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Err(Status::unimplemented("not compared"))
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        let nonce = request.into_inner().nonce;
        Ok(Response::new(PingResponse { nonce }))
    }

    type TransferStream = Pin<Box<dyn Stream<Item = Result<TransferResponse, Status>> + Send>>;

    async fn transfer(
        &self,
        request: Request<Streaming<TransferRequest>>,
    ) -> Result<Response<Self::TransferStream>, Status> {
        let (answers, stream) = tokio::sync::mpsc::channel(16);
        let mut blocks = request.into_inner();
        tokio::spawn(async move {
            let mut received = 0;
            while let Some(Ok(block)) = blocks.next().await {
                received += block.block.len() as u64;
                let back = usize::try_from(block.send_back).unwrap_or_default();
                let answer = TransferResponse { block: vec![0; back], received };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Serves until killed.
pub async fn serve(socket: &Path) -> anyhow::Result<()> {
    let listener = UnixListener::bind(socket).context("cannot listen")?;
    Server::builder()
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_frame_size(256 << 10)
        .layer(MapRequestLayer::new(incoming))
        .add_service(PeerServer::new(Application).max_decoding_message_size(4 << 20))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await?;
    Ok(())
}
