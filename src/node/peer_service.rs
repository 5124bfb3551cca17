//! `fastness.peer.v1`: what every node answers to every peer.

use std::pin::Pin;

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
        let mut received = 0;
        // A block is read when its answer is asked for: nothing is held ahead of a peer that does not read.
        let answers = request
            .into_inner()
            .map(move |block| block.and_then(|block| answer(&block, &mut received)));
        Ok(Response::new(Box::pin(answers)))
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use http_body::Frame;
    use peer_server::Peer;
    use tonic::codec::Codec;

    use super::*;

    /// Blocks without an end, of which it counts those that were read.
    struct Blocks(Arc<AtomicUsize>);

    impl http_body::Body for Blocks {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 5])))))
        }
    }

    #[tokio::test]
    async fn a_transfer_reads_no_block_ahead_of_its_answers() {
        let service = PeerService {
            node_id: "spiffe://mesh.example/node/a".parse().unwrap(),
        };
        let read = Arc::new(AtomicUsize::new(0));
        let mut codec = tonic_prost::ProstCodec::<TransferResponse, _>::default();
        let blocks = Blocks(Arc::clone(&read));
        let blocks = Streaming::new_request(codec.decoder(), blocks, None, None);
        let mut answers = service.transfer(Request::new(blocks)).await.unwrap();
        for taken in 0..3 {
            // What another task would read, it has read by then.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(read.load(Ordering::Relaxed), taken);
            answers.get_mut().next().await.unwrap().unwrap();
        }
    }
}
