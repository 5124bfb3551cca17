//! `fastness.peer.v1`: what every node answers to every peer.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::live::PeerConnection;
use crate::policy::PeerId;
use crate::rpc::peer::{
    HelloRequest, HelloResponse, PingRequest, PingResponse, TransferRequest, TransferResponse,
    peer_server,
};

/// Longest block that a Transfer sends or asks for, in bytes.
pub(super) const MAX_BLOCK: usize = 1 << 20;
/// Longest message, in bytes, whatever the configuration allows: nothing of the protocol needs more than
/// a block and its few other fields.
pub(super) const MAX_MESSAGE: usize = MAX_BLOCK + 1024;
/// Blocks answered ahead of a peer that does not read.
const BLOCKS_AHEAD: usize = 2;

/// The Peer service of one node.
#[derive(Debug)]
pub(super) struct PeerService {
    pub(super) node_id: PeerId,
}

#[tonic::async_trait]
impl peer_server::Peer for PeerService {
    async fn hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloResponse>, Status> {
        let connection = PeerConnection::of(&request)
            .ok_or_else(|| Status::internal("no peer connection behind this call"))?;
        let facts = connection.facts();
        Ok(Response::new(HelloResponse {
            peer_id: facts.peer.id().to_string(),
            pin_label: facts.peer.label().to_string(),
            spki_pin: facts.peer.end_entity().pin().to_string(),
            tls_version: facts.version.into(),
            group: facts.group.into(),
            cipher_suite: facts.suite.into(),
            address: facts.remote.to_string(),
            node_id: self.node_id.to_string(),
        }))
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
        let (answers, stream) = mpsc::channel(BLOCKS_AHEAD);
        let mut blocks = request.into_inner();
        tokio::spawn(async move {
            let mut received = 0;
            while let Some(block) = blocks.next().await {
                let answer = block.and_then(|block| answer(&block, &mut received));
                let last = answer.is_err();
                if answers.send(answer).await.is_err() || last {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

fn answer(request: &TransferRequest, received: &mut u64) -> Result<TransferResponse, Status> {
    let too_long = || Status::invalid_argument("a block is at most 1 MiB");
    let send_back = usize::try_from(request.send_back).unwrap_or(usize::MAX);
    if request.block.len() > MAX_BLOCK || send_back > MAX_BLOCK {
        return Err(too_long());
    }
    *received += request.block.len() as u64;
    Ok(TransferResponse {
        block: vec![0; send_back],
        received: *received,
    })
}
