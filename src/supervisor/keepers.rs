//! The keepers: one process for each configured token, started, watched and replaced. The channels
//! outlive the process: both ends stay here, so a new keeper goes on where the old one stopped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use tokio::sync::mpsc;

use super::Event;
use super::backoff::Backoff;
use super::child::{Child, ChildEvent, Role, Start};
use crate::config::TokenConfig;
use crate::control::{FromKeeper, KeeperReady, KeeperSetup, KeySetup, ToKeeper};
use crate::fault::Fault;
use crate::keeper::message::{MAX_REPLY, REPLACED, Reply};
use crate::secret::PinSource;
use crate::telemetry::LogSetup;

/// Where a keeper stands.
#[derive(Debug)]
pub(super) enum State {
    Starting { since: Instant },
    Ready(Box<KeeperReady>),
    /// Gone; started again at a time that the main loop knows.
    Waiting,
    /// Not started again by itself: a further try could lock the PIN.
    Latched,
}

/// One token's keeper over all its processes.
#[derive(Debug)]
pub(super) struct Keeper {
    index: usize,
    config: TokenConfig,
    log: LogSetup,
    channels: Vec<Channel>,
    child: Option<Child>,
    /// Grows with each process; events of earlier ones are not ours.
    incarnation: u64,
    pub(super) state: State,
    /// What the last keeper that was ready found.
    known: Option<KeeperReady>,
    pub(super) faults: Vec<Fault>,
    pub(super) restarts: u32,
    backoff: Backoff,
}

#[derive(Debug)]
struct Channel {
    node: OwnedFd,
    keeper: OwnedFd,
}

/// How long module, login and key checks may take before the keeper counts as hung.
const START_DEADLINE: Duration = Duration::from_secs(60);

impl Keeper {
    /// The keeper of the `index`th token, not yet started.
    pub(super) fn new(index: usize, config: TokenConfig, log: LogSetup) -> io::Result<Self> {
        let channels = (0..config.sessions)
            .map(|_| {
                let (node, keeper) = rustix::net::socketpair(
                    AddressFamily::UNIX,
                    SocketType::SEQPACKET,
                    SocketFlags::CLOEXEC,
                    None,
                )?;
                Ok(Channel { node, keeper })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            index,
            config,
            log,
            channels,
            child: None,
            incarnation: 0,
            state: State::Waiting,
            known: None,
            faults: Vec::new(),
            restarts: 0,
            backoff: Backoff::default(),
        })
    }

    /// The node's ends of the channels.
    pub(super) fn node_ends(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.channels.iter().map(|channel| channel.node.as_fd())
    }

