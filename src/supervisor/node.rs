//! The node's process: started with the listeners and the channels to the keepers, replaced on the
//! same descriptors when it dies.

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::Event;
use super::backoff::Backoff;
use super::child::{Child, ChildEvent, Role, Start};
use super::keepers::Keeper;
use crate::control::{Answer, FromNode, NodeSetup, Order, ToNode};
use crate::fault::Fault;

/// The node over all its processes.
#[derive(Debug)]
pub(super) struct Node {
    child: Option<Child>,
    incarnation: u64,
    pub(super) ready: bool,
    pub(super) faults: Vec<Fault>,
    pub(super) restarts: u32,
    backoff: Backoff,
    next_order: u64,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
}

impl Node {
    /// The node, not yet started.
    pub(super) fn new() -> Self {
        Self {
            child: None,
            incarnation: 0,
            ready: false,
            faults: Vec::new(),
            restarts: 0,
            backoff: Backoff::default(),
            next_order: 1,
            waiting: HashMap::new(),
        }
    }

    /// Process id, when it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.pid)
    }

    /// Starts a process on these listeners and channels.
    pub(super) fn start(
        &mut self,
        setup: NodeSetup,
        listeners: &[TcpListener],
        keepers: &[Keeper],
        events: &mpsc::UnboundedSender<Event>,
    ) -> std::io::Result<()> {
        let mut descriptors: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
        descriptors.extend(keepers.iter().flat_map(Keeper::node_ends));
        self.incarnation += 1;
        let incarnation = self.incarnation;
        self.ready = false;
        self.child = Some(Child::start(
            &Start {
                role: Role::Node,
                environment: &BTreeMap::new(),
                interactive: false,
                setup: &ToNode::Setup(Box::new(setup)),
                descriptors: &descriptors,
            },
            events.clone(),
            move |event| Event::Node { incarnation, event },
        )?);
        Ok(())
    }

    /// Takes in what happened. True when the event changed the state.
    pub(super) fn on_event(&mut self, incarnation: u64, event: ChildEvent<FromNode>) -> bool {
        if incarnation != self.incarnation {
            return false;
        }
        match event {
            ChildEvent::Said(FromNode::Ready) => {
                self.backoff.started();
                self.faults.clear();
                self.ready = true;
                true
            }
            ChildEvent::Said(FromNode::Refused { faults }) => {
                for fault in &faults {
                    tracing::error!("node refused: {fault}");
                }
                self.faults = faults;
                false
            }
            ChildEvent::Said(FromNode::Answer { id, answer }) => {
                if let Some(asked) = self.waiting.remove(&id) {
                    // Whoever asked may have gone.
                    let _ = asked.send(answer);
                }
                false
            }
            ChildEvent::Exited(status) => {
                tracing::warn!(%status, "node exited");
                self.child = None;
                self.ready = false;
                self.waiting.clear();
                true
            }
        }
    }

    /// When to start it again.
    pub(super) fn retry_at(&mut self) -> Instant {
        self.restarts += 1;
        self.backoff.next()
    }

    /// Gives an order; the answer comes through the receiver, which fails when the node is gone.
    pub(super) fn order(&mut self, order: Order) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let id = self.next_order;
        self.next_order += 1;
        if let Some(child) = &mut self.child {
            if child.tell(&ToNode::Order { id, order }) {
                self.waiting.retain(|_, asked| !asked.is_closed());
                self.waiting.insert(id, answer);
            } else {
                tracing::error!("the node does not read its orders: killed");
                child.kill();
            }
        }
        receiver
    }

    /// Asks it to drain and exit.
    pub(super) fn drain(&mut self) {
        if let Some(child) = &mut self.child
            && !child.tell(&ToNode::Drain)
        {
            child.kill();
        }
    }

    /// Kills it.
    pub(super) fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill();
        }
    }
}
