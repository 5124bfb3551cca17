//! The first process: binds the sockets, reads every file, starts the others and starts them again,
//! and answers the administrator. It never loads a PKCS#11 module and never reads a PIN.

mod admin;
mod backoff;
pub(crate) mod child;
mod keepers;
mod metrics;
mod node;
mod reload;
mod report;
mod unlock;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tonic::Status;

use crate::config::Config;
use crate::control::{Answer, FromKeeper, FromNode, KeeperReady, NodeSetup, Order, TokenSetup};
use crate::fault::Fault;
use crate::rpc::admin as rpc;
use admin::{Call, Socket};
use child::ChildEvent;
use keepers::{Happened, Keeper};
use node::{Node, NodeEvent};

/// Everything that the main loop waits for.
#[derive(Debug)]
pub(crate) enum Event {
    Keeper {
        index: usize,
        incarnation: u64,
        event: ChildEvent<FromKeeper>,
    },
    Node {
        incarnation: u64,
        event: ChildEvent<FromNode>,
    },
    StartKeeper(usize),
    StartNode,
    Admin(Call),
    Unlock(unlock::Request),
    Reloaded(u64, Box<Config>),
}

/// Why the supervisor ended without having been asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SupervisorError {
    /// What was given to us does not allow a start.
    #[error("the node does not start")]
    Faults(Vec<Fault>),
    /// A PIN was refused. It must not be tried again before an operator has acted.
    #[error("a PIN was refused")]
    Pin(Vec<Fault>),
    /// The system refused something that a supervisor needs.
    #[error("the supervisor cannot work")]
    System(#[from] std::io::Error),
}

impl From<Vec<Fault>> for SupervisorError {
    fn from(faults: Vec<Fault>) -> Self {
        Self::Faults(faults)
    }
}

impl From<Fault> for SupervisorError {
    fn from(fault: Fault) -> Self {
        Self::Faults(vec![fault])
    }
}

/// Events that wait for the main loop; a role that says more than this waits until it is heard.
const QUEUED_EVENTS: usize = 256;
/// How often a keeper is asked how it is.
const POLL: Duration = Duration::from_millis(500);

/// Where PINs are taken, beside the admin socket: descriptors do not travel through gRPC.
pub(crate) fn unlock_socket(admin: &Path) -> PathBuf {
    let mut path = admin.as_os_str().to_owned();
    path.push(".unlock");
    path.into()
}

/// Runs a node until it is told to stop.
pub(crate) async fn run(config: Config) -> Result<(), SupervisorError> {
    let listeners = bind(&config)?;
    let mut socket = Socket::bind(&config.admin)?;
    let (sender, mut events) = mpsc::channel(QUEUED_EVENTS);
    socket.serve(sender.clone());
    let mut unlocking = Socket::bind(&unlock_socket(&config.admin))?;
    if let Some(listener) = unlocking.listener() {
        tokio::spawn(unlock::listen(listener, sender.clone()));
    }
    let mut supervisor = Supervisor::new(config, listeners, sender)?;
    supervisor.start_keepers()?;
    let outcome = supervisor.serve(&mut events).await;
    supervisor.drain(&mut events).await;
    outcome
}

/// Does everything that [`run`] does before it serves, and takes it down again.
pub(crate) async fn check(config: Config) -> Result<Vec<KeeperReady>, SupervisorError> {
    let mut faults = Vec::new();
    let listeners = bind(&config).unwrap_or_else(|found| {
        faults.extend(found);
        Listeners::default()
    });
    if let Err(fault) = Socket::bind(&config.admin) {
        faults.push(fault);
    }
    let (sender, mut events) = mpsc::channel(QUEUED_EVENTS);
    let mut supervisor = Supervisor::new(config, listeners, sender)?;
    let mut running = 0;
    for keeper in &mut supervisor.keepers {
        match keeper.start(&supervisor.events) {
            Ok(()) => running += 1,
            Err(fault) => faults.push(fault),
        }
    }
    let mut latched = false;
    let mut tick = tokio::time::interval(POLL);
    while running > 0 {
        let event = tokio::select! {
            Some(event) = events.recv() => event,
            _ = tick.tick() => {
                supervisor.keepers.iter_mut().for_each(Keeper::poll);
                continue;
            }
        };
        let Event::Keeper { index, incarnation, event } = event else { continue };
        let Some(keeper) = supervisor.keepers.get_mut(index) else { continue };
        match keeper.on_event(incarnation, event) {
            Happened::Opened { .. } => keeper.stop(),
            happened @ (Happened::Gone | Happened::Latched) => {
                running -= 1;
                latched |= happened == Happened::Latched;
                if keeper.known().is_none() {
                    faults.extend(keeper.exit_faults());
                }
            }
            Happened::Nothing | Happened::Vitals => {}
        }
    }
    match faults.is_empty() {
        true => Ok(supervisor.keepers.iter().filter_map(|keeper| keeper.known().cloned()).collect()),
        false if latched => Err(SupervisorError::Pin(faults)),
        false => Err(SupervisorError::Faults(faults)),
    }
}

