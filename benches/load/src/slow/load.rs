//! Handshakes in both directions, each in a closed loop: the next begins when one is done.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint, Uri};

use super::peers::{Peers, Shaken};
use crate::admin::PingRequest;
use crate::admin::admin_client::AdminClient;
use crate::client::Client;

/// A handshake or a failure.
pub type Outcome = Result<Shaken, String>;

/// A pause after a failure: nobody tries again at once.
const PAUSE: Duration = Duration::from_millis(20);
/// The admin socket serves so many calls at once on one connection.
const CALLS_A_CONNECTION: usize = 8;

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

/// The node is told to ping `peers` again and again; each closes the connection behind it. What was
/// done is told by the peers themselves.
pub async fn outgoing(admin: &PathBuf, peers: &Peers, count: usize, outcomes: &UnboundedSender<Outcome>) -> anyhow::Result<JoinSet<()>> {
    let mut all = JoinSet::new();
    let mut socket = None;
    for number in 0..count {
        if number % CALLS_A_CONNECTION == 0 {
            socket = Some(administrator(admin.clone()).await?);
        }
        let mut client = AdminClient::new(socket.clone().context("made above")?);
        let (name, closed) = peers.get(number);
        let outcomes = outcomes.clone();
        all.spawn(async move {
            loop {
                let request = PingRequest { peer: name.clone(), transfer_bytes: 0 };
                match client.ping(request).await {
                    Ok(_) => closed.notified().await,
                    // Sent in the moment in which the node had not yet seen the end of the old connection: no
                    // handshake was tried.
                    Err(status) if status.message().contains("connection closed") => {}
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

async fn administrator(socket: PathBuf) -> anyhow::Result<Channel> {
    let socket = Arc::new(socket);
    let connector = tower::service_fn(move |_: Uri| {
        let socket = Arc::clone(&socket);
        async move { UnixStream::connect(&*socket).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://admin.invalid").connect_with_connector(connector).await?)
}
