//! The keepers: one process for each configured token, started, watched and replaced. The channels
//! outlive the process: both ends stay here, so a new keeper goes on where the old one stopped.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use tokio::sync::mpsc;

use super::Event;
use super::backoff::Backoff;
use super::child::{Child, ChildEvent, Role, Start};
use super::unlock::Waiting;
use crate::config::TokenConfig;
use crate::control::{FromKeeper, KeeperReady, KeeperSetup, ToKeeper, Unlocked, Vitals};
use crate::fault::Fault;
use crate::keeper::message::{MAX_REPLY, REPLACED, Refusal, Reply};
use crate::sandbox;
use crate::secret::{PinKind, PinSource};
use crate::telemetry::LogSetup;

/// Where a keeper stands.
#[derive(Debug)]
pub(super) enum State {
    Starting {
        since: Instant,
    },
    /// `polled`: since when a poll waits for its answer.
    Ready {
        polled: Option<Instant>,
    },
    /// Gone; started again at a time that the main loop knows.
    Waiting,
    /// Not started again by itself: a further try could lock the PIN.
    Latched,
    /// Its PIN was typed, so it cannot be taken again.
    Locked,
}

/// One token's keeper over all its processes.
#[derive(Debug)]
pub(super) struct Keeper {
    index: usize,
    config: TokenConfig,
    log: LogSetup,
    sign_deadline: Duration,
    channels: Vec<Channel>,
    child: Option<Child>,
    /// Grows with each process; events of earlier ones are not ours.
    incarnation: u64,
    state: State,
    /// What the last keeper that was ready found.
    known: Option<KeeperReady>,
    /// What the running one last said of itself.
    pub(super) vitals: Vitals,
    /// What the ones before it counted.
    past: Totals,
    /// How often its PIN was refused.
    pub(super) latches: u32,
    faults: Vec<Fault>,
    /// The running one is not what it must be.
    pub(super) unsound: Option<Fault>,
    /// Who waits for the outcome of an unlock.
    pub(super) unlocking: Option<Waiting>,
    pub(super) restarts: u32,
    backoff: Backoff,
    /// Whether an operator asked for the last start.
    attended: bool,
}

/// What keepers count.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) signatures: u64,
    pub(super) refusals: u64,
    /// By return code.
    pub(super) evictions: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Channel {
    node: OwnedFd,
    keeper: OwnedFd,
}

/// Channels beside those for the sessions: the next request waits in the keeper already when a session
/// becomes free, so that no session waits for the node.
pub(super) const AHEAD: usize = 1;
/// How long module, login and key checks may take before the keeper counts as hung.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// A keeper answers a poll from a thread that never calls the module; one that does not within this
/// time is stopped or starved.
const POLL_DEADLINE: Duration = Duration::from_secs(3);

impl Keeper {
    /// The keeper of the `index`th token, not yet started.
    pub(super) fn new(
        index: usize,
        config: TokenConfig,
        log: LogSetup,
        sign_deadline: Duration,
    ) -> io::Result<Self> {
        let channels = (0..usize::from(config.sessions) + AHEAD)
            .map(|_| Channel::new())
            .collect::<io::Result<_>>()?;
        Ok(Self {
            index,
            config,
            log,
            sign_deadline,
            channels,
            child: None,
            incarnation: 0,
            state: State::Waiting,
            known: None,
            vitals: Vitals::default(),
            past: Totals::default(),
            latches: 0,
            faults: Vec::new(),
            unsound: None,
            unlocking: None,
            restarts: 0,
            backoff: Backoff::default(),
            attended: false,
        })
    }

    /// The node's ends of the channels.
    pub(super) fn node_ends(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.channels.iter().map(|channel| channel.node.as_fd())
    }

    /// Sessions that are wanted of its token.
    pub(super) fn sessions(&self) -> usize {
        usize::from(self.config.sessions)
    }

