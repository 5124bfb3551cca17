//! The keepers: one process for each configured token, started, watched and replaced.

mod attested;
mod heard;
mod latch;
mod seen;
mod start;
#[cfg(test)]
mod tests;
mod turn;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::Event;
use super::backoff::Backoff;
use super::channels::Channels;
use super::child::{self, Child, ChildEvent};
use super::readiness::Readiness;
use super::unlock::Waiting;
use crate::config::TokenConfig;
use crate::control::{FromKeeper, KeeperReady, Retry, ToKeeper, Unlocked, Vitals};
use crate::fault::Fault;
use crate::secret::PinSource;
use crate::telemetry::LogSetup;
use latch::{Giver, Login};

/// Where a keeper stands.
#[derive(Debug)]
pub(super) enum State {
    /// `typing`: somebody is asked for its PIN, which takes as long as it takes.
    Starting { since: Instant, typing: bool },
    /// `polled`: since when a poll waits for its answer.
    Ready { polled: Option<Instant> },
    /// Gone; started again at a time that the main loop knows.
    Waiting,
    /// To be started once no other keeper of its token is logging in.
    Queued { since: Instant },
    /// Not started again by itself: a further try could lock the PIN.
    Latched,
    /// Its PIN was typed, or came through a pipe, so it cannot be taken again.
    Locked,
}

/// One token's keeper over all its processes.
#[derive(Debug)]
pub(super) struct Keeper {
    index: usize,
    config: TokenConfig,
    log: LogSetup,
    sign_deadline: Duration,
    channels: Channels,
    child: Option<Child>,
    /// Grows with each process; events of earlier ones are not ours.
    incarnation: u64,
    state: State,
    /// Since when the process is to end: it said that it does not serve, or it was killed.
    ending: Option<Instant>,
    /// Whether the one before signed, so that this one is expected to, and soon.
    signed_before: bool,
    /// How long the last start took, once it had its PIN where somebody typed that.
    usual_start: Option<Duration>,
    /// How many starts in a row took too long.
    hung_starts: u32,
    /// The source of the PIN was read and gives nothing more.
    spent: bool,
    readiness: Readiness,
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
    /// Whether the token took a PIN, and has answered nothing since that may mean a wrong one.
    trusted: bool,
    /// Who gave the PIN of the last start.
    giver: Giver,
    /// Whose PIN was refused since the token took one: until it does, or an operator wants the source tried again,
    /// none is tried by itself.
    refused: Option<Giver>,
    login: Login,
    /// Whether its first start is over, in whatever way.
    tried: bool,
    /// Whether the last process ended in a way that says nothing about the next.
    end_may_pass: bool,
    /// The PIN of its token was refused to another keeper while this one was open: its next start waits for
    /// an operator.
    held_back: Option<Fault>,
    /// Which other keepers may be of the same token.
    twins: Vec<usize>,
    /// The node is ending, and no other process follows this one.
    retired: bool,
}

/// What keepers count.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) signatures: u64,
    pub(super) refusals: u64,
    /// By return code.
    pub(super) evictions: BTreeMap<String, u64>,
}

/// Channels beside those for the sessions: the next request waits in the keeper already when a session
/// becomes free, so that no session waits for the node.
pub(super) const AHEAD: usize = 1;
impl Keeper {
    /// The keeper of the `index`th token, not yet started.
    pub(super) fn new(
        index: usize,
        config: TokenConfig,
        log: LogSetup,
        sign_deadline: Duration,
    ) -> io::Result<Self> {
        let channels = Channels::new(usize::from(config.sessions) + AHEAD)?;
        Ok(Self {
            spent: matches!(config.pin, PinSource::Prompt),
            index,
            config,
            log,
            sign_deadline,
            channels,
            child: None,
            incarnation: 0,
            state: State::Waiting,
            ending: None,
            signed_before: false,
            usual_start: None,
            hung_starts: 0,
            readiness: Readiness::default(),
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
            trusted: false,
            giver: Giver::Source,
            refused: None,
            login: Login::NotBegun,
            tried: false,
            end_may_pass: false,
            held_back: None,
            twins: Vec::new(),
            retired: false,
        })
    }

    /// The node's ends of the channels.
    pub(super) fn node_ends(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.channels.node_ends()
    }

    /// Sessions that are wanted of its token.
    pub(super) fn sessions(&self) -> usize {
        usize::from(self.config.sessions)
    }

    /// Makes new channels where a node or a keeper has taken one down; a keeper that runs is then replaced, to
    /// have them too. Whether there were any.
    pub(super) fn renew_dead_channels(&mut self) -> io::Result<bool> {
        let renewed = self.channels.renew_dead()?;
        if renewed {
            self.replace("a channel to the node was shut down");
        }
        Ok(renewed)
    }

