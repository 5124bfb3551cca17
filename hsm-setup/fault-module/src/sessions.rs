//! The sessions this process has open: counted, and watched for idleness. Process-local, because
//! sessions belong to one application (PKCS#11 v3.1 §2.4).

use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki_sys::{CK_SESSION_HANDLE, CK_SLOT_ID};

use crate::clock;

/// See the module.
pub(crate) struct Sessions(Mutex<Vec<Session>>);

struct Session {
    handle: CK_SESSION_HANDLE,
    slot: CK_SLOT_ID,
    last_used: u64,
    /// It died of idleness with this code.
    dead: Option<u32>,
}

/// A place under the limit, until the session is open or was refused.
pub(crate) const RESERVED: CK_SESSION_HANDLE = CK_SESSION_HANDLE::MAX;

impl Sessions {
    pub(crate) fn new() -> Self {
        // Enough for any HSM: opening a session allocates nothing.
        Self(Mutex::new(Vec::with_capacity(1024)))
    }

    fn all(&self) -> MutexGuard<'_, Vec<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a session on `slot`, if fewer than `limit` are taken.
    pub(crate) fn reserve(&self, slot: CK_SLOT_ID, limit: Option<u64>) -> bool {
        let mut all = self.all();
        let open = all
            .iter()
            .filter(|session| session.slot == slot && session.dead.is_none())
            .count();
        if limit.is_some_and(|limit| open as u64 >= limit) {
            return false;
        }
        all.push(Session {
            handle: RESERVED,
            slot,
            last_used: 0,
            dead: None,
        });
        true
    }

    /// The session of a place taken before is open (`Some`), or was refused.
    pub(crate) fn settle(&self, slot: CK_SLOT_ID, opened: Option<CK_SESSION_HANDLE>) {
        let mut all = self.all();
        if let Some(handle) = opened {
            // A module may use the handle of a dead session again.
            all.retain(|session| session.handle != handle);
        }
        let place = all
            .iter()
            .position(|session| session.handle == RESERVED && session.slot == slot);
        match (place, opened) {
            (Some(place), Some(handle)) => {
                all[place].handle = handle;
                all[place].last_used = clock::now();
            }
            (Some(place), None) => drop(all.swap_remove(place)),
            // C_Finalize came in between.
            (None, _) => {}
        }
    }

    pub(crate) fn forget(&self, handle: CK_SESSION_HANDLE) {
        self.all().retain(|session| session.handle != handle);
    }

    pub(crate) fn forget_slot(&self, slot: CK_SLOT_ID) {
        self.all().retain(|session| session.slot != slot);
    }

    pub(crate) fn forget_all(&self) {
        self.all().clear();
    }

    /// How many are open.
    pub(crate) fn count(&self) -> u32 {
        let open = self
            .all()
            .iter()
            .filter(|session| session.dead.is_none())
            .count();
        u32::try_from(open).unwrap_or(u32::MAX)
    }

    /// One open session of each slot.
    pub(crate) fn one_a_slot(&self) -> Vec<(CK_SLOT_ID, CK_SESSION_HANDLE)> {
        let mut found: Vec<(CK_SLOT_ID, CK_SESSION_HANDLE)> = Vec::new();
        for session in self.all().iter().filter(|session| session.dead.is_none()) {
            if session.handle != RESERVED && found.iter().all(|(slot, _)| *slot != session.slot) {
                found.push((session.slot, session.handle));
            }
        }
        found
    }

    /// Notes that `handle` is used now.
    pub(crate) fn touch(&self, handle: CK_SESSION_HANDLE) {
        if let Some(session) = self
            .all()
            .iter_mut()
            .find(|session| session.handle == handle)
        {
            session.last_used = clock::now();
        }
    }

    /// Whether `handle` is dead, or dies now because it was idle for `idle` ns (counted from `since`
    /// at the earliest).
    pub(crate) fn pulse(
        &self,
        handle: CK_SESSION_HANDLE,
        idle: u64,
        since: u64,
        code: u32,
    ) -> Pulse {
        let mut all = self.all();
        let Some(session) = all.iter_mut().find(|session| session.handle == handle) else {
            return Pulse::Alive;
        };
        if let Some(code) = session.dead {
            return Pulse::Dead(code);
        }
        let now = clock::now();
        if now.saturating_sub(session.last_used.max(since)) < idle {
            session.last_used = now;
            return Pulse::Alive;
        }
        session.dead = Some(code);
        Pulse::Dying(code)
    }
}

/// How a session is.
pub(crate) enum Pulse {
    Alive,
    /// It was dead before.
    Dead(u32),
    /// It dies with this call; the wrapped module's session is still open.
    Dying(u32),
}