/// The sockets that the node serves.
#[derive(Debug, Default)]
struct Listeners {
    peers: Vec<TcpListener>,
    metrics: Option<TcpListener>,
}

impl Listeners {
    /// In the order in which the node gets them.
    fn all(&self) -> impl Iterator<Item = &TcpListener> {
        self.peers.iter().chain(&self.metrics)
    }
}

/// Connections that the kernel keeps for us until we accept them; as many as Linux allows by default
/// (`net.core.somaxconn`), so that a burst of strangers does not keep a peer's SYN out.
const BACKLOG: i32 = 4096;

fn bind(config: &Config) -> Result<Listeners, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut listeners = Listeners::default();
    let places = config.listen.iter().map(|address| ("listen", address));
    for (key, address) in places.chain(config.metrics.iter().map(|address| ("metrics", address))) {
        let bound = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            // A second listen(2) only changes the backlog.
            rustix::net::listen(&listener, BACKLOG)?;
            Ok(listener)
        });
        match bound {
            Ok(listener) if key == "metrics" => listeners.metrics = Some(listener),
            Ok(listener) => listeners.peers.push(listener),
            Err(error) => faults.push(Fault::new(
                key,
                format!("cannot listen on {address}: {error}"),
                "stop what uses it (`ss -ltnp`), or name another address",
            )),
        }
    }
    if faults.is_empty() { Ok(listeners) } else { Err(faults) }
}

/// The signals that we act on.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

struct Supervisor {
    config: Config,
    /// Number of the generation in force.
    generation: u64,
    listeners: Listeners,
    keepers: Vec<Keeper>,
    node: Node,
    events: mpsc::Sender<Event>,
    signals: Signals,
    /// The node has been ready once.
    served: bool,
    draining: bool,
}

impl Supervisor {
    fn new(
        config: Config,
        listeners: Listeners,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, SupervisorError> {
        let keepers = config
            .tokens
            .iter()
            .enumerate()
            .map(|(index, token)| Keeper::new(index, token.clone(), config.log, config.limits.sign_deadline()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            generation: 1,
            listeners,
            keepers,
            node: Node::new(),
            events,
            signals: Signals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                hangup: signal(SignalKind::hangup())?,
            },
            config,
            served: false,
            draining: false,
        })
    }

    fn start_keepers(&mut self) -> Result<(), SupervisorError> {
        for keeper in &mut self.keepers {
            keeper.start(&self.events)?;
        }
        Ok(())
    }

    fn start_node(&mut self) -> std::io::Result<()> {
        let setup = NodeSetup {
            log: self.config.log,
            id: self.config.id.to_string(),
            listeners: self.listeners.all().count(),
            metrics: self.listeners.metrics.is_some(),
            tokens: self
                .keepers
                .iter()
                .map(|keeper| TokenSetup {
                    label: keeper.label(),
                    channels: keeper.node_ends().count(),
                })
                .collect(),
            limits: self.config.limits.clone(),
            generation: self.generation(&self.config, self.generation),
        };
        self.node.start(setup, &self.listeners, &self.keepers, &self.events)
    }

