//! The node's process: started with the listeners and the channels to the keepers, replaced on the
//! same descriptors when it dies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::Event;
use super::backoff::Backoff;
use super::child::{self, Child, ChildEvent, Role, Start};
use super::keepers::Keeper;
use super::pulse::Pulse;
use super::sockets::Listeners;
use crate::config::{Application, NodeSandbox};
use crate::control::frame::MAX_FROM_ROLE;
use crate::control::{Answer, FromNode, Generation, NodeSetup, Order, ToNode};
use crate::fault::{Fault, Passing};
use crate::keeper::ask::Standing;
use crate::sandbox;

/// The node over all its processes.
#[derive(Debug)]
pub(super) struct Node {
    child: Option<Child>,
    incarnation: u64,
    pub(super) ready: bool,
    /// Whether the application beside it says that it is well.
    pub(super) application_well: bool,
    pub(super) faults: Vec<Fault>,
    /// Whether the last one ended in a way that says nothing about the next.
    end_may_pass: bool,
    pub(super) restarts: u32,
    /// What the configuration says of it.
    pub(super) given: NodeSandbox,
    /// The TCP ports that the running one may connect to.
    pub(super) dials: BTreeSet<u16>,
    /// Whether an application is beside it.
    pub(super) application: bool,
    /// Whether that is asked how it is: until it says that it is well, it is not.
    asks_application: bool,
    /// So many descriptors it may have open at most.
    pub(super) open_files: u64,
    /// The running one is not what it must be.
    pub(super) unsound: Option<Fault>,
    /// Whether the running one was attested and told to serve.
    serves: bool,
    /// What the running one said of its confinement.
    pub(super) sandbox: Option<sandbox::Report>,
    backoff: Backoff,
    /// Whether the running one answers.
    pub(super) pulse: Pulse,
    /// What it was told about the tokens and its readiness.
    told: Option<(Vec<Standing>, bool)>,
    next_order: u64,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
}

impl Node {
    /// The node, not yet started.
    pub(super) fn new(
        given: NodeSandbox,
        application: Option<&Application>,
        open_files: u64,
    ) -> Self {
        let asks_application = application.is_some_and(|it| it.health.is_some());
        Self {
            given,
            application: application.is_some(),
            asks_application,
            open_files,
            unsound: None,
            serves: false,
            child: None,
            incarnation: 0,
            ready: false,
            application_well: !asks_application,
            faults: Vec::new(),
            end_may_pass: false,
            restarts: 0,
            dials: BTreeSet::new(),
            sandbox: None,
            backoff: Backoff::default(),
            pulse: Pulse::default(),
            told: None,
            next_order: 1,
            waiting: HashMap::new(),
        }
    }

