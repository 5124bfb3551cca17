//! What calls of one connection hold together, and may.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that are held, and the most that may be.
#[derive(Debug)]
pub(super) struct Budget {
    held: AtomicUsize,
    most: usize,
}

impl Budget {
    pub(super) fn new(most: usize) -> Self {
        let held = AtomicUsize::new(0);
        Self { held, most }
    }

    /// Somebody held `before` bytes and holds `after`. Whether that is no more than may be: it is held either way.
    #[must_use]
    pub(super) fn change(&self, before: usize, after: usize) -> bool {
        self.held.fetch_add(after, Ordering::Relaxed);
        let held = self.held.fetch_sub(before, Ordering::Relaxed) - before;
        after <= before || held <= self.most
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}
