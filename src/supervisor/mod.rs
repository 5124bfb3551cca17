//! The first process: binds the sockets, reads every file, starts the others and starts them again,
//! and answers the administrator. It never loads a PKCS#11 module and never reads a PIN.

mod admin;
mod backoff;
pub(crate) mod child;
mod keepers;
mod node;
mod reload;
mod report;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tonic::Status;

use crate::config::Config;
use crate::control::{Answer, FromKeeper, FromNode, NodeSetup, Order, TokenSetup};
use crate::fault::Fault;
use crate::rpc::admin as rpc;
use admin::{Call, Socket};
use child::ChildEvent;
use keepers::{Keeper, State};
use node::Node;

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
    Reloaded(u64, Box<Config>),
}

/// Why the supervisor ended without having been asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SupervisorError {
    /// What was given to us does not allow a start.
    #[error("the node does not start")]
    Faults(Vec<Fault>),
    /// The system refused something that a supervisor needs.
    #[error("the supervisor cannot work")]
    System(#[from] std::io::Error),
}

impl From<Fault> for SupervisorError {
    fn from(fault: Fault) -> Self {
        Self::Faults(vec![fault])
    }
}

/// Runs a node until it is told to stop.
pub(crate) async fn run(config: Config) -> Result<(), SupervisorError> {
    let listeners = bind(&config)?;
    let mut socket = Socket::bind(&config.admin)?;
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut supervisor = Supervisor::new(config, listeners, sender)?;
    supervisor.start_keepers()?;
    while !supervisor.all_keepers_ready() {
        tokio::select! {
            Some(event) = events.recv() => supervisor.on_start_event(event)?,
            _ = supervisor.signals.terminate.recv() => return Ok(()),
            _ = supervisor.signals.interrupt.recv() => return Ok(()),
            () = tokio::time::sleep(Duration::from_secs(1)) => supervisor.check_deadlines(),
        }
    }
    supervisor.start_node()?;
    socket.serve(supervisor.events.clone());
    supervisor.serve(&mut events).await
}

/// Does everything that [`run`] does before it serves, and takes it down again.
pub(crate) async fn check(config: Config) -> Result<Vec<crate::control::KeeperReady>, SupervisorError> {
    let mut faults = Vec::new();
    let listeners = bind(&config).unwrap_or_else(|found| {
        faults.extend(found);
        Vec::new()
    });
    if let Err(fault) = Socket::bind(&config.admin) {
        faults.push(fault);
    }
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut supervisor = Supervisor::new(config, listeners, sender)?;
    let mut open = supervisor.keepers.len();
    for keeper in &mut supervisor.keepers {
        if let Err(fault) = keeper.start(&supervisor.events) {
            faults.push(fault);
            open -= 1;
        }
    }
    let mut ready = Vec::new();
    while open > 0 {
        let event = tokio::select! {
            Some(event) = events.recv() => event,
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                supervisor.check_deadlines();
                continue;
            }
        };
        let Event::Keeper { index, incarnation, event } = event else { continue };
        let exited = matches!(event, ChildEvent::Exited(_));
        let Some(keeper) = supervisor.keepers.get_mut(index) else { continue };
        keeper.on_event(incarnation, event);
        if exited {
            open -= 1;
            faults.extend(keeper.exit_faults());
        } else if let Some(found) = keeper.ready() {
            ready.push(found.clone());
            keeper.stop();
            open -= 1;
        }
    }
    if faults.is_empty() {
        Ok(ready)
    } else {
        Err(SupervisorError::Faults(faults))
    }
}

fn bind(config: &Config) -> Result<Vec<TcpListener>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut listeners = Vec::new();
    for address in &config.listen {
        let bound = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        match bound {
            Ok(listener) => listeners.push(listener),
            Err(error) => faults.push(Fault::new(
                "listen",
                format!("cannot listen on {address}: {error}"),
                "stop what uses it (`ss -ltnp`), or name another address",
            )),
        }
    }
    if faults.is_empty() { Ok(listeners) } else { Err(faults) }
}

impl From<Vec<Fault>> for SupervisorError {
    fn from(faults: Vec<Fault>) -> Self {
        Self::Faults(faults)
    }
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
    listeners: Vec<TcpListener>,
    keepers: Vec<Keeper>,
    node: Node,
    events: mpsc::UnboundedSender<Event>,
    signals: Signals,
    draining: bool,
}

