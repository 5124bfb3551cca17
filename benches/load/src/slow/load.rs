//! Handshakes in both directions, each in a closed loop: the next begins when one is done.

use std::path::Path;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint, Uri};

use super::peers::{Peers, Shaken};
use crate::client::Client;
use crate::peer::PingRequest;
use crate::peer::peer_client::PeerClient;

/// A handshake or a failure.
pub type Outcome = Result<Shaken, String>;

/// A pause after a failure: nobody tries again at once.
const PAUSE: Duration = Duration::from_millis(20);

/// `clients` that dial the node again and again, until the set is dropped.
pub fn incoming(client: &Client, clients: usize, outcomes: &UnboundedSender<Outcome>) -> JoinSet<()> {
    let mut all = JoinSet::new();
    for _ in 0..clients {
        let (client, outcomes) = (client.clone(), outcomes.clone());
        all.spawn(async move {
            loop {
                let began = Instant::now();
                let outcome = client.timed_handshake().await;
                let failed = outcome.is_err();
                let outcome = outcome.map(|done| Shaken { began, done }).map_err(|error| format!("{error:#}"));
                let _ = outcomes.send(outcome);
                if failed {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        });
    }
    all
}

/// An application behind the node calls `peers` again and again; each closes the connection behind the call. What
/// was done is told by the peers themselves.
pub async fn outgoing(dir: &Path, peers: &Peers, count: usize, outcomes: &UnboundedSender<Outcome>) -> anyhow::Result<JoinSet<()>> {
    let mut all = JoinSet::new();
    for number in 0..count {
        let (name, closed) = peers.get(number);
        let mut client = PeerClient::new(application(&dir.join(egress(&name))).await?);
        let outcomes = outcomes.clone();
        all.spawn(async move {
            loop {
                match client.ping(PingRequest { nonce: 1 }).await {
                    Ok(_) => closed.notified().await,
                    Err(status) => {
                        let _ = outcomes.send(Err(status.message().to_owned()));
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
    }
    Ok(all)
}

/// Where the application calls `peer`.
pub fn egress(peer: &str) -> String {
    format!("{peer}.sock")
}

async fn application(socket: &Path) -> anyhow::Result<Channel> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://peer.invalid").connect_with_connector(connector).await?)
}
