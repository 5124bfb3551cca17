//! Reading certificates, trust anchors and peer policy again and handing them to the node as one
//! whole. On any fault the old ones stay in force.

use std::collections::VecDeque;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tonic::Status;

use super::resolver::Looked;
use super::{Event, Supervisor};
use crate::config::Config;
use crate::control::{Answer, CredentialSetup, Generation};
use crate::fault::Fault;
use crate::keeper::message::KeyIndex;
use crate::rpc::admin::ReloadResponse;

/// Whoever waits for the outcome of a reload; nobody does who sent a signal.
pub(super) type Asked = Option<oneshot::Sender<Result<ReloadResponse, Status>>>;

/// Reloads that wait for their turn; beyond, somebody's program has lost its mind.
const MOST_WAITING: usize = 64;

/// A node that has not answered by then is replaced: whoever is revoked must not stay because it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The reloads: one at a time, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    /// One is being read, or the node has yet to answer it.
    running: bool,
    waiting: VecDeque<Asked>,
    /// The generation in force is to be given once more behind the one that runs.
    push: bool,
}

/// What one has read.
#[derive(Debug)]
pub(crate) struct Loaded {
    found: Result<(Box<Config>, Looked), Vec<Fault>>,
    asked: Asked,
}

/// What came of one that the node was given.
#[derive(Debug)]
pub(crate) struct Reloaded {
    number: u64,
    /// Which of the node's processes.
    node: u64,
    config: Box<Config>,
    /// None came: it is gone, or hangs.
    answer: Option<Answer>,
    asked: Asked,
}

fn refuse(asked: Asked, status: Status) {
    tracing::error!("reload {}", status.message());
    if let Some(asked) = asked {
        let _ = asked.send(Err(status));
    }
}

