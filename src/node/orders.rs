//! The supervisor's orders, answered while everything else goes on.

use std::collections::HashMap;
use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use super::{Node, generation, ping};
use crate::control::{Answer, FromNode, Generation, Order, ToNode, frame};
use crate::fault::Fault;
use crate::role::TlsRole;
use crate::rpc::admin;
use crate::sandbox;

/// What the supervisor's orders act on.
pub(super) struct Orders {
    pub(super) node: Node,
    /// Whether to begin.
    pub(super) begin: watch::Sender<bool>,
    /// Whether to end.
    pub(super) drain: watch::Sender<bool>,
    /// Whether the application is well.
    pub(super) application: watch::Receiver<bool>,
    /// Number of the generation in force.
    pub(super) generation: u64,
}

impl Orders {
    /// Says how the node is confined, then follows orders until the supervisor says drain or is gone; the
    /// first of them, `Serve`, goes to `begin`.
    pub(super) async fn follow(
        self,
        report: sandbox::Report,
        control: UnixStream,
    ) -> io::Result<()> {
        let Self {
            node,
            begin,
            drain,
            mut application,
            generation: mut number,
        } = self;
        let (mut orders, mut writer) = control.into_split();
        let (answers, mut queued) = mpsc::unbounded_channel::<FromNode>();
        let _ = answers.send(FromNode::Sealed(Box::new(report)));
        tokio::spawn(async move {
            while let Some(said) = queued.recv().await {
                let written = match frame_of(&said) {
                    Ok(frame) => writer.write_all(&frame).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = written {
                    tracing::error!(%error, "cannot answer the supervisor");
                    break;
                }
            }
        });
        let told = answers.clone();
        tokio::spawn(async move {
            while application.changed().await.is_ok() {
                let well = *application.borrow_and_update();
                if told.send(FromNode::Application { well }).is_err() {
                    return;
                }
            }
        });
        while let Some(order) = frame::receive_async::<ToNode>(&mut orders).await? {
            match order {
                ToNode::Reload { id, generation } => {
                    let answer = reload(&node, &generation, &mut number);
                    let _ = answers.send(FromNode::Answer { id, answer });
                }
                ToNode::Order { id, order } => {
                    let (node, answers) = (node.clone(), answers.clone());
                    tokio::spawn(async move {
                        let answer = carry_out(&node, order).await;
                        let _ = answers.send(FromNode::Answer { id, answer });
                    });
                }
                ToNode::Tokens { standings, ready } => node.on_tokens(&standings, ready),
                ToNode::Metrics(text) => {
                    node.0.metrics.supervisor.send_replace(text);
                }
                ToNode::Drain => {
                    let _ = drain.send(true);
                }
                ToNode::Serve => {
                    let _ = begin.send(true);
                    let _ = answers.send(FromNode::Ready);
                    tokio::spawn(async {
                        tokio::time::sleep(sandbox::SETTLED).await;
                        sandbox::settle();
                    });
                }
                #[cfg(feature = "attack-trigger")]
                ToNode::Attack(attack) => attack.run(None),
                ToNode::Setup(_) => tracing::error!("a second setup: ignored"),
            }
        }
        // The supervisor is gone, and its death signal is on its way.
        let _ = drain.send(true);
        Ok(())
    }
}

/// Its frame; of an answer that is too long for one, that it is.
fn frame_of(said: &FromNode) -> io::Result<Vec<u8>> {
    match (frame::encode_within(said, frame::MAX_FROM_ROLE), said) {
        (Err(error), FromNode::Answer { id, .. }) => {
            tracing::error!(%error, "an answer is kept from the supervisor");
            let (id, answer) = (*id, Answer::TooLong);
            frame::encode(&FromNode::Answer { id, answer })
        }
        (encoded, _) => encoded,
    }
}

async fn carry_out(node: &Node, order: Order) -> Answer {
    match order {
        Order::Alive => alive(node),
        Order::Connections => Answer::Connections {
            connections: node.0.live.list(),
            counters: node.0.metrics.refusals(),
        },
        Order::Metrics => Answer::Metrics(node.metrics()),
        Order::Peers => Answer::Peers(peers(node)),
        Order::Ping {
            peer,
            transfer_bytes,
        } => ping::ping(node, &peer, transfer_bytes).await,
    }
}

/// Said by a thread that serves, once it has got hold of what each connection and each dial has to: where that
/// hangs, nothing is served.
fn alive(node: &Node) -> Answer {
    let _ = node.0.live.count();
    let dialers = node.0.dialers.lock();
    drop(dialers.unwrap_or_else(std::sync::PoisonError::into_inner));
    Answer::Alive
}

/// Puts what was sent in force, unless something newer than it is: `number` says what is.
fn reload(node: &Node, sent: &Generation, number: &mut u64) -> Answer {
    if sent.number <= *number {
        let problem = "a newer generation is in force";
        return Answer::Refused(vec![Fault::new("peers", problem, "reload again")]);
    }
    match generation::build(sent, &node.0.signers) {
        Ok(new) => {
            *number = sent.number;
            node.swap(new);
            Answer::Reloaded
        }
        Err(faults) => Answer::Refused(faults),
    }
}

fn peers(node: &Node) -> Vec<admin::Peer> {
    let mut counts: HashMap<(String, TlsRole), u32> = HashMap::new();
    for connection in node.0.live.list() {
        let role = if connection.peer_role == "server" {
            TlsRole::Server
        } else {
            TlsRole::Client
        };
        *counts.entry((connection.peer_name, role)).or_default() += 1;
    }
    let generation = node.generation();
    let dialers = node
        .0
        .dialers
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let describe = |peer: &crate::policy::Peer| {
        let count = |role| {
            counts
                .get(&(peer.name().to_owned(), role))
                .copied()
                .unwrap_or_default()
        };
        let (last_error, waiting) = dialers
            .get(peer.id())
            .map(|dialer| dialer.trouble())
            .unwrap_or_default();
        admin::Peer {
            name: peer.name().into(),
            id: peer.id().to_string(),
            addresses: peer
                .addresses()
                .iter()
                .map(|address| address.as_str().into())
                .collect(),
            dial_state: match (count(TlsRole::Server), waiting) {
                (1.., _) => "connected",
                (0, true) => "backoff",
                (0, false) => "idle",
            }
            .into(),
            last_error,
            connections_in: count(TlsRole::Client),
            connections_out: count(TlsRole::Server),
            methods: peer.methods().patterns().map(|patterns| admin::Methods {
                allowed: patterns.map(str::to_owned).collect(),
            }),
        }
    };
    generation.policy().peers().iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_too_much_to_tell_says_so_and_goes_on() {
        for (length, answered) in [(1000, false), (frame::MAX_FROM_ROLE, true)] {
            let answer = Answer::Metrics("x".repeat(length));
            let frame = frame_of(&FromNode::Answer { id: 7, answer }).unwrap();
            let came: FromNode = serde_json::from_slice(&frame[4..]).unwrap();
            let FromNode::Answer { id: 7, answer } = came else {
                panic!("{came:?}");
            };
            assert_eq!(matches!(answer, Answer::TooLong), answered, "{length}");
        }
    }
}
