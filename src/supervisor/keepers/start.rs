//! How a keeper's process is started: with its PIN from the configured source, or from an operator.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::fs::FileType;
use tokio::sync::mpsc;

use super::latch::{Giver, Login};
use super::{Event, Keeper, State};
use crate::control::frame::MAX_FROM_ROLE;
use crate::control::{KeeperSetup, ToKeeper, Vitals};
use crate::fault::{Fault, Passing};
use crate::secret::{PinError, PinKind, PinSource};
use crate::supervisor::child::{Child, Role, Start};

impl Keeper {
    /// Takes the PIN's source and starts a process, when its turn has come.
    pub(in crate::supervisor) fn start(
        &mut self,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), Fault> {
        let pin = self.open_pin().map_err(|error| {
            Fault::new(
                format!("{}.pin", self.place()),
                error.to_string(),
                error.mend(),
            )
        })?;
        let kind = self.config.pin.kind(&self.config.uri.to_string());
        self.start_process(&pin, kind, Giver::Source, events)
    }

    /// The same because an operator wants it.
    pub(in crate::supervisor) fn unlock(
        &mut self,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), Fault> {
        self.attended = true;
        self.start(events)?;
        self.refused = None;
        Ok(())
    }

    /// Opens the PIN's source. A pipe gives it once: whoever wrote it has gone.
    fn open_pin(&mut self) -> Result<OwnedFd, PinError> {
        let pin = self.config.pin.open()?;
        if matches!(self.config.pin, PinSource::Fd(_)) {
            let stat = rustix::fs::fstat(&pin).map_err(|errno| PinError::Read(errno.into()))?;
            self.spent = FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile;
        }
        Ok(pin)
    }

    /// Whether its PIN's source gives nothing any more, so that an operator has to come with one.
    pub(in crate::supervisor) fn is_spent(&self) -> bool {
        self.spent
    }

    /// Starts a process that reads its PIN from `pin`, which an operator has sent.
    pub(in crate::supervisor) fn start_with(
        &mut self,
        pin: &OwnedFd,
        kind: PinKind,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), Fault> {
        self.attended = true;
        self.start_process(pin, kind, Giver::Operator, events)
    }

    pub(super) fn start_process(
        &mut self,
        pin: &OwnedFd,
        kind: PinKind,
        giver: Giver,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), Fault> {
        let typing = matches!(kind, PinKind::Terminal { .. });
        let setup = ToKeeper::Setup(Box::new(KeeperSetup {
            attended: self.attended || typing,
            trusted: self.trusted,
            ..KeeperSetup::of(&self.config, kind, self.log)
        }));
        let mut descriptors = vec![pin.as_fd()];
        descriptors.extend(self.channels.keeper_ends());
        let (index, incarnation) = (self.index, self.incarnation + 1);
        let child = Child::start(
            &Start {
                role: Role::Keeper,
                user: self.config.user,
                environment: &self.config.environment,
                longest: MAX_FROM_ROLE,
                interactive: typing && self.known.is_none(),
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
        .map_err(|error| {
            Fault::new(
                self.place(),
                format!("cannot start a keeper: {error}"),
                "see the log",
            )
            .that_may_pass(Passing::System)
        })?;
        self.child = Some(child);
        self.incarnation = incarnation;
        (self.giver, self.login) = (giver, Login::NotBegun);
        self.past = self.totals();
        self.vitals = Vitals::default();
        self.ending = None;
        self.state = State::Starting {
            since: Instant::now(),
            typing,
        };
        Ok(())
    }
}
