//! An administrator's calls, answered from what the supervisor knows and what the node says.

use std::time::Duration;

use tokio::sync::oneshot;
use tonic::Status;

use super::Supervisor;
use super::admin::Call;
use crate::control::{Answer, Order};
use crate::rpc::admin as rpc;

impl Supervisor {
    pub(super) fn on_call(&mut self, call: Call) {
        let gone = || Status::unavailable("the node's process is being started again; try again");
        match call {
            Call::Status(answer) => {
                let mut status = self.report();
                status.attestations = self.attest_all();
                let mut all = status.attestations.iter();
                if all.any(|one| !one.mismatches.is_empty()) {
                    // What comes next is the end of the node.
                    let _ = answer.send(Ok(status));
                    return;
                }
                let connections = self.node.order(Order::Connections);
                tokio::spawn(async move {
                    if let Some(Answer::Connections {
                        connections,
                        counters,
                    }) = within(connections).await
                    {
                        status.connections = connections;
                        status.counters.extend(counters);
                    }
                    let _ = answer.send(Ok(status));
                });
            }
            Call::Metrics(answer) => {
                let ours = self.metrics();
                let theirs = self.node.order(Order::Metrics);
                tokio::spawn(async move {
                    // Without a node there is still something to tell.
                    let text = match within(theirs).await {
                        Some(Answer::Metrics(text)) => text + &ours,
                        _ => ours,
                    };
                    let _ = answer.send(Ok(rpc::MetricsResponse { text }));
                });
            }
            Call::Peers(answer) => {
                let peers = self.node.order(Order::Peers);
                tokio::spawn(async move {
                    let _ = answer.send(match within(peers).await {
                        Some(Answer::Peers(peers)) => Ok(rpc::PeersResponse { peers }),
                        Some(Answer::TooLong) => Err(Status::resource_exhausted(
                            "the list is longer than the node can tell",
                        )),
                        _ => Err(gone()),
                    });
                });
            }
            Call::Ping(request, answer) => {
                let pong = self.node.order(Order::Ping {
                    peer: request.peer,
                    transfer_bytes: request.transfer_bytes,
                });
                tokio::spawn(async move {
                    let _ = answer.send(match pong.await {
                        Ok(Answer::Ping(pong)) => Ok(*pong),
                        Ok(Answer::UnknownPeer { known }) => Err(Status::not_found(format!(
                            "no such peer; the policy lists: {}",
                            known.join(", ")
                        ))),
                        Ok(Answer::Unreachable(why)) => Err(Status::failed_precondition(why)),
                        _ => Err(gone()),
                    });
                });
            }
            Call::Reload(answer) => self.reload(Some(answer)),
            Call::Drain(answer) => {
                self.draining = true;
                let _ = answer.send(Ok(rpc::DrainResponse {}));
            }
        }
    }
}

/// An answer that a healthy node gives at once.
async fn within(answer: oneshot::Receiver<Answer>) -> Option<Answer> {
    tokio::time::timeout(Duration::from_secs(5), answer)
        .await
        .ok()?
        .ok()
}
