//! What is believed of what a keeper says: it has a vendor's code in it.

use super::{Keeper, State};
use crate::control::{FromKeeper, KeeperReady, Vitals};
use crate::fault::Fault;
use crate::plain;
use crate::supervisor::child::ChildEvent;

/// Longest text that is kept of it, in characters.
const LONGEST: usize = 1000;
/// Return codes that are counted apart.
pub(super) const MOST_CODES: usize = 64;

impl Keeper {
    /// The event with its texts made fit to be shown, unless it is to be ignored.
    pub(super) fn believed(
        &mut self,
        event: ChildEvent<FromKeeper>,
    ) -> Option<ChildEvent<FromKeeper>> {
        let said = match event {
            ChildEvent::Said(said) => said,
            exited => return Some(exited),
        };
        let in_turn = match (&said, &self.state) {
            // Bad news of one that is to end holds: it may be a refused PIN.
            (FromKeeper::Ready(_) | FromKeeper::Vitals(_), _) if self.ending.is_some() => {
                return None;
            }
            // Said once: what is attested stays so.
            (FromKeeper::Ready(_), state) => matches!(state, State::Starting { .. }),
            (FromKeeper::Vitals(_), state) => matches!(state, State::Ready { polled: Some(_) }),
            _ => true,
        };
        if !in_turn {
            self.replace("it spoke out of turn");
            return None;
        }
        Some(ChildEvent::Said(match said {
            FromKeeper::Refused { faults, retry } => FromKeeper::Refused {
                faults: faults.into_iter().map(shown_fault).collect(),
                retry,
            },
            FromKeeper::TokenLost {
                reason,
                latch,
                last,
            } => FromKeeper::TokenLost {
                reason: shown(&reason),
                latch,
                last: shown_vitals(*last),
            },
            FromKeeper::Vitals(vitals) => FromKeeper::Vitals(shown_vitals(*vitals)),
            said => said,
        }))
    }

    /// Whether it has opened the token and the keys that are configured; if not, it is replaced.
    pub(super) fn is_ours(&mut self, ready: &KeeperReady) -> bool {
        let KeeperReady {
            label,
            serial,
            manufacturer,
            model,
            keys,
            ..
        } = ready;
        let wanted = &self.config.keys;
        let same_keys = wanted.len() == keys.len()
            && wanted
                .iter()
                .zip(keys)
                .all(|(wanted, key)| wanted.spki == key.spki);
        let ours = self.config.uri.fits(label, serial, manufacturer, model) && same_keys;
        if !ours {
            self.note(vec![Fault::new(
                self.place(),
                "its keeper does not say what is configured: another token or other keys",
                "its process or module is not what it should be: see the log",
            )]);
            self.replace("it has opened something else");
        }
        ours
    }
}

fn shown_vitals(vitals: Vitals) -> Box<Vitals> {
    let evictions = vitals.evictions.into_iter().take(MOST_CODES);
    Box::new(Vitals {
        trouble: vitals.trouble.map(|trouble| shown(&trouble)),
        evictions: evictions
            .map(|(code, count)| (shown(&code), count))
            .collect(),
        ..vitals
    })
}

fn shown_fault(fault: Fault) -> Fault {
    Fault {
        file: fault.file.map(|file| shown(&file)),
        line: fault.line,
        key: shown(&fault.key),
        problem: shown(&fault.problem),
        mend: shown(&fault.mend),
        passing: fault.passing,
    }
}

fn shown(text: &str) -> String {
    plain::line(text).chars().take(LONGEST).collect()
}