    /// Process id, when it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.pid)
    }

    /// What it, or one before it, found in the token.
    pub(super) fn known(&self) -> Option<&KeeperReady> {
        self.known.as_ref()
    }

    /// What it reported when it became ready, if it is.
    pub(super) fn ready(&self) -> Option<&KeeperReady> {
        match &self.state {
            State::Ready(ready) => Some(ready),
            _ => None,
        }
    }

    /// Takes the PIN's source again and starts a process.
    pub(super) fn start(&mut self, events: &mpsc::UnboundedSender<Event>) -> Result<(), Fault> {
        let place = format!("token[{}]", self.index);
        let pin = self.config.pin.open().map_err(|error| {
            Fault::new(
                format!("{place}.pin"),
                error.to_string(),
                "mend the PIN's source",
            )
        })?;
        let setup = ToKeeper::Setup(Box::new(KeeperSetup {
            log: self.log,
            module: self.config.module.clone(),
            token: self.config.uri.to_string(),
            pin: self.config.pin.kind(&self.config.uri.to_string()),
            sessions: self.channels.len(),
            keys: self.config.keys.iter().map(|key| KeySetup {
                place: format!("{place}.{}.key", key.role),
                role: key.role,
                uri: key.uri.to_string(),
                spki: key.spki.clone(),
            }).collect(),
        }));
        let mut descriptors = vec![pin.as_fd()];
        descriptors.extend(self.channels.iter().map(|channel| channel.keeper.as_fd()));
        self.incarnation += 1;
        let (index, incarnation) = (self.index, self.incarnation);
        let child = Child::start(
            &Start {
                role: Role::Keeper,
                environment: &self.config.environment,
                interactive: self.prompts(),
                setup: &setup,
                descriptors: &descriptors,
            },
            events.clone(),
            move |event| Event::Keeper { index, incarnation, event },
        )
        .map_err(|error| Fault::new(place, format!("cannot start a keeper: {error}"), ""))?;
        self.child = Some(child);
        self.state = State::Starting { since: Instant::now() };
        Ok(())
    }

    /// Takes in what happened. True when the event changed the state.
    pub(super) fn on_event(&mut self, incarnation: u64, event: ChildEvent<FromKeeper>) -> bool {
        if incarnation != self.incarnation {
            return false;
        }
        match event {
            ChildEvent::Said(FromKeeper::Ready(ready)) => {
                tracing::info!(
                    token = ready.label,
                    pid = self.pid(),
                    sessions = ready.sessions,
                    "keeper ready"
                );
                self.faults.clear();
                self.backoff.started();
                self.known = Some((*ready).clone());
                self.state = State::Ready(ready);
            }
            ChildEvent::Said(FromKeeper::Refused { faults, latch }) => {
                for fault in &faults {
                    tracing::error!(token = self.index, "keeper refused: {fault}");
                }
                self.faults = faults;
                if latch {
                    self.state = State::Latched;
                }
                return false;
            }
            ChildEvent::Said(FromKeeper::TokenLost { reason }) => {
                tracing::warn!(token = self.index, reason, "the token was lost: replacing the keeper");
                if let Some(child) = &mut self.child {
                    child.kill();
                }
                return false;
            }
            ChildEvent::Exited(status) => {
                tracing::warn!(token = self.index, %status, "keeper exited");
                self.child = None;
                self.announce_loss();
                if !matches!(self.state, State::Latched) {
                    self.state = State::Waiting;
                }
            }
        }
        true
    }

    /// When to start it again; `None` when it is latched.
    pub(super) fn retry_at(&mut self) -> Option<Instant> {
        if matches!(self.state, State::Latched) {
            return None;
        }
        self.restarts += 1;
        Some(self.backoff.next())
    }

    /// Kills a process that did not become ready in time.
    pub(super) fn check_deadline(&mut self) {
        if let State::Starting { since } = self.state
            && !self.prompts()
            && since.elapsed() > START_DEADLINE
            && let Some(child) = &mut self.child
        {
            tracing::error!(token = self.index, "keeper not ready in time: killed");
            child.kill();
        }
    }

    /// Asks it to let running signatures end and to exit.
    pub(super) fn stop(&mut self) {
        if let Some(child) = &mut self.child
            && !child.tell(&ToKeeper::Stop)
        {
            child.kill();
        }
    }

    /// Why a keeper that never became ready is gone.
    pub(super) fn exit_faults(&mut self) -> Vec<Fault> {
        let mut faults = std::mem::take(&mut self.faults);
        if faults.is_empty() {
            faults.push(Fault::new(
                format!("token[{}].module", self.index),
                "the module ended or hung its process while it was started",
                "see the log; try the module with `fastness token list --module …`",
            ));
        }
        faults
    }

    fn prompts(&self) -> bool {
        matches!(self.config.pin, PinSource::Prompt)
    }

    /// Kills it.
    pub(super) fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill();
        }
    }

    /// Tells the node, on each channel, that whatever it had asked is lost, so that it asks again
    /// at once and does not wait for the deadline.
    fn announce_loss(&self) {
        let mut packet = [0; MAX_REPLY];
        let lost = Reply { id: REPLACED, keeper: 0, outcome: Err(crate::keeper::message::Refusal::Token) };
        let Ok(length) = lost.encode(&mut packet) else { return };
        for channel in &self.channels {
            // A full channel holds replies that nobody reads: nobody waits there.
            let _ = rustix::net::send(
                &channel.keeper,
                &packet[..length],
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            );
        }
    }
}
