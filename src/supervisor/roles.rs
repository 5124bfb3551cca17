//! What follows from what the roles say, and from their ends.

use std::time::Instant;

use super::child::ChildEvent;
use super::keepers::Happened;
use super::node::NodeEvent;
use super::{Event, Supervisor, SupervisorError};
use crate::control::{FromKeeper, FromNode};
use crate::sandbox;

const CANNOT_RENEW: &str = "cannot make a channel anew that was shut down";

impl Supervisor {
    /// Takes in what a keeper said, or its end.
    pub(super) fn on_keeper(
        &mut self,
        index: usize,
        incarnation: u64,
        event: ChildEvent<FromKeeper>,
    ) -> Result<(), SupervisorError> {
        let Some(keeper) = self.keepers.get_mut(index) else {
            return Ok(());
        };
        let happened = keeper.on_event(incarnation, event);
        let gone = matches!(happened, Happened::Gone | Happened::Latched { .. });
        match happened {
            Happened::Nothing => return Ok(()),
            Happened::Vitals => {}
            Happened::Opened { first } => {
                self.release_twins(index);
                if first && self.node.pid().is_some() {
                    self.push_generation();
                }
            }
            Happened::Gone | Happened::Latched { .. } if self.draining => return Ok(()),
            Happened::Gone => {
                let at = keeper.retry_at();
                self.later(at, Event::StartKeeper(index));
            }
            Happened::Latched { anew } => {
                tracing::error!(
                    token = keeper.label(),
                    "no further login by itself: mend it, then run `fastness unlock`"
                );
                if anew {
                    self.hold_back_twins(index);
                }
            }
        }
        if gone {
            self.renew_channels(index);
        }
        self.take_turns();
        self.first_start()?;
        self.tell_node();
        self.push_metrics();
        Ok(())
    }

    /// Makes the channels anew that a keeper has shut down which is gone. The node has copies of the dead ones,
    /// and is given others only at its start.
    fn renew_channels(&mut self, index: usize) {
        match self.keepers[index].renew_dead_channels() {
            Ok(false) => return,
            Ok(true) => {
                tracing::error!(
                    token = index,
                    "the keeper had shut down a channel: starting another node"
                );
            }
            Err(error) => tracing::error!(%error, "{CANNOT_RENEW}"),
        }
        self.node.kill();
    }

    /// Takes in what the node said, or its end.
    pub(super) fn on_node(
        &mut self,
        incarnation: u64,
        event: ChildEvent<FromNode>,
    ) -> Result<(), SupervisorError> {
        match self.node.on_event(incarnation, event) {
            // It may have said how the application is.
            NodeEvent::Nothing => self.tell_node(),
            NodeEvent::Sealed => {
                self.attest_ourselves();
                if self.unsound.is_none() {
                    self.node.serve_if_attested();
                }
            }
            NodeEvent::Ready => {
                self.served = true;
                self.attest_all();
                self.tell_node();
                let listening = self
                    .listeners
                    .peers
                    .iter()
                    .filter_map(|listener| listener.local_addr().ok());
                let listening: Vec<String> = listening.map(|address| address.to_string()).collect();
                tracing::info!(id = %self.config.id, listening = listening.join(","), "READY");
                self.later(Instant::now() + sandbox::SETTLED, Event::Settled);
                #[cfg(feature = "attack-trigger")]
                self.attack();
            }
            NodeEvent::Gone if self.draining => {}
            NodeEvent::Gone if !self.served => {
                return Err(SupervisorError::Faults(self.node.exit_faults()));
            }
            NodeEvent::Gone => {
                self.listeners
                    .still_listen()
                    .map_err(|fault| SupervisorError::NotConfined(vec![fault]))?;
                for keeper in &mut self.keepers {
                    keeper.discard_requests();
                    if let Err(error) = keeper.renew_dead_channels() {
                        tracing::error!(%error, "{CANNOT_RENEW}");
                    }
                }
                let at = self.node.retry_at();
                self.later(at, Event::StartNode);
            }
        }
        Ok(())
    }

    /// What the system refuses now (memory, processes, descriptors) it may give later, and the keepers and
    /// the node's listeners are still there.
    pub(super) fn restart_node(&mut self) {
        if let Err(error) = self.start_node() {
            tracing::error!(%error, "cannot start the node again: trying again soon");
            let at = self.node.retry_at();
            self.later(at, Event::StartNode);
        }
    }
}
