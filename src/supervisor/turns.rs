//! Whose turn it is to log in. The keepers of one token do so one after the other, and after a refused PIN
//! none of them does: however many there are, a wrong PIN is tried once.

use std::time::Instant;

use super::keepers::Keeper;
use super::{Event, Supervisor, SupervisorError};
use crate::fault::Fault;

impl Supervisor {
    /// Has every keeper started, each in its turn. `attended`: an operator waits for the outcome; what systemd
    /// starts again, nobody may be watching. The faults are those of starts that failed at once.
    pub(super) fn start_keepers(&mut self, attended: bool) -> Vec<Fault> {
        for keeper in &mut self.keepers {
            keeper.queue(attended);
        }
        self.take_turns()
    }

    /// Starts the keepers whose turn has come. The faults are those of starts that failed at once.
    pub(super) fn take_turns(&mut self) -> Vec<Fault> {
        let mut faults = Vec::new();
        while let Some(index) = self.next_turn() {
            let keeper = &mut self.keepers[index];
            if let Err(fault) = keeper.start(&self.events) {
                keeper.start_failed(fault.clone());
                faults.push(fault);
                let at = keeper.retry_at();
                self.later(at, Event::StartKeeper(index));
            }
        }
        faults
    }

    /// The one that has waited longest of those that may log in now.
    fn next_turn(&self) -> Option<usize> {
        let queued = self
            .keepers
            .iter()
            .enumerate()
            .filter_map(|(index, keeper)| {
                let queued = keeper.queued()?;
                (!self.draining && !self.is_token_busy(keeper)).then_some((queued, index))
            });
        queued.min().map(|(_, index)| index)
    }

    /// Whether another keeper of its token is logging in.
    pub(super) fn is_token_busy(&self, keeper: &Keeper) -> bool {
        let mut twins = keeper.twins().iter();
        twins.any(|twin| self.keepers[*twin].is_trying())
    }

    /// A PIN was refused to one keeper: no other one of the same token tries one by itself. The faults are
    /// those of the ones that waited for their turn.
    pub(super) fn hold_back_twins(&mut self, index: usize) -> Vec<Fault> {
        let (place, twins) = (
            self.keepers[index].place().to_owned(),
            self.keepers[index].twins().to_vec(),
        );
        let held = twins
            .into_iter()
            .filter_map(|twin| self.keepers[twin].hold_back(&place));
        held.collect()
    }

    /// A keeper has opened its token: if an operator wanted that, those that were held back with it follow.
    pub(super) fn release_twins(&mut self, index: usize) {
        let twins = self.keepers[index].twins().to_vec();
        let Some(source) = self.keepers[index].proven_source() else {
            return;
        };
        for twin in twins {
            self.keepers[twin].release(&source);
        }
    }

    /// Starts a keeper again that is gone.
    pub(super) fn restart_keeper(&mut self, index: usize) {
        let Some(keeper) = self.keepers.get_mut(index) else {
            return;
        };
        if self.draining || !keeper.waits() {
            return;
        }
        if keeper.is_spent() {
            keeper.lock();
            return self.tell_node();
        }
        keeper.queue(false);
        self.take_turns();
    }

    /// Starts the node for the first time, once a token is open and the others were tried or had their time.
    /// Without any there is nothing to start with, and an operator is watching.
    pub(super) fn first_start(&mut self) -> Result<(), SupervisorError> {
        if self.served || self.draining || self.node.pid().is_some() {
            return Ok(());
        }
        let undecided = self.keepers.iter().any(Keeper::is_undecided);
        if self.keepers.iter().any(Keeper::is_open) {
            if undecided && !self.grace.is_over(Instant::now()) {
                return Ok(());
            }
            return Ok(self.start_node()?);
        }
        if undecided {
            return Ok(());
        }
        let faults: Vec<_> = self.keepers.iter().map(Keeper::exit_faults).collect();
        let may_pass = |faults: &Vec<Fault>| faults.iter().all(|fault| fault.passing.is_some());
        let is_absent = faults.iter().any(may_pass);
        let faults = faults.concat();
        Err(match self.keepers.iter().any(Keeper::is_latched) {
            true => SupervisorError::Pin(faults),
            false if is_absent => SupervisorError::Tokens(faults),
            false => SupervisorError::Faults(faults),
        })
    }
}
