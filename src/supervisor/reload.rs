//! Reading certificates, trust anchors and peer policy again and handing them to the node as one
//! whole. On any fault the old ones stay in force.

use tokio::sync::oneshot;
use tonic::Status;

use super::{Event, Supervisor};
use crate::config::Config;
use crate::control::{Answer, CredentialSetup, Generation, Order};
use crate::fault::Fault;
use crate::keeper::message::KeyIndex;
use crate::rpc::admin::ReloadResponse;

impl Supervisor {
    /// What the node needs of `config`, as its `number`th generation.
    pub(super) fn generation(&self, config: &Config, number: u64) -> Generation {
        let mut credentials = Vec::new();
        for (token, (settings, keeper)) in config.tokens.iter().zip(&self.keepers).enumerate() {
            let Some(known) = keeper.known() else {
                continue;
            };
            for ((key, found), index) in settings.keys.iter().zip(&known.keys).zip(0..) {
                credentials.push(CredentialSetup {
                    role: key.role,
                    token,
                    key: KeyIndex(index),
                    kind: found.kind,
                    spki: found.spki.clone(),
                    chain: key.chain.clone(),
                });
            }
        }
        Generation {
            number,
            trust_anchors: config.trust_anchors.clone(),
            peers: config.peers.clone(),
            resolved: config.resolved.clone(),
            credentials,
        }
    }

    /// Gives the node the generation in force once more: a token was opened for the first time.
    pub(super) fn push_generation(&mut self) {
        let generation = self.generation(&self.config, self.generation);
        let pushed = self.node.order(Order::Reload(Box::new(generation)));
        tokio::spawn(async move {
            if let Some(Answer::Refused(faults)) = super::calls::within(pushed).await {
                for fault in faults {
                    tracing::error!("the node does not take the token: {fault}");
                }
            }
        });
    }

    /// Reads everything again, checks it whole, and lets the node swap.
    pub(super) fn reload(
        &mut self,
        answer: Option<oneshot::Sender<Result<ReloadResponse, Status>>>,
    ) {
        let refuse = |faults: &[Fault]| {
            let text = faults
                .iter()
                .map(Fault::to_string)
                .collect::<Vec<_>>()
                .join("\n");
            tracing::error!("reload refused, the old state stays in force: {text}");
            Status::failed_precondition(format!("refused, the old state stays in force:\n{text}"))
        };
        let config = match Config::load(&self.config.file).and_then(|new| self.same_frame(new)) {
            Ok(config) => config,
            Err(faults) => {
                let status = refuse(&faults);
                if let Some(answer) = answer {
                    let _ = answer.send(Err(status));
                }
                return;
            }
        };
        let number = self.generation + 1;
        let new = self.generation(&config, number);
        let reloaded = self.node.order(Order::Reload(Box::new(new)));
        let events = self.events.clone();
        tokio::spawn(async move {
            let outcome = match super::calls::within(reloaded).await {
                Some(Answer::Reloaded) => {
                    let _ = events.send(Event::Reloaded(number, Box::new(config))).await;
                    Ok(ReloadResponse { generation: number })
                }
                Some(Answer::Refused(faults)) => Err(refuse(&faults)),
                _ => Err(Status::unavailable(
                    "the node's process did not answer; try again",
                )),
            };
            if let Some(answer) = answer {
                let _ = answer.send(outcome);
            }
        });
    }

    /// A reload changes certificates, anchors and policy; anything else needs a restart.
    fn same_frame(&self, new: Config) -> Result<Config, Vec<Fault>> {
        let restart = "restart the node for this change";
        let mut faults = Vec::new();
        let mut differs = |key: &str, differs: bool| {
            if differs {
                faults.push(Fault::new(key, "changed since the node started", restart));
            }
        };
        differs("id", new.id != self.config.id);
        differs("listen", new.listen != self.config.listen);
        differs("admin", new.admin != self.config.admin);
        differs("metrics", new.metrics != self.config.metrics);
        differs("application", new.application != self.config.application);
        differs("limits", new.limits != self.config.limits);
        differs("log", new.log != self.config.log);
        let sandboxes = new.profile != self.config.profile || new.node != self.config.node;
        differs("sandbox", sandboxes);
        let old_tokens = &self.config.tokens;
        let same_tokens = new.tokens.len() == old_tokens.len()
            && new
                .tokens
                .iter()
                .zip(old_tokens)
                .all(|(new, old)| new.same_keys(old));
        differs("token", !same_tokens);
        faults.extend(self.unreachable(&new));
        if faults.is_empty() {
            Ok(new)
        } else {
            Err(faults)
        }
    }

    /// A sealed node's ports stay as they are: a policy with others would list peers that it cannot dial.
    fn unreachable(&self, new: &Config) -> Option<Fault> {
        let dials = new.dials();
        let ports: Vec<_> = dials
            .difference(&self.node.dials)
            .map(u16::to_string)
            .collect();
        let problem = format!(
            "the sandbox of the running node does not let it connect to TCP port {}",
            ports.join(", ")
        );
        let mend = "restart the node; for peers to come, list their ports in dial_ports of [sandbox] beforehand";
        (!ports.is_empty()).then(|| Fault::new("peers", problem, mend))
    }
}
