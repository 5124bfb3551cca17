//! The first process: binds the sockets, reads every file, starts the others and starts them again,
//! and answers the administrator. It never loads a PKCS#11 module and never reads a PIN.

mod admin;
mod application;
#[cfg(feature = "attack-trigger")]
mod attack;
mod attest;
mod backoff;
mod calls;
mod channels;
mod check;
pub(crate) mod child;
mod descriptors;
mod ending;
mod grace;
mod keepers;
mod metrics;
mod names;
mod node;
mod pulse;
mod readiness;
mod reload;
mod report;
mod resolver;
mod roles;
mod socket_file;
mod sockets;
mod systemd;
mod turns;
mod unlock;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::control::{FromKeeper, FromNode, NodeSetup, TokenSetup};
use crate::fault::Fault;
use crate::sandbox;
use crate::secret::{Echo, PinSource};
use admin::{Call, Socket};
pub(crate) use check::{Checked, check};
use child::ChildEvent;
use descriptors::OpenFiles;
use grace::Grace;
use keepers::Keeper;
use node::Node;
use reload::Reloads;
use sockets::Listeners;
use systemd::Systemd;

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
    Loaded(reload::Loaded),
    Reloaded(reload::Reloaded),
    LookAgain,
    Looked(resolver::Looked),
    /// The start is over.
    Settled,
}

/// Why the supervisor ended without having been asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SupervisorError {
    /// What was given to us does not allow a start.
    #[error("the node does not start")]
    Faults(Vec<Fault>),
    /// No token can be opened now, and at least one could be later as everything is.
    #[error("no token can be opened now")]
    Tokens(Vec<Fault>),
    /// A PIN was refused. It must not be tried again before an operator has acted.
    #[error("a PIN was refused")]
    Pin(Vec<Fault>),
    /// A process is not what it must be: all of them were ended.
    #[error("the node was stopped: a process is not confined as declared")]
    NotConfined(Vec<Fault>),
    /// A check was told to stop before all was tried; what was found until then.
    #[error("told to stop before everything was checked")]
    Stopped(Vec<Fault>),
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
/// How often a keeper is asked how it is, and the node whether it lives.
const POLL: Duration = Duration::from_millis(500);

/// Where PINs are taken, beside the admin socket: descriptors do not travel through gRPC.
pub(crate) fn unlock_socket(admin: &Path) -> PathBuf {
    let mut path = admin.as_os_str().to_owned();
    path.push(".unlock");
    path.into()
}

/// Runs a node until it is told to stop.
pub(crate) async fn run(config: Config) -> Result<(), SupervisorError> {
    let listeners = sockets::bind(&config)?;
    application::must_be_private(&config)?;
    let mut socket = Socket::bind(&config.admin)?;
    let (sender, mut events) = mpsc::channel(QUEUED_EVENTS);
    socket.serve(sender.clone());
    let mut unlocking = Socket::bind(&unlock_socket(&config.admin))?;
    if let Some(listener) = unlocking.listener() {
        tokio::spawn(unlock::listen(listener, sender.clone()));
    }
    say_what_is_given(&config);
    let confined = confine(&config)?;
    let mut supervisor = Supervisor::new(confined, config, listeners, sender)?;
    let outcome = match supervisor.begin().await {
        Ok(()) => supervisor.serve(&mut events).await,
        Err(error) => Err(error),
    };
    match outcome {
        Err(SupervisorError::NotConfined(_)) => supervisor.end(&mut events).await,
        _ => supervisor.drain(&mut events).await,
    }
    outcome
}

fn confine(config: &Config) -> Result<(sandbox::Confined, sandbox::Report), Vec<Fault>> {
    let OpenFiles {
        supervisor, most, ..
    } = OpenFiles::of(config);
    sandbox::confine_supervisor(
        config.profile.as_ref(),
        &config.users(),
        (supervisor, most),
        config.connects(),
    )
}

/// Writes what of the confinement the configuration decides.
fn say_what_is_given(config: &Config) {
    let tokens = config.tokens.iter().map(|token| token.profile.as_ref());
    let profiles = [
        &config.profile,
        &config.node.profile,
        &config.resolver.profile,
    ];
    let profiles = profiles.map(Option::as_ref);
    for own in profiles.into_iter().chain(tokens).flatten() {
        tracing::warn!(
            profile = own.path,
            sha256 = own.sha256(),
            "a profile of the administrator's is in force, not the reviewed one"
        );
    }
    if config.users().is_empty() {
        let uid = rustix::process::geteuid().as_raw();
        let mend = if sandbox::may_change_users() {
            "name `node_user` in [sandbox] and `user` in each [[token]]"
        } else {
            "see hsm-setup/systemd/users.conf"
        };
        tracing::warn!(
            uid,
            mend,
            "all roles run as one user: whatever is this user's, each of them could reach but for its sandbox"
        );
    }
}

/// The signals that we act on.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Waits for any of them.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    /// Waits for one that ends a node.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

struct Supervisor {
    config: Config,
    /// Number of the newest generation that a node was given.
    generation: u64,
    reloads: Reloads,
    again: names::Again,
    listeners: Listeners,
    keepers: Vec<Keeper>,
    node: Node,
    upstream: application::Upstream,
    events: mpsc::Sender<Event>,
    signals: Signals,
    /// How this process is confined.
    report: sandbox::Report,
    /// The TCP ports that its walls leave for a node.
    dials: BTreeSet<u16>,
    /// It is not what it must be.
    unsound: Option<Fault>,
    systemd: Systemd,
    /// The terminal on which a PIN is typed, before it is.
    terminal: Option<Echo>,
    /// What a start still waits for.
    grace: Grace,
    /// The node has been ready once.
    served: bool,
    /// It counts as ready.
    ready: bool,
    draining: bool,
}

