//! How a node ends: its calls and signatures to their end, or all roles at once.

use std::time::Duration;

use tokio::sync::mpsc;

use super::keepers::Keeper;
use super::sockets::Listeners;
use super::{Event, Supervisor};

impl Supervisor {
    /// Ends all roles at once.
    pub(super) async fn end(&mut self, events: &mut mpsc::Receiver<Event>) {
        self.systemd.stopping();
        self.draining = true;
        self.keepers.iter_mut().for_each(Keeper::retire);
        self.listeners = Listeners::default();
        self.node.kill();
        self.keepers.iter_mut().for_each(Keeper::kill);
        self.wait_for(events, Duration::from_secs(2), Self::is_alone)
            .await;
    }

    fn is_alone(&self) -> bool {
        self.node.pid().is_none() && self.keepers.iter().all(|keeper| keeper.pid().is_none())
    }

    /// Lets the node's calls end, then the keepers' signatures, then kills what is left.
    pub(super) async fn drain(&mut self, events: &mut mpsc::Receiver<Event>) {
        if self.served {
            tracing::info!("draining");
            self.systemd.stopping();
        }
        self.draining = true;
        let asking = self.keepers.iter().any(Keeper::is_asking);
        self.keepers.iter_mut().for_each(Keeper::retire);
        // With our copies gone, the node's closing of its own closes the ports: who dials now is refused
        // at once and does not wait in a queue that nobody serves.
        self.listeners = Listeners::default();
        self.node.drain();
        let patience = Duration::from_millis(self.config.limits.drain_ms) + Duration::from_secs(2);
        self.wait_for(events, patience, |this| this.node.pid().is_none())
            .await;
        self.node.kill();
        for keeper in &mut self.keepers {
            keeper.stop();
        }
        self.wait_for(events, Duration::from_secs(2), Self::is_alone)
            .await;
        for keeper in &mut self.keepers {
            keeper.kill();
        }
        self.wait_for(events, Duration::from_secs(2), Self::is_alone)
            .await;
        if let Some(terminal) = self.terminal.as_ref().filter(|_| asking) {
            terminal.restore();
        }
        if self.served {
            tracing::info!("stopped");
        }
    }

    /// Takes in events until `done` holds, `patience` is over or a second signal says to hurry.
    async fn wait_for(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        patience: Duration,
        done: impl Fn(&Self) -> bool,
    ) {
        let until = tokio::time::sleep(patience);
        tokio::pin!(until);
        while !done(self) {
            tokio::select! {
                Some(event) = events.recv() => {
                    let _ = self.on_event(event);
                }
                _ = self.signals.terminate.recv() => return,
                _ = self.signals.interrupt.recv() => return,
                () = &mut until => return,
            }
        }
    }
}
