//! Proofs off the hot path: a token that failed is asked for a signature that nobody waits for, so that no
//! handshake has to find out whether it is well again.

use std::time::Duration;

use super::Node;

/// How often it is looked whether a proof is due.
const LOOK: Duration = Duration::from_millis(250);

/// Looks after each token until the process ends: one proof of each at a time, as it may hang.
pub(super) fn start(node: &Node) {
    for index in 0..node.0.signers.len() {
        let node = node.clone();
        tokio::spawn(async move {
            let asker = &node.0.signers[index].asker;
            loop {
                tokio::time::sleep(LOOK).await;
                if asker.wants_proof() {
                    node.0.handshakes.prove(asker).await;
                }
            }
        });
    }
}