    /// Takes in events until it is told to stop. Until the node has been ready once, a fault is the
    /// end: an operator is watching, and there is nothing to keep up.
    async fn serve(&mut self, events: &mut mpsc::Receiver<Event>) -> Result<(), SupervisorError> {
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.draining {
            tokio::select! {
                Some(event) = events.recv() => self.on_event(event)?,
                _ = tick.tick() => self.keepers.iter_mut().for_each(Keeper::poll),
                _ = self.signals.terminate.recv() => break,
                _ = self.signals.interrupt.recv() => break,
                _ = self.signals.hangup.recv() => self.reload(None),
            }
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> Result<(), SupervisorError> {
        match event {
            Event::Keeper { index, incarnation, event } => self.on_keeper(index, incarnation, event)?,
            Event::StartKeeper(index) => self.restart_keeper(index),
            Event::Node { incarnation, event } => self.on_node(incarnation, event)?,
            Event::StartNode => {
                if !self.draining && self.node.pid().is_none() {
                    self.start_node()?;
                }
            }
            Event::Admin(call) => self.on_call(call),
            Event::Unlock(request) => self.unlock(request),
            Event::Reloaded(number, config) => {
                tracing::info!(generation = number, "reloaded");
                self.generation = number;
                self.config = *config;
            }
        }
        Ok(())
    }

    fn on_keeper(
        &mut self,
        index: usize,
        incarnation: u64,
        event: ChildEvent<FromKeeper>,
    ) -> Result<(), SupervisorError> {
        let Some(keeper) = self.keepers.get_mut(index) else { return Ok(()) };
        let happened = keeper.on_event(incarnation, event);
        match happened {
            Happened::Nothing => return Ok(()),
            Happened::Vitals => {}
            Happened::Opened { first: true } if self.served => self.push_generation(),
            Happened::Opened { .. } => {}
            Happened::Gone | Happened::Latched if self.draining => return Ok(()),
            Happened::Gone => {
                let at = keeper.retry_at();
                self.later(at, Event::StartKeeper(index));
            }
            Happened::Latched => {
                tracing::error!(token = keeper.label(), "no further login by itself: mend it, then run `fastness unlock`");
            }
        }
        if !self.served {
            self.first_start()?;
        }
        self.node.tokens(self.keepers.iter().map(Keeper::signs).collect());
        self.push_metrics();
        Ok(())
    }

    /// Starts the node once every token was tried and one is open. Without any there is nothing to
    /// start with, and an operator is watching.
    fn first_start(&mut self) -> Result<(), SupervisorError> {
        if self.keepers.iter().any(Keeper::is_undecided) || self.node.pid().is_some() {
            return Ok(());
        }
        if self.keepers.iter().any(Keeper::is_open) {
            return Ok(self.start_node()?);
        }
        let faults = self.keepers.iter().flat_map(Keeper::exit_faults).collect();
        Err(match self.keepers.iter().any(Keeper::is_latched) {
            true => SupervisorError::Pin(faults),
            false => SupervisorError::Faults(faults),
        })
    }

    fn restart_keeper(&mut self, index: usize) {
        let Some(keeper) = self.keepers.get_mut(index) else { return };
        if self.draining || !keeper.waits() {
            return;
        }
        if keeper.prompts() {
            return keeper.lock();
        }
        if let Err(fault) = keeper.start(&self.events) {
            keeper.start_failed(fault);
            let at = keeper.retry_at();
            self.later(at, Event::StartKeeper(index));
        }
    }

    fn on_node(&mut self, incarnation: u64, event: ChildEvent<FromNode>) -> Result<(), SupervisorError> {
        match self.node.on_event(incarnation, event) {
            NodeEvent::Nothing => {}
            NodeEvent::Ready => {
                self.served = true;
                self.node.tokens(self.keepers.iter().map(Keeper::signs).collect());
                let listening = self.listeners.peers.iter().filter_map(|listener| listener.local_addr().ok());
                let listening: Vec<String> = listening.map(|address| address.to_string()).collect();
                tracing::info!(id = %self.config.id, listening = listening.join(","), "READY");
            }
            NodeEvent::Gone if self.draining => {}
            NodeEvent::Gone if !self.served => {
                return Err(SupervisorError::Faults(self.node.exit_faults()));
            }
            NodeEvent::Gone => {
                let at = self.node.retry_at();
                self.later(at, Event::StartNode);
            }
        }
        Ok(())
    }

    fn later(&self, at: Instant, event: Event) {
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            let _ = events.send(event).await;
        });
    }

    fn on_call(&mut self, call: Call) {
        let gone = || Status::unavailable("the node's process is being started again; try again");
        match call {
            Call::Status(answer) => {
                let mut status = self.report();
                let connections = self.node.order(Order::Connections);
                tokio::spawn(async move {
                    if let Some(Answer::Connections { connections, counters }) = within(connections).await {
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

    /// Lets the node's calls end, then the keepers' signatures, then kills what is left.
    async fn drain(&mut self, events: &mut mpsc::Receiver<Event>) {
        if self.served {
            tracing::info!("draining");
        }
        self.draining = true;
        self.node.drain();
        let patience = Duration::from_millis(self.config.limits.drain_ms) + Duration::from_secs(2);
        self.wait_for(events, patience, |this| this.node.pid().is_none()).await;
        self.node.kill();
        for keeper in &mut self.keepers {
            keeper.stop();
        }
        let all_gone = |this: &Self| {
            this.node.pid().is_none() && this.keepers.iter().all(|keeper| keeper.pid().is_none())
        };
        self.wait_for(events, Duration::from_secs(2), all_gone).await;
        for keeper in &mut self.keepers {
            keeper.kill();
        }
        self.wait_for(events, Duration::from_secs(2), all_gone).await;
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

/// An answer that a healthy node gives at once.
async fn within(answer: tokio::sync::oneshot::Receiver<Answer>) -> Option<Answer> {
    tokio::time::timeout(Duration::from_secs(5), answer).await.ok()?.ok()
}