    /// Process id, when it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.pid)
    }

    /// Which of its processes runs, or was the last.
    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Starts a process on these listeners and channels.
    pub(super) fn start(
        &mut self,
        setup: NodeSetup,
        listeners: &Listeners,
        keepers: &[Keeper],
        events: &mpsc::Sender<Event>,
    ) -> std::io::Result<()> {
        let mut descriptors: Vec<BorrowedFd<'_>> = listeners.all().collect();
        descriptors.extend(keepers.iter().flat_map(Keeper::node_ends));
        self.incarnation += 1;
        let incarnation = self.incarnation;
        self.ready = false;
        self.application_well = !self.asks_application;
        self.told = None;
        self.pulse.begin();
        self.dials.clone_from(&setup.dials);
        self.child = Some(Child::start(
            &Start {
                role: Role::Node,
                user: self.given.user,
                environment: &BTreeMap::from([sandbox::allocator::pinned()]),
                longest: MAX_FROM_ROLE,
                interactive: false,
                setup: &ToNode::Setup(Box::new(setup)),
                descriptors: &descriptors,
            },
            events.clone(),
            move |event| Event::Node { incarnation, event },
        )?);
        Ok(())
    }

    /// Takes in what happened.
    pub(super) fn on_event(&mut self, incarnation: u64, event: ChildEvent<FromNode>) -> NodeEvent {
        if incarnation != self.incarnation {
            return NodeEvent::Nothing;
        }
        self.pulse.heard();
        match event {
            // Each is said once: what is attested stays so.
            ChildEvent::Said(FromNode::Sealed(_)) if self.sandbox.is_some() => self.out_of_turn(),
            ChildEvent::Said(FromNode::Ready) if self.ready || !self.serves => self.out_of_turn(),
            ChildEvent::Said(FromNode::Sealed(report)) => {
                self.sandbox = Some(*report);
                NodeEvent::Sealed
            }
            ChildEvent::Said(FromNode::Ready) => {
                self.backoff.started();
                self.faults.clear();
                self.pulse.found();
                self.ready = true;
                NodeEvent::Ready
            }
            ChildEvent::Said(FromNode::Application { well }) => {
                self.application_well = well;
                NodeEvent::Nothing
            }
            ChildEvent::Said(FromNode::Refused { faults }) => {
                for fault in &faults {
                    tracing::error!(
                        at = fault.key,
                        mend = fault.mend,
                        "the node does not start: {}",
                        fault.problem
                    );
                }
                self.faults = faults;
                NodeEvent::Nothing
            }
            ChildEvent::Said(FromNode::Answer { id, answer }) => {
                if let Some(asked) = self.waiting.remove(&id) {
                    // Whoever asked may have gone.
                    let _ = asked.send(answer);
                }
                NodeEvent::Nothing
            }
            ChildEvent::Exited(status) => {
                tracing::info!(%status, "node exited");
                self.child = None;
                self.end_may_pass = child::may_pass(status);
                self.ready = false;
                self.sandbox = None;
                self.serves = false;
                self.waiting.clear();
                NodeEvent::Gone
            }
        }
    }

    /// It said what no node of ours says then.
    fn out_of_turn(&mut self) -> NodeEvent {
        tracing::error!("the node spoke out of turn: killed");
        self.kill();
        NodeEvent::Nothing
    }

    /// Lets it begin.
    pub(super) fn serve(&mut self) {
        self.serves = true;
        if let Some(child) = &mut self.child
            && !child.tell(&ToNode::Serve)
        {
            child.kill();
        }
    }

    #[cfg(feature = "attack-trigger")]
    pub(super) fn attack(&self, attack: sandbox::attack::Attack) {
        let told = self
            .child
            .as_ref()
            .map(|child| child.tell(&ToNode::Attack(attack)));
        assert_eq!(told, Some(true), "the node hears its attack");
    }

    /// Tells it how the tokens are, and whether it counts as ready.
    pub(super) fn tokens(&mut self, standings: Vec<Standing>, ready: bool) {
        let news = (standings, ready);
        if let Some(child) = &self.child
            && self.told.as_ref() != Some(&news)
        {
            let standings = news.0.clone();
            // To one that is behind with its orders it is said later, as it is then.
            if child.tell(&ToNode::Tokens { standings, ready }) {
                self.told = Some(news);
            }
        }
    }

    /// Gives it what the supervisor counts. One that does not read loses it.
    pub(super) fn metrics(&self, text: String) {
        if let Some(child) = &self.child
            && child.keeps_up()
        {
            let _ = child.tell(&ToNode::Metrics(text));
        }
    }

    /// Why a node that never became ready is gone.
    pub(super) fn exit_faults(&self) -> Vec<Fault> {
        if !self.faults.is_empty() {
            return self.faults.clone();
        }
        let problem = "the node's process ended while it was started";
        let fault = Fault::new("", problem, "see the log");
        vec![match self.end_may_pass {
            true => fault.that_may_pass(Passing::System),
            false => fault,
        }]
    }

    /// When to start it again.
    pub(super) fn retry_at(&mut self) -> Instant {
        self.restarts += 1;
        self.backoff.next()
    }

    /// Gives an order; the answer comes through the receiver, which fails when the node is gone.
    pub(super) fn order(&mut self, order: Order) -> oneshot::Receiver<Answer> {
        self.ask(|id| ToNode::Order { id, order })
    }

    /// The same for a generation that it is to put in force.
    pub(super) fn reload(&mut self, generation: Generation) -> oneshot::Receiver<Answer> {
        self.pulse.reload = Some(self.next_order);
        let generation = Box::new(generation);
        self.ask(|id| ToNode::Reload { id, generation })
    }

    fn ask(&mut self, question: impl FnOnce(u64) -> ToNode) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let id = self.next_order;
        self.next_order += 1;
        if let Some(child) = &mut self.child {
            if child.tell(&question(id)) {
                self.waiting.retain(|_, asked| !asked.is_closed());
                self.waiting.insert(id, answer);
            } else {
                tracing::error!("the node does not read its orders: killed");
                child.kill();
            }
        }
        receiver
    }

    /// Whether somebody waits for its answer to this order.
    pub(super) fn awaits(&self, id: u64) -> bool {
        self.waiting
            .get(&id)
            .is_some_and(|asked| !asked.is_closed())
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

/// What an event means for the main loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeEvent {
    Nothing,
    /// It is confined, and waits to be attested.
    Sealed,
    Ready,
    Gone,
}
