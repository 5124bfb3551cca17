//! `fastness ping`: a round trip to a peer, how it sees us, and bulk both ways if asked for.

use std::error::Error;
use std::time::Instant;

use tokio_stream::StreamExt;
use tonic::Status;
use tonic::transport::Channel;

use super::Node;
use super::dial::Dialer;
use super::peer_service::MAX_BLOCK;
use crate::control::Answer;
use crate::fault::chain;
use crate::rpc::admin;
use crate::rpc::peer::{self, HelloRequest, TransferRequest, peer_client::PeerClient};

/// Block of a Transfer: one HTTP/2 frame of the default limit.
const BLOCK: usize = 256 << 10;

/// Pings `name` and, when `transfer_bytes` is not 0, streams so many bytes each way.
pub(super) async fn ping(node: &Node, name: &str, transfer_bytes: u64) -> Answer {
    let dialer = match node.dialer(name) {
        Ok(dialer) => dialer,
        Err(unknown) => {
            return Answer::UnknownPeer {
                known: unknown.known,
            };
        }
    };
    match round_trip(node, &dialer, transfer_bytes).await {
        Ok(pong) => Answer::Ping(Box::new(pong)),
        Err(status) => {
            let (error, _) = dialer.trouble();
            let broken = || format!("the connection ended under the call ({})", status.message());
            Answer::Unreachable(match status.source() {
                _ if !error.is_empty() => error,
                // Of the transport, in a library's words.
                Some(_) => broken(),
                None => chain(&status),
            })
        }
    }
}

async fn round_trip(
    node: &Node,
    dialer: &Dialer,
    transfer_bytes: u64,
) -> Result<admin::PingResponse, Status> {
    let mut client =
        PeerClient::new(dialer.channel()).max_decoding_message_size(node.message_bytes());
    let seen = client.hello(HelloRequest {}).await?.into_inner();
    let start = Instant::now();
    client.ping(peer::PingRequest { nonce: 1 }).await?;
    let round_trip = start.elapsed();
    let start = Instant::now();
    let (sent, received) = transfer(&mut client, transfer_bytes).await?;
    let transferred = start.elapsed();
    Ok(admin::PingResponse {
        round_trip_nanos: nanos(round_trip),
        connection: dialer.under().map(|connection| connection.describe()),
        peer_node_id: seen.node_id,
        seen_as: Some(admin::Seen {
            peer_id: seen.peer_id,
            pin_label: seen.pin_label,
            spki_pin: seen.spki_pin,
            tls_version: seen.tls_version,
            group: seen.group,
            cipher_suite: seen.cipher_suite,
            address: seen.address,
        }),
        bytes_sent: sent,
        bytes_received: received,
        transfer_nanos: nanos(transferred),
    })
}

/// Streams `bytes` to the peer and asks for as many; returns what the peer counted and what came.
async fn transfer(client: &mut PeerClient<Channel>, bytes: u64) -> Result<(u64, u64), Status> {
    if bytes == 0 {
        return Ok((0, 0));
    }
    const { assert!(BLOCK <= MAX_BLOCK) };
    let block = BLOCK as u64;
    let sizes = (0..bytes.div_ceil(block)).map(move |number| block.min(bytes - number * block));
    let requests = tokio_stream::iter(sizes.map(|size| TransferRequest {
        block: vec![0; crate::config::size(size)],
        send_back: crate::config::size32(size),
    }));
    let mut answers = client.transfer(requests).await?.into_inner();
    let (mut counted, mut received) = (0, 0);
    while let Some(answer) = answers.next().await {
        let answer = answer?;
        counted = answer.received;
        received += answer.block.len() as u64;
    }
    if (counted, received) == (bytes, bytes) {
        Ok((counted, received))
    } else {
        Err(Status::data_loss(format!(
            "of {bytes} bytes each way {counted} arrived there and {received} came back"
        )))
    }
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