impl Supervisor {
    fn new(
        config: Config,
        listeners: Vec<TcpListener>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<Self, SupervisorError> {
        let keepers = config
            .tokens
            .iter()
            .enumerate()
            .map(|(index, token)| Keeper::new(index, token.clone(), config.log))
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
            draining: false,
        })
    }

    fn start_keepers(&mut self) -> Result<(), SupervisorError> {
        for keeper in &mut self.keepers {
            keeper.start(&self.events)?;
        }
        Ok(())
    }

    fn all_keepers_ready(&self) -> bool {
        self.keepers.iter().all(|keeper| keeper.ready().is_some())
    }

    /// During the first start a keeper that goes is the end: there is nothing to keep up.
    fn on_start_event(&mut self, event: Event) -> Result<(), SupervisorError> {
        let Event::Keeper { index, incarnation, event } = event else { return Ok(()) };
        let exited = matches!(event, ChildEvent::Exited(_));
        let Some(keeper) = self.keepers.get_mut(index) else { return Ok(()) };
        keeper.on_event(incarnation, event);
        if exited {
            return Err(SupervisorError::Faults(keeper.exit_faults()));
        }
        Ok(())
    }

    fn check_deadlines(&mut self) {
        for keeper in &mut self.keepers {
            keeper.check_deadline();
        }
    }

    fn start_node(&mut self) -> std::io::Result<()> {
        let setup = NodeSetup {
            log: self.config.log,
            id: self.config.id.to_string(),
            listeners: self.listeners.len(),
            tokens: self
                .keepers
                .iter()
                .map(|keeper| TokenSetup {
                    label: keeper.known().map_or_else(String::new, |ready| ready.label.clone()),
                    channels: keeper.node_ends().count(),
                })
                .collect(),
            limits: self.config.limits.clone(),
            generation: self.generation(&self.config, self.generation),
        };
        self.node.start(setup, &self.listeners, &self.keepers, &self.events)
    }

    async fn serve(
        mut self,
        events: &mut mpsc::UnboundedReceiver<Event>,
    ) -> Result<(), SupervisorError> {
        let mut served = false;
        loop {
            tokio::select! {
                Some(event) = events.recv() => self.on_event(event)?,
                _ = self.signals.terminate.recv() => break,
                _ = self.signals.interrupt.recv() => break,
                _ = self.signals.hangup.recv() => self.reload(None),
                () = tokio::time::sleep(Duration::from_secs(1)) => self.check_deadlines(),
            }
            if self.node.ready && !served {
                served = true;
                tracing::info!(
                    id = %self.config.id,
                    listen = ?self.listeners.iter().filter_map(|l| l.local_addr().ok()).collect::<Vec<_>>(),
                    "READY"
                );
            }
            if !served && !self.node.faults.is_empty() {
                return Err(SupervisorError::Faults(std::mem::take(&mut self.node.faults)));
            }
            if self.draining {
                break;
            }
        }
        self.drain(events).await;
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> std::io::Result<()> {
        match event {
            Event::Keeper { index, incarnation, event } => {
                let Some(keeper) = self.keepers.get_mut(index) else { return Ok(()) };
                let gone = matches!(event, ChildEvent::Exited(_));
                if keeper.on_event(incarnation, event) && gone && !self.draining {
                    match keeper.retry_at() {
                        Some(at) => self.later(at, Event::StartKeeper(index)),
                        None => tracing::error!(
                            token = index,
                            "keeper latched: mend the PIN, then restart the node"
                        ),
                    }
                }
            }
            Event::StartKeeper(index) => {
                let Some(keeper) = self.keepers.get_mut(index) else { return Ok(()) };
                if !self.draining && matches!(keeper.state, State::Waiting) {
                    if let Err(fault) = keeper.start(&self.events) {
                        tracing::error!("{fault}");
                        keeper.faults = vec![fault];
                        if let Some(at) = keeper.retry_at() {
                            self.later(at, Event::StartKeeper(index));
                        }
                    }
                }
            }
            Event::Node { incarnation, event } => {
                let gone = matches!(event, ChildEvent::Exited(_));
                if self.node.on_event(incarnation, event) && gone && !self.draining {
                    let at = self.node.retry_at();
                    self.later(at, Event::StartNode);
                }
            }
            Event::StartNode => {
                if !self.draining && self.node.pid().is_none() {
                    self.start_node()?;
                }
            }
            Event::Admin(call) => self.on_call(call),
            Event::Reloaded(number, config) => {
                tracing::info!(generation = number, "reloaded");
                self.generation = number;
                self.config = *config;
            }
        }
        Ok(())
    }

    fn later(&self, at: Instant, event: Event) {
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            let _ = events.send(event);
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
    async fn drain(&mut self, events: &mut mpsc::UnboundedReceiver<Event>) {
        tracing::info!("draining");
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
        tracing::info!("stopped");
    }

    /// Takes in events until `done` holds, `patience` is over or a second signal says to hurry.
    async fn wait_for(
        &mut self,
        events: &mut mpsc::UnboundedReceiver<Event>,
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