    /// Process id, when it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.pid)
    }

    /// Makes new channels where a node has taken one down (shutdown(2) reaches both ends, and every copy of
    /// them); its keeper is then replaced, to have them too.
    pub(super) fn renew_dead_channels(&mut self) -> io::Result<()> {
        let mut renewed = false;
        for channel in &mut self.channels {
            if channel.is_dead()? {
                *channel = Channel::new()?;
                renewed = true;
            }
        }
        if renewed {
            self.replace("the node that ended had shut down a channel to it");
        }
        Ok(())
    }

    /// What it, or one before it, found in the token.
    pub(super) fn known(&self) -> Option<&KeeperReady> {
        self.known.as_ref()
    }

    /// Whether it signs now.
    pub(super) fn signs(&self) -> bool {
        matches!(self.state, State::Ready { .. }) && self.vitals.trouble.is_none()
    }

    /// What all its processes counted; what the last one did after its last word is lost.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = self.past.clone();
        totals.signatures += self.vitals.signatures;
        totals.refusals += self.vitals.refusals;
        for (code, count) in &self.vitals.evictions {
            *totals.evictions.entry(code.clone()).or_default() += count;
        }
        totals
    }

    /// Whether its token was opened and checked, healthy or not.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// The token's label; its URI as long as nobody has seen it.
    pub(super) fn label(&self) -> String {
        self.known
            .as_ref()
            .map_or(self.config.uri.to_string(), |known| known.label.clone())
    }

    /// Whether it waits for `fastness unlock`.
    pub(super) fn is_locked(&self) -> bool {
        matches!(self.state, State::Latched | State::Locked)
    }

    /// Waits for its PIN: the one it had was typed.
    pub(super) fn lock(&mut self) {
        tracing::warn!(
            token = self.label(),
            "waits for its PIN: run `fastness unlock --pin prompt`"
        );
        self.state = State::Locked;
    }

    /// Why it does not sign, for people.
    pub(super) fn trouble(&self) -> String {
        let token = self.label();
        let what = match (&self.state, &self.vitals.trouble) {
            (State::Latched, _) => {
                "its PIN was refused and is not tried again by itself: mend it, then `fastness unlock`"
            }
            (State::Locked, _) => "it waits for its PIN: `fastness unlock --pin prompt`",
            (State::Ready { .. }, Some(trouble)) => trouble,
            (State::Ready { .. }, None) => return String::new(),
            (State::Starting { .. } | State::Waiting, _) => "its keeper is being started again",
        };
        match self.faults.first() {
            Some(fault) => format!("token {token}: {what}: {}", fault.problem),
            None => format!("token {token}: {what}"),
        }
    }

    /// Takes the PIN's source and starts a process because an operator wants it.
    pub(super) fn start(&mut self, events: &mpsc::Sender<Event>) -> Result<(), Fault> {
        self.attended = true;
        self.start_from_source(events)
    }

    /// The same again because the one before is gone.
    pub(super) fn restart(&mut self, events: &mpsc::Sender<Event>) -> Result<(), Fault> {
        // Until a first start has shown that the PIN is right, the operator is still there.
        self.attended = self.known.is_none();
        self.start_from_source(events)
    }

    fn start_from_source(&mut self, events: &mpsc::Sender<Event>) -> Result<(), Fault> {
        let pin = self.config.pin.open().map_err(|error| {
            Fault::new(
                format!("token[{}].pin", self.index),
                error.to_string(),
                "mend the PIN's source",
            )
        })?;
        let kind = self.config.pin.kind(&self.config.uri.to_string());
        self.start_process(&pin, kind, events)
    }

    /// Starts a process that reads its PIN from `pin`, which an operator has sent.
    pub(super) fn start_with(
        &mut self,
        pin: &OwnedFd,
        kind: PinKind,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), Fault> {
        self.attended = true;
        self.start_process(pin, kind, events)
    }

    fn start_process(
        &mut self,
        pin: &OwnedFd,
        kind: PinKind,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), Fault> {
        let place = format!("token[{}]", self.index);
        let prompting = matches!(kind, PinKind::Terminal { .. });
        let setup = ToKeeper::Setup(Box::new(KeeperSetup::of(
            &self.config,
            &place,
            kind,
            self.attended,
            self.log,
        )));
        let mut descriptors = vec![pin.as_fd()];
        descriptors.extend(self.channels.iter().map(|channel| channel.keeper.as_fd()));
        self.incarnation += 1;
        let (index, incarnation) = (self.index, self.incarnation);
        let child = Child::start(
            &Start {
                role: Role::Keeper,
                user: self.config.user,
                environment: &self.config.environment,
                interactive: prompting && self.known.is_none(),
                setup: &setup,
                descriptors: &descriptors,
            },
            events.clone(),
            move |event| Event::Keeper {
                index,
                incarnation,
                event,
            },
        )
        .map_err(|error| Fault::new(place, format!("cannot start a keeper: {error}"), ""))?;
        self.child = Some(child);
        self.past = self.totals();
        self.vitals = Vitals::default();
        self.state = State::Starting {
            since: Instant::now(),
        };
        Ok(())
    }

    /// Takes in what happened.
    pub(super) fn on_event(&mut self, incarnation: u64, event: ChildEvent<FromKeeper>) -> Happened {
        if incarnation != self.incarnation {
            return Happened::Nothing;
        }
        match event {
            // Said once: what is attested stays so.
            ChildEvent::Said(FromKeeper::Ready(_)) if self.is_open() => {
                self.replace("it spoke out of turn");
                Happened::Nothing
            }
            ChildEvent::Said(FromKeeper::Ready(ready)) => {
                if !self.is_attested(&ready) {
                    return Happened::Nothing;
                }
                tracing::info!(
                    token = ready.label,
                    pid = self.pid(),
                    sessions = ready.sessions,
                    "keeper ready"
                );
                self.faults.clear();
                self.backoff.started();
                if let Some(asked) = self.unlocking.take() {
                    asked.answer(&Unlocked::Done {
                        token: ready.label.clone(),
                    });
                }
                let first = self.known.replace(*ready).is_none();
                self.state = State::Ready { polled: None };
                Happened::Opened { first }
            }
            ChildEvent::Said(FromKeeper::Refused { faults, latch }) => {
                self.note(faults);
                if latch {
                    self.latches += 1;
                    self.state = State::Latched;
                }
                Happened::Nothing
            }
            ChildEvent::Said(FromKeeper::Vitals(vitals)) => {
                self.take_vitals(*vitals);
                Happened::Vitals
            }
            ChildEvent::Said(FromKeeper::TokenLost { reason, latch }) => {
                self.replace(&reason);
                if latch {
                    self.note(vec![Fault::new(
                        self.label(),
                        reason,
                        "mend the PIN, then `fastness unlock`",
                    )]);
                    self.state = State::Latched;
                }
                Happened::Nothing
            }
            ChildEvent::Exited(status) => {
                let opened = self.is_open();
                if opened {
                    tracing::warn!(token = self.index, %status, "keeper gone: starting another");
                } else {
                    tracing::debug!(token = self.index, %status, "keeper gone");
                }
                self.child = None;
                self.announce_loss();
                if let Some(asked) = self.unlocking.take() {
                    asked.answer(&Unlocked::Refused(self.exit_faults()));
                }
                if matches!(self.state, State::Latched) {
                    return Happened::Latched;
                }
                self.state = State::Waiting;
                Happened::Gone
            }
        }
    }

    /// Whether the process is what it says of its confinement; if not, it is replaced.
    fn is_attested(&mut self, ready: &KeeperReady) -> bool {
        let Some(pid) = self.pid() else { return false };
        let attestation = sandbox::attest(&self.expected(pid, ready));
        attestation.log();
        self.judge(&attestation);
        attestation.mismatches.is_empty()
    }

    /// Ends one that is not what it must be.
    fn judge(&mut self, attestation: &sandbox::Attestation) {
        if attestation.mismatches.is_empty() {
            return;
        }
        if !attestation.gone {
            let fault = super::attest::fault(attestation);
            self.note(vec![fault.clone()]);
            self.unsound = Some(fault);
        }
        self.replace("it is not confined as declared");
    }

    /// The profile follows from its token's maker: which one that is, is taken from the first keeper that
    /// saw the token, and it does not change.
    fn expected(&self, pid: u32, ready: &KeeperReady) -> sandbox::Expected {
        let maker = sandbox::Maker::of(&self.known.as_ref().unwrap_or(ready).manufacturer);
        sandbox::Expected {
            role: sandbox::Role::Keeper,
            pid,
            user: self.config.user,
            keeps_rights: false,
            profile: sandbox::Profile::keeper(maker, self.config.profile.as_ref()).ok(),
            open_files: crate::keeper::role::open_files(self.channels.len()),
            report: ready.sandbox.clone(),
        }
    }

    /// What it is now, of the one that is ready; replaced when it is not what it must be.
    pub(super) fn attest(&mut self) -> Option<sandbox::Attestation> {
        let ready = self.known.as_ref().filter(|_| self.is_open())?;
        let attestation = sandbox::attest(&self.expected(self.pid()?, ready));
        if !attestation.mismatches.is_empty() {
            attestation.log();
        }
        self.judge(&attestation);
        Some(attestation)
    }

    fn take_vitals(&mut self, vitals: Vitals) {
        if let State::Ready { polled } = &mut self.state {
            *polled = None;
        }
        if vitals.trouble != self.vitals.trouble {
            match &vitals.trouble {
                Some(trouble) => {
                    tracing::error!(token = self.index, trouble, "the token does not sign")
                }
                None => tracing::info!(token = self.index, "the token signs again"),
            }
        }
        let hung = vitals.longest_call > self.sign_deadline;
        self.vitals = vitals;
        if hung {
            self.replace("a call into the module hangs");
        }
    }

    /// Kills the process; its exit starts the next one.
    fn replace(&mut self, reason: &str) {
        if let Some(child) = &mut self.child {
            tracing::warn!(token = self.index, reason, "replacing the keeper");
            child.kill();
        }
    }

    /// When to start it again.
    pub(super) fn retry_at(&mut self) -> Instant {
        self.restarts += 1;
        self.backoff.next()
    }

    /// Whether a planned start is still wanted.
    pub(super) fn waits(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    /// Notes why a start failed before there was a process.
    pub(super) fn start_failed(&mut self, fault: Fault) {
        self.note(vec![fault]);
    }

    /// Remembers why it does not start, and says so once.
    fn note(&mut self, faults: Vec<Fault>) {
        if faults != self.faults {
            for fault in &faults {
                tracing::error!(
                    at = fault.key,
                    mend = fault.mend,
                    "the keeper does not start: {}",
                    fault.problem
                );
            }
        }
        self.faults = faults;
    }

    /// Asks how it is, and kills it when it has not answered for too long.
    pub(super) fn poll(&mut self) {
        match &mut self.state {
            State::Starting { since }
                if since.elapsed() > START_DEADLINE
                    && !matches!(self.config.pin, PinSource::Prompt) =>
            {
                self.replace("not ready in time");
            }
            State::Ready {
                polled: Some(since),
            } => {
                if since.elapsed() > POLL_DEADLINE {
                    self.replace("it does not answer");
                }
            }
            State::Ready { polled } => {
                *polled = Some(Instant::now());
                if let Some(child) = &self.child
                    && !child.tell(&ToKeeper::Poll)
                {
                    self.replace("it does not read its orders");
                }
            }
            State::Starting { .. } | State::Waiting | State::Latched | State::Locked => {}
        }
    }

    #[cfg(feature = "attack-trigger")]
    pub(super) fn attack(&self, attack: sandbox::attack::Attack) {
        let told = self
            .child
            .as_ref()
            .map(|child| child.tell(&ToKeeper::Attack(attack)));
        assert_eq!(told, Some(true), "the keeper hears its attack");
    }

    /// Asks it to let running signatures end and to exit.
    pub(super) fn stop(&mut self) {
        if let Some(child) = &mut self.child
            && !child.tell(&ToKeeper::Stop)
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

    /// Whether its first start has neither succeeded nor failed yet.
    pub(super) fn is_undecided(&self) -> bool {
        self.child.is_some() && !self.is_open()
    }

    /// Whether its PIN was refused and is not tried again.
    pub(super) fn is_latched(&self) -> bool {
        matches!(self.state, State::Latched)
    }

    /// Why a keeper that never became ready is gone.
    pub(super) fn exit_faults(&self) -> Vec<Fault> {
        if !self.faults.is_empty() {
            return self.faults.clone();
        }
        vec![Fault::new(
            format!("token[{}].module", self.index),
            "the module ended or hung its process while it was started",
            "see the log; try the module with `fastness token list --module …`. A module that wants memory \
             both writable and executable, or another program, is ended",
        )]
    }

    pub(super) fn prompts(&self) -> bool {
        matches!(self.config.pin, PinSource::Prompt)
    }

    /// Tells the node, on each channel, that whatever it had asked is lost, so that it asks again
    /// at once and does not wait for the deadline.
    fn announce_loss(&self) {
        let mut packet = [0; MAX_REPLY];
        let lost = Reply {
            id: REPLACED,
            keeper: 0,
            outcome: Err(Refusal::Token),
        };
        let Ok(length) = lost.encode(&mut packet) else {
            return;
        };
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

/// What an event means for the main loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    Nothing,
    /// The token is open and its keys were checked; `first`: for the first time.
    Opened {
        first: bool,
    },
    /// News of its health.
    Vitals,
    /// The process is gone and another is wanted.
    Gone,
    /// The process is gone and no other is started by itself.
    Latched,
}

impl Channel {
    fn new() -> io::Result<Self> {
        let (node, keeper) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self { node, keeper })
    }

    /// Whether either direction of it was shut down.
    fn is_dead(&self) -> io::Result<bool> {
        let gone = PollFlags::RDHUP | PollFlags::HUP;
        let mut ends = [&self.node, &self.keeper].map(|end| PollFd::new(end, gone));
        let immediately = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut ends, Some(&immediately))?;
        Ok(ends.iter().any(|end| end.revents().intersects(gone)))
    }
}
