//! A keeper among those of the same token: they log in one after the other, and what one of them is refused
//! holds for all.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use super::latch::Giver;
use super::{Keeper, State};
use crate::fault::Fault;
use crate::secret::PinSource;

impl Keeper {
    /// Makes known to each of `keepers` which others may be of the same token.
    pub(in crate::supervisor) fn introduce(keepers: &mut [Self]) {
        let modules: Vec<_> = keepers
            .iter()
            .map(|keeper| file(&keeper.config.module))
            .collect();
        for one in 0..keepers.len() {
            let share = |other: &usize| {
                let (a, b) = (&keepers[one].config, &keepers[*other].config);
                let same_module = modules[one] == modules[*other] || a.module == b.module;
                let same_serial = a.uri.serial().is_some() && a.uri.serial() == b.uri.serial();
                *other != one && (same_module || same_serial) && a.uri.may_be(&b.uri)
            };
            keepers[one].twins = (0..keepers.len()).filter(share).collect();
        }
    }

    /// Which others may be of the same token.
    pub(in crate::supervisor) fn twins(&self) -> &[usize] {
        &self.twins
    }

    /// Wants to be started, with the PIN of its source. `attended`: because of an operator.
    pub(in crate::supervisor) fn queue(&mut self, attended: bool) {
        self.attended = attended;
        self.state = State::Queued {
            since: Instant::now(),
        };
    }

    /// Since when it waits for its turn, if it does; those that were never tried come first.
    pub(in crate::supervisor) fn queued(&self) -> Option<(bool, Instant)> {
        match self.state {
            State::Queued { since } => Some((self.tried, since)),
            _ => None,
        }
    }

    /// Whether it may be logging in at this moment.
    pub(in crate::supervisor) fn is_trying(&self) -> bool {
        self.child.is_some() && !self.is_open()
    }

    /// The same, and neither does it wait for somebody to type the PIN nor has it said how it ended.
    pub(in crate::supervisor) fn is_logging_in(&self) -> bool {
        matches!(self.state, State::Starting { typing: false, .. }) && !self.is_ending()
    }

    /// Whether somebody is asked for its PIN on the terminal.
    pub(in crate::supervisor) fn is_asking(&self) -> bool {
        matches!(self.state, State::Starting { typing: true, .. })
    }

    /// Whether a process that does not serve is about to be gone.
    pub(in crate::supervisor) fn is_ending(&self) -> bool {
        self.is_trying() && self.ending.is_some()
    }

    /// Where it stands in the configuration.
    pub(in crate::supervisor) fn place(&self) -> &str {
        &self.config.place
    }

    /// A PIN of its token was refused to the keeper at `place`: this one does not try one by itself. The fault
    /// of one that waited to.
    pub(in crate::supervisor) fn hold_back(&mut self, place: &str) -> Option<Fault> {
        let fault = Fault::new(
            format!("{}.pin", self.place()),
            format!("not tried: a PIN of the same token was refused, see {place}"),
            "mend that first; `serial` in `uri` tells tokens apart that are not the same",
        );
        match self.state {
            State::Waiting | State::Queued { .. } => {
                self.tried = true;
                self.latch(Giver::Source);
                self.note(vec![fault.clone()]);
                return Some(fault);
            }
            State::Starting { .. } | State::Ready { .. } => self.held_back = Some(fault),
            State::Latched => self.latch(Giver::Source),
            State::Locked => {}
        }
        None
    }

    /// The source whose PIN was right just now, when an operator wanted it tried.
    pub(in crate::supervisor) fn proven_source(&self) -> Option<PinSource> {
        let proven = self.is_open() && self.attended && self.giver == Giver::Source;
        proven.then(|| self.config.pin.clone())
    }

    /// The PIN that `source` gives was right for another keeper of its token.
    pub(in crate::supervisor) fn release(&mut self, source: &PinSource) {
        if self.config.pin != *source {
            return;
        }
        (self.held_back, self.refused) = (None, None);
        if self.is_latched() && self.child.is_none() && !self.spent {
            self.queue(true);
        }
    }
}

/// Device and number of a file: a module may have several names.
fn file(module: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(module).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