    /// The node is gone: nobody waits for what it had asked.
    pub(super) fn discard_requests(&self) {
        self.channels.discard_requests();
    }

    /// Waits for its PIN: its source gives none any more.
    pub(super) fn lock(&mut self) {
        tracing::warn!(
            token = self.label(),
            "waits for its PIN: run `fastness unlock --pin prompt`"
        );
        self.state = State::Locked;
    }

    /// Takes in what happened.
    pub(super) fn on_event(&mut self, incarnation: u64, event: ChildEvent<FromKeeper>) -> Happened {
        if incarnation != self.incarnation {
            return Happened::Nothing;
        }
        let Some(event) = self.believed(event) else {
            return Happened::Nothing;
        };
        match event {
            ChildEvent::Said(FromKeeper::Ready(ready)) => {
                if !self.is_ours(&ready) || !self.is_attested(&ready) {
                    return Happened::Nothing;
                }
                tracing::info!(
                    token = ready.label,
                    pid = self.pid(),
                    sessions = ready.sessions,
                    "keeper ready"
                );
                self.faults.clear();
                self.tried = true;
                self.held_back = None;
                self.accepted();
                self.backoff.started();
                if let Some(asked) = self.unlocking.take() {
                    asked.answer(&Unlocked::Done {
                        token: ready.label.clone(),
                    });
                }
                let first = self.known.replace(*ready).is_none();
                if let State::Starting {
                    since,
                    typing: false,
                } = self.state
                {
                    self.usual_start = Some(since.elapsed());
                }
                self.hung_starts = 0;
                self.signed_before = true;
                self.state = State::Ready { polled: None };
                Happened::Opened { first }
            }
            ChildEvent::Said(FromKeeper::HasPin) => {
                self.has_pin();
                Happened::Nothing
            }
            ChildEvent::Said(FromKeeper::LoggingIn) => {
                self.login = Login::UnderWay;
                Happened::Nothing
            }
            ChildEvent::Said(FromKeeper::LoggedIn) => {
                self.login = Login::Over;
                self.trusted = true;
                Happened::Nothing
            }
            ChildEvent::Said(FromKeeper::Refused { faults, retry }) => {
                self.note(faults);
                self.login.end();
                self.ending = Some(Instant::now());
                self.trusted &= retry == Retry::Freely;
                if retry == Retry::Never {
                    self.latches += 1;
                    self.latch(self.giver);
                }
                Happened::Nothing
            }
            ChildEvent::Said(FromKeeper::Vitals(vitals)) => {
                self.take_vitals(*vitals);
                Happened::Vitals
            }
            ChildEvent::Said(FromKeeper::TokenLost {
                reason,
                latch,
                last,
            }) => {
                self.vitals = Vitals {
                    trouble: self.vitals.trouble.take(),
                    ..*last
                };
                self.replace(&reason);
                if latch {
                    self.note(vec![Fault::new(
                        self.label(),
                        reason,
                        "mend the PIN, then `fastness unlock`",
                    )]);
                    self.latch(self.giver);
                }
                Happened::Nothing
            }
            ChildEvent::Exited(status) => {
                let opened = self.is_open();
                if opened && !self.retired {
                    tracing::warn!(token = self.index, %status, "keeper gone: starting another");
                } else {
                    tracing::debug!(token = self.index, %status, "keeper gone");
                }
                self.child = None;
                self.tried = true;
                self.end_may_pass = child::may_pass(status);
                self.signed_before = opened;
                self.channels.announce_loss();
                self.answer_end();
                if let Some(anew) = self.latch_at_end() {
                    return Happened::Latched { anew };
                }
                self.state = State::Waiting;
                Happened::Gone
            }
        }
    }

    /// Kills the process; its exit starts the next one.
    fn replace(&mut self, reason: &str) {
        if let Some(child) = &mut self.child {
            tracing::warn!(token = self.index, reason, "replacing the keeper");
            child.kill();
            self.ending = Some(Instant::now());
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
        self.signed_before = false;
        self.tried = true;
        self.state = State::Waiting;
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

    #[cfg(feature = "attack-trigger")]
    pub(super) fn attack(&self, attack: crate::sandbox::attack::Attack) {
        let told = self
            .child
            .as_ref()
            .map(|child| child.tell(&ToKeeper::Attack(attack)));
        assert_eq!(told, Some(true), "the keeper hears its attack");
    }

    /// No process is to follow the one that runs.
    pub(super) fn retire(&mut self) {
        self.retired = true;
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
    /// The process is gone and no other is started by itself; `anew`: for what was not known before.
    Latched {
        anew: bool,
    },
}
