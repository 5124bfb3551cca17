//! Counters by name.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// How often things happened since the process started.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<BTreeMap<String, u64>>);

impl Counters {
    /// One more of `name`: lower case, words joined by `_`.
    pub(crate) fn count(&self, name: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                counts.insert(name.to_owned(), 1);
            }
        }
    }

    /// All of them now.
    pub(crate) fn snapshot(&self) -> HashMap<String, u64> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(name, count)| (name.clone(), *count)).collect()
    }
}