fn status_of(faults: &[Fault]) -> Status {
    let text = faults
        .iter()
        .map(Fault::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    Status::failed_precondition(format!("refused, the old state stays in force:\n{text}"))
}

/// Does `work`, which may have to wait for a disk, on a thread of its own, which ends with the process. An error
/// when none can be had.
fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (done, receiver) = oneshot::channel();
    let started = thread::Builder::new().name("beside".into()).spawn(move || {
        // Whoever asked may have gone.
        let _ = done.send(work());
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread is to be had");
    }
    receiver
}

impl Reloads {
    pub(super) fn is_running(&self) -> bool {
        self.running
    }
}

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
                    spki: key.spki.clone(),
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

    /// Gives the node the generation in force once more, as a newer one: a token was opened for the first time, or
    /// a name was found.
    pub(super) fn push_generation(&mut self) {
        // The node has, or will have, what the reload under way brings: it comes with that, or after it.
        self.reloads.push = self.reloads.running;
        if self.reloads.running {
            return;
        }
        self.generation += 1;
        let generation = self.generation(&self.config, self.generation);
        let pushed = self.node.reload(generation);
        tokio::spawn(async move {
            if let Ok(Ok(Answer::Refused(faults))) = tokio::time::timeout(PATIENCE, pushed).await {
                for fault in faults {
                    tracing::error!("the node does not take what is new: {fault}");
                }
            }
        });
    }

    /// Reads everything again, checks it whole, and lets the node swap: at once, or after those that came
    /// before.
    pub(super) fn reload(&mut self, asked: Asked) {
        if self.reloads.waiting.len() >= MOST_WAITING {
            return refuse(asked, Status::resource_exhausted("refused: too many wait"));
        }
        self.reloads.waiting.push_back(asked);
        self.next_reload();
    }

    fn next_reload(&mut self) {
        if self.reloads.running {
            return;
        }
        let Some(asked) = self.reloads.waiting.pop_front() else {
            return;
        };
        self.reloads.running = true;
        let (file, resolver) = (self.config.file.clone(), self.resolver());
        let loading = beside(move || Config::load_again(&file).map(Box::new));
        let events = self.events.clone();
        tokio::spawn(async move {
            let found = loading.await.unwrap_or_else(|_| {
                let problem = "the files cannot be read: no thread is to be had";
                Err(vec![Fault::new("", problem, "reload again")])
            });
            let found = match found {
                Ok(config) => {
                    let looked = resolver
                        .look_up(config.hosts.iter().cloned().collect())
                        .await;
                    Ok((config, looked))
                }
                Err(faults) => Err(faults),
            };
            let _ = events.send(Event::Loaded(Loaded { found, asked })).await;
        });
    }

    /// Takes in what was read.
    pub(super) fn on_loaded(&mut self, loaded: Loaded) {
        let Loaded { found, asked } = loaded;
        let checked = found.and_then(|(new, mut looked)| {
            self.note(&mut looked);
            Ok((self.same_frame(*new)?, looked))
        });
        let goes_on = match checked {
            Ok((mut config, looked)) => {
                config.resolved = self.take_in(looked);
                self.send(config, asked)
            }
            Err(faults) => {
                refuse(asked, status_of(&faults));
                false
            }
        };
        if !goes_on {
            self.finish_reload();
        }
    }

    /// Gives the node what was checked; [`Event::Reloaded`] tells what came of it. Whether it was given.
    fn send(&mut self, config: Config, asked: Asked) -> bool {
        if let Some(fault) = self.unreachable(&config) {
            refuse(asked, status_of(&[fault]));
            return false;
        }
        self.generation += 1;
        let (number, node) = (self.generation, self.node.incarnation());
        let new = self.generation(&config, number);
        let reloaded = self.node.reload(new);
        let events = self.events.clone();
        tokio::spawn(async move {
            let answer = tokio::time::timeout(PATIENCE, reloaded).await;
            let reloaded = Reloaded {
                number,
                node,
                config: Box::new(config),
                answer: answer.ok().and_then(Result::ok),
                asked,
            };
            let _ = events.send(Event::Reloaded(reloaded)).await;
        });
        true
    }

    /// Takes in the node's answer.
    pub(super) fn on_reloaded(&mut self, reloaded: Reloaded) {
        if !self.conclude(reloaded) {
            self.finish_reload();
        }
    }

    /// Lets the next one have its turn.
    fn finish_reload(&mut self) {
        self.reloads.running = false;
        if std::mem::take(&mut self.reloads.push) {
            self.push_generation();
        }
        self.next_reload();
    }

    /// What was checked is in force, for a node that starts later too, unless the node has refused it.
    /// Whether it goes on.
    fn conclude(&mut self, reloaded: Reloaded) -> bool {
        let Reloaded {
            number,
            node,
            config,
            answer,
            asked,
        } = reloaded;
        let runs = self.node.pid().is_some();
        match answer {
            Some(Answer::Refused(faults)) => {
                refuse(asked, status_of(&faults));
                return false;
            }
            // It was started with what was in force before.
            _ if runs && self.node.incarnation() != node => return self.send(*config, asked),
            Some(Answer::Reloaded) => tracing::info!(generation = number, "reloaded"),
            _ if runs => {
                tracing::error!(
                    generation = number,
                    "reloaded; the node does not say that it has it: killed, the next one starts with it"
                );
                self.node.kill();
            }
            _ => tracing::info!(
                generation = number,
                "reloaded: no node runs now, the next one starts with it"
            ),
        }
        self.config = *config;
        self.look_again_soon();
        if let Some(asked) = asked {
            let _ = asked.send(Ok(ReloadResponse { generation: number }));
        }
        false
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
        let old = &self.config;
        let sandboxes =
            new.profile != old.profile || new.node != old.node || new.resolver != old.resolver;
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

    /// A sealed node's ports stay as they are, and so do ours, which hold for the next node too: a policy with
    /// others would list peers that it cannot dial.
    fn unreachable(&self, new: &Config) -> Option<Fault> {
        let sealed = match self.node.pid() {
            Some(_) => &self.node.dials,
            None => &self.dials,
        };
        let dials = new.dials();
        let ports: Vec<_> = dials.difference(sealed).map(u16::to_string).collect();
        let problem = format!(
            "the sandbox does not let the node connect to TCP port {}",
            ports.join(", ")
        );
        let mend = "restart the node; for peers to come, list their ports in dial_ports of [sandbox] beforehand";
        (!ports.is_empty()).then(|| Fault::new("peers", problem, mend))
    }
}
