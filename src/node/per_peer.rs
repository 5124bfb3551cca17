//! Something for each peer that is connected, so that no peer shares it with another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::policy::PeerId;

/// One `T` for each peer, for as long as somebody holds it: with the peer's last connection it goes.
pub(super) struct PerPeer<T>(Mutex<HashMap<PeerId, Weak<T>>>);

impl<T> Default for PerPeer<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> PerPeer<T> {
    /// That of `peer`; made when there is none.
    pub(super) fn of(&self, peer: &PeerId, make: impl FnOnce() -> T) -> Arc<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = all.get(peer).and_then(Weak::upgrade) {
            return held;
        }
        // No more stay behind than there are.
        all.retain(|_, held| held.strong_count() > 0);
        let made = Arc::new(make());
        all.insert(peer.clone(), Arc::downgrade(&made));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_shares_with_itself_alone_and_nothing_is_left_of_who_is_gone() {
        let all = PerPeer::default();
        let [b, c] = ["b", "c"].map(|name| format!("spiffe://x/{name}").parse().unwrap());
        let (first, other) = (all.of(&b, || 1), all.of(&c, || 2));
        assert_eq!((*all.of(&b, || 3), *other), (1, 2));
        drop((first, other));
        let again = all.of(&b, || 4);
        assert_eq!((*again, all.0.lock().unwrap().len()), (4, 1));
    }
}
