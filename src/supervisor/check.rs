//! `fastness check`: everything that a run does before it serves, and nothing after it.

use std::mem;

use tokio::sync::mpsc;

use super::admin::Socket;
use super::child::ChildEvent;
use super::keepers::{Happened, Keeper};
use super::node::NodeEvent;
use super::sockets::Listeners;
use super::{
    Event, POLL, QUEUED_EVENTS, Supervisor, SupervisorError, application, sockets, unlock_socket,
};
use crate::config::Config;
use crate::control::{FromKeeper, KeeperReady};
use crate::fault::Fault;

/// What a check found that is no fault.
pub(crate) struct Checked {
    /// The tokens, as their keepers found them.
    pub(crate) tokens: Vec<KeeperReady>,
    /// Peers' names that do not resolve now.
    pub(crate) unresolved: Vec<String>,
}

/// Does everything that [`run`](super::run) does before it serves, and takes it down again: binds the
/// sockets, confines this process, has each keeper open its token and check its keys, and starts the node
/// up to its seal. `faults` are those of `config`, so that all are told at once; with any, no node is
/// started.
pub(crate) async fn check(
    config: Config,
    mut faults: Vec<Fault>,
) -> Result<Checked, SupervisorError> {
    let listeners = sockets::bind(&config).unwrap_or_else(|found| {
        faults.extend(found);
        Listeners::default()
    });
    faults.extend(application::must_be_private(&config).err());
    for path in [config.admin.clone(), unlock_socket(&config.admin)] {
        faults.extend(Socket::bind(&path).err());
    }
    let confined = match super::confine(&config) {
        Ok(confined) => confined,
        Err(found) => {
            faults.extend(found);
            return Err(SupervisorError::Faults(faults));
        }
    };
    let (sender, mut events) = mpsc::channel(QUEUED_EVENTS);
    let mut supervisor = Supervisor::new(confined, config, listeners, sender)?;
    let tried = match supervisor.resolve().await {
        true => supervisor.try_all(&mut events, &mut faults).await,
        false => Err(SupervisorError::Stopped(mem::take(&mut faults))),
    };
    faults.extend(supervisor.unsound.take());
    // It serves nobody: nothing is to be waited for.
    supervisor.node.kill();
    supervisor.drain(&mut events).await;
    let latched = tried?;
    match faults.is_empty() {
        true => {
            let keepers = supervisor.keepers.iter();
            Ok(Checked {
                tokens: keepers.filter_map(|it| it.known().cloned()).collect(),
                unresolved: supervisor.unresolved().cloned().collect(),
            })
        }
        false if latched => Err(SupervisorError::Pin(faults)),
        false => Err(SupervisorError::Faults(faults)),
    }
}

impl Supervisor {
    /// Tries the tokens, and then the node if there is no fault until then. Whether a PIN was refused.
    async fn try_all(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        faults: &mut Vec<Fault>,
    ) -> Result<bool, SupervisorError> {
        faults.extend(self.start_keepers(true));
        while self.keepers.iter().any(Keeper::is_undecided) {
            self.try_next(events, faults).await?;
        }
        if faults.is_empty() {
            self.try_node(events, faults).await?;
        }
        Ok(self.keepers.iter().any(Keeper::is_latched))
    }

    /// Starts the node, and ends it as soon as it is sealed and every process was read back.
    async fn try_node(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        faults: &mut Vec<Fault>,
    ) -> Result<(), SupervisorError> {
        self.start_node()?;
        let mut sealed = false;
        while self.node.pid().is_some() {
            match self.try_next(events, faults).await? {
                NodeEvent::Sealed => {
                    sealed = true;
                    for seen in self.attest_all() {
                        if !seen.mismatches.is_empty() {
                            faults.push(Fault::new(
                                "sandbox",
                                format!(
                                    "the {} is not confined as declared: {}",
                                    seen.role,
                                    seen.mismatches.join("; ")
                                ),
                                "see what starts this process (a debugger, a container's settings)",
                            ));
                        }
                    }
                    self.node.kill();
                }
                NodeEvent::Gone if !sealed => faults.extend(self.node.exit_faults()),
                NodeEvent::Gone | NodeEvent::Ready | NodeEvent::Nothing => {}
            }
        }
        Ok(())
    }

    /// Takes in what happened to a keeper, and lets the next one of its token log in.
    fn try_keeper(
        &mut self,
        index: usize,
        incarnation: u64,
        event: ChildEvent<FromKeeper>,
        faults: &mut Vec<Fault>,
    ) {
        let Some(keeper) = self.keepers.get_mut(index) else {
            return;
        };
        let happened = keeper.on_event(incarnation, event);
        let is_new = keeper.known().is_none();
        match happened {
            Happened::Gone if is_new => faults.extend(keeper.exit_faults()),
            Happened::Latched { .. } if is_new => {
                faults.extend(keeper.exit_faults());
                faults.extend(self.hold_back_twins(index));
            }
            _ => {}
        }
        faults.extend(self.take_turns());
    }

    /// Takes in what happens next: of keepers here, of the node by whoever asked. An error when it was told to
    /// stop.
    async fn try_next(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        faults: &mut Vec<Fault>,
    ) -> Result<NodeEvent, SupervisorError> {
        let event = tokio::select! {
            Some(event) = events.recv() => event,
            () = tokio::time::sleep(POLL) => {
                self.keepers.iter_mut().for_each(Keeper::poll);
                self.node.poll();
                return Ok(NodeEvent::Nothing);
            }
            () = self.signals.any() => return Err(SupervisorError::Stopped(mem::take(faults))),
        };
        Ok(match event {
            Event::Keeper {
                index,
                incarnation,
                event,
            } => {
                self.try_keeper(index, incarnation, event, faults);
                NodeEvent::Nothing
            }
            Event::Node { incarnation, event } => self.node.on_event(incarnation, event),
            _ => NodeEvent::Nothing,
        })
    }
}
