//! The comparison: tonic and rustls as their documentation shows them, keys in PEM files.

use std::path::Path;

use anyhow::Context;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use crate::peer::peer_server::{Peer, PeerServer};
use crate::peer::{
    HelloRequest, HelloResponse, PingRequest, PingResponse, TransferRequest, TransferResponse,
};

struct Plain;

#[tonic::async_trait]
impl Peer for Plain {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Err(Status::unimplemented("not compared"))
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        let nonce = request.into_inner().nonce;
        Ok(Response::new(PingResponse { nonce }))
    }

    type TransferStream = tokio_stream::Empty<Result<TransferResponse, Status>>;

    async fn transfer(
        &self,
        _: Request<Streaming<TransferRequest>>,
    ) -> Result<Response<Self::TransferStream>, Status> {
        Err(Status::unimplemented("not compared"))
    }
}

/// Serves until killed; the port is in the folder.
#[tokio::main]
pub async fn serve(dir: &Path) -> anyhow::Result<()> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let port = String::from_utf8(read("software.port")?)?;
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(read("software.pem")?, read("software.key")?))
        .client_ca_root(Certificate::from_pem(read("ca/ca.pem")?));
    let incoming = TcpIncoming::bind(format!("127.0.0.1:{port}").parse()?)
        .context("cannot listen")?
        .with_nodelay(Some(true));
    Server::builder()
        .tls_config(tls)?
        .add_service(PeerServer::new(Plain))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
