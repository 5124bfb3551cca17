//! Accepting: no handshake runs in the accept loop, and nothing that waits is unbounded.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::Node;
use super::live::Stream;
use crate::admission::{Class, Entry};
use crate::config::size;
use crate::fault::chain;
use crate::tls::HandshakeError;

/// Accepts on `listener` until `draining` turns true; established connections go to `accepted`.
pub(super) async fn accept(
    node: Node,
    listener: TcpListener,
    accepted: mpsc::Sender<io::Result<Stream>>,
    mut draining: watch::Receiver<bool>,
) {
    let most = size(node.0.limits.connections);
    let drained = async move {
        // An ended sender means the same: nobody wants new connections.
        let _ = draining.wait_for(|draining| *draining).await;
    };
    tokio::pin!(drained);
    loop {
        let (tcp, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Most often out of descriptors: wait for some to be closed.
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut drained => return,
        };
        let listed = node.generation().policy().lists(address.ip());
        let entry = match node.0.gate.enter(address.ip(), listed, Instant::now()) {
            Ok(entry) => entry,
            Err(turned) => {
                let class = if listed {
                    Class::Listed
                } else {
                    Class::Stranger
                };
                node.0.metrics.refused.count(class.name(), turned.code());
                continue;
            }
        };
        if node.0.live.count() >= most {
            node.0
                .metrics
                .refused
                .count(entry.class().name(), "connections-full");
            continue;
        }
        let (node, accepted) = (node.clone(), accepted.clone());
        tokio::spawn(async move {
            match node.0.handshakes.accept(tcp, address, &entry).await {
                Ok(connection) => establish(&node, connection, entry, &accepted).await,
                Err(error) => refuse(&node, &error, entry.class(), address),
            }
        });
    }
}

async fn establish(
    node: &Node,
    connection: crate::tls::Connection,
    entry: Entry,
    accepted: &mpsc::Sender<io::Result<Stream>>,
) {
    let stream = match node.admit(connection) {
        Ok(stream) => stream,
        Err(facts) => {
            let (code, class) = ("peer-connections-full", entry.class().name());
            node.0.metrics.handshakes.count("server", code);
            node.0.metrics.refused.count(class, code);
            if let Some(unlogged) = node.0.refusal_lines.take(Instant::now()) {
                let (peer, address) = (facts.peer.id(), facts.remote);
                tracing::warn!(%peer, %address, class, code, unlogged, "refused");
            }
            return;
        }
    };
    drop(entry);
    node.0.metrics.handshakes.count("server", "established");
    let facts = stream.connection().facts();
    tracing::info!(
        peer = %facts.peer.id(),
        address = %facts.remote,
        role = "it dialled us",
        tls = facts.version,
        group = facts.group,
        suite = facts.suite,
        pin = %facts.peer.label(),
        signed_by = facts.signed_by.keeper,
        token = &*facts.signed_by.token,
        "connected"
    );
    // The server is gone only when we are draining.
    let _ = accepted.send(Ok(stream)).await;
}

fn refuse(node: &Node, error: &HandshakeError, class: Class, address: SocketAddr) {
    let code = error.code();
    node.0.metrics.handshakes.count("server", code);
    node.0.metrics.refused.count(class.name(), code);
    // A flood must not become one of log lines.
    if let Some(unlogged) = node.0.refusal_lines.take(Instant::now()) {
        tracing::warn!(%address, class = class.name(), code, error = chain(error), unlogged, "refused");
    }
}