impl Supervisor {
    fn new(
        (_, report): (sandbox::Confined, sandbox::Report),
        config: Config,
        listeners: Listeners,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, SupervisorError> {
        let mut keepers = config
            .tokens
            .iter()
            .enumerate()
            .map(|(index, token)| {
                Keeper::new(
                    index,
                    token.clone(),
                    config.log,
                    config.limits.sign_deadline(),
                )
            })
            .collect::<Result<Vec<_>, _>>()?;
        Keeper::introduce(&mut keepers);
        let typed = config
            .tokens
            .iter()
            .any(|token| token.pin == PinSource::Prompt);
        Ok(Self {
            terminal: typed.then(Echo::of_prompt).flatten(),
            generation: 1,
            reloads: Reloads::default(),
            again: names::Again::default(),
            listeners,
            keepers,
            node: Node::new(
                config.node.clone(),
                config.application.as_ref(),
                OpenFiles::of(&config).node,
            ),
            upstream: application::Upstream::of(&config),
            events,
            signals: Signals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                hangup: signal(SignalKind::hangup())?,
            },
            dials: config.dials(),
            config,
            report,
            unsound: None,
            systemd: Systemd::default(),
            grace: Grace::default(),
            served: false,
            ready: false,
            draining: false,
        })
    }

    /// Looks the peers' names up, then starts the keepers; unless it is told to stop meanwhile.
    async fn begin(&mut self) -> Result<(), SupervisorError> {
        if !self.resolve().await {
            self.draining = true;
            return Ok(());
        }
        self.must_be_sound()?;
        self.start_keepers(false);
        self.first_start()
    }

    fn start_node(&mut self) -> std::io::Result<()> {
        let setup = NodeSetup {
            log: self.config.log,
            id: self.config.id.to_string(),
            listeners: self.listeners.peers.len(),
            metrics: self.listeners.metrics.is_some(),
            application: self.config.application.clone(),
            tokens: self
                .keepers
                .iter()
                .map(|keeper| TokenSetup {
                    label: keeper.label(),
                    channels: keeper.node_ends().count(),
                    sessions: keeper.sessions(),
                })
                .collect(),
            limits: self.config.limits.clone(),
            profile: self.config.node.profile.clone(),
            dials: self.config.dials(),
            generation: self.generation(&self.config, self.generation),
        };
        self.node
            .start(setup, &self.listeners, &self.keepers, &self.events)
    }

    /// Takes in events until it is told to stop. Until the node has been ready once, a fault is the
    /// end: an operator is watching, and there is nothing to keep up.
    async fn serve(&mut self, events: &mut mpsc::Receiver<Event>) -> Result<(), SupervisorError> {
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.draining {
            tokio::select! {
                Some(event) = events.recv() => {
                    self.on_event(event)?;
                    self.must_be_sound()?;
                }
                _ = tick.tick() => {
                    self.keepers.iter_mut().for_each(Keeper::poll);
                    self.node.poll();
                    self.first_start()?;
                    self.upstream.look();
                    self.tell_node();
                    self.tell_systemd();
                }
                _ = self.signals.terminate.recv() => break,
                _ = self.signals.interrupt.recv() => break,
                _ = self.signals.hangup.recv() => self.reload(None),
            }
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> Result<(), SupervisorError> {
        match event {
            Event::Keeper {
                index,
                incarnation,
                event,
            } => self.on_keeper(index, incarnation, event)?,
            Event::StartKeeper(index) => self.restart_keeper(index),
            Event::Node { incarnation, event } => self.on_node(incarnation, event)?,
            Event::StartNode => {
                if !self.draining && self.node.pid().is_none() {
                    self.restart_node();
                }
            }
            Event::Admin(call) => self.on_call(call),
            Event::Unlock(request) => self.unlock(request),
            Event::Settled => sandbox::settle(),
            Event::Loaded(loaded) => self.on_loaded(loaded),
            Event::Reloaded(reloaded) => self.on_reloaded(reloaded),
            Event::LookAgain => self.look_again(),
            Event::Looked(looked) => self.on_looked(looked),
        }
        Ok(())
    }

    /// Tells the node how the tokens are, and whether it counts as ready: as long as one of them does, and the
    /// application is well.
    fn tell_node(&mut self) {
        let now = Instant::now();
        let standings = self.keepers.iter().map(Keeper::standing).collect();
        // Each of them is looked at.
        let looked = self.keepers.iter_mut().map(|keeper| keeper.counts(now));
        let ready = looked.fold(false, |any, counts| any | counts) && self.node.application_well;
        self.node.tokens(standings, ready);
        let ready = ready && self.node.ready && !self.draining;
        if std::mem::replace(&mut self.ready, ready) != ready && !self.draining {
            match ready {
                true => tracing::info!("counts as ready"),
                false => {
                    tracing::error!(reason = self.settled_state().1, "counts as ready no longer")
                }
            }
        }
    }

    fn later(&self, at: Instant, event: Event) {
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            let _ = events.send(event).await;
        });
    }
}
