//! The way of every call: count it, rehearse what the rules say, call the wrapped module.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{OnceLock, PoisonError, RwLock};

use cryptoki_sys::{CK_FUNCTION_LIST_3_2, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CKR_OK};

use crate::clock;
use crate::functions::{Class, Function};
use crate::lane::Booking;
use crate::sessions::{Pulse, Sessions};
use crate::state::{Cell, Process, State, armed, session_rule};

/// What the gate has to know of a call.
pub(crate) struct Call {
    pub(crate) function: Function,
    pub(crate) session: Option<CK_SESSION_HANDLE>,
    /// It only asks for the size of the output.
    pub(crate) query: bool,
    /// Where the signature and its length are written to.
    pub(crate) signature: Option<(*mut u8, *mut CK_ULONG)>,
}

/// The gate of this process.
pub(crate) struct Gate {
    /// The wrapped module; what it does not have is `None`.
    pub(crate) real: CK_FUNCTION_LIST_3_2,
    pub(crate) state: &'static State,
    pub(crate) sessions: Sessions,
    pub(crate) process: OnceLock<&'static Process>,
    /// Held for reading inside the wrapped module, for writing when sessions are taken away: modules
    /// crash when that happens to a session in use.
    quiet: RwLock<()>,
    /// Calls under way that a rule may hold up, but for C_Finalize.
    held_up: AtomicU32,
    seen_logout: AtomicU32,
    /// What the use of keys answers until the next login; 0: nothing special.
    logged_out: AtomicU64,
}

impl Gate {
    pub(crate) fn new(real: CK_FUNCTION_LIST_3_2, state: &'static State) -> Self {
        Self {
            real,
            state,
            sessions: Sessions::new(),
            process: OnceLock::new(),
            quiet: RwLock::new(()),
            held_up: AtomicU32::new(0),
            seen_logout: AtomicU32::new(0),
            logged_out: AtomicU64::new(0),
        }
    }

    /// Passes `call` through the rules; `real` calls the wrapped module.
    #[inline]
    pub(crate) fn pass(&self, call: &Call, real: impl FnOnce() -> CK_RV) -> CK_RV {
        let cell = self.state.cell(call.function);
        cell.calls.fetch_add(1, Relaxed);
        if call.query {
            cell.size_queries.fetch_add(1, Relaxed);
        }
        let rules = cell.armed.load(Acquire) | self.state.session_rules.load(Acquire);
        if rules == 0 && self.logged_out.load(Relaxed) == 0 {
            return self.enter(call, cell, real);
        }
        let other = u32::from(call.function != Function::C_Finalize);
        self.held_up.fetch_add(other, AcqRel);
        let code = self.rehearse(call, cell, real);
        self.held_up.fetch_sub(other, AcqRel);
        code
    }

    /// C_Finalize begins: counts it when another call is under way, which no module has to survive.
    pub(crate) fn note_overlap(&self) {
        if self.held_up.load(Acquire) > 0 {
            let cell = self.state.cell(Function::C_Finalize);
            cell.overlapped.fetch_add(1, Relaxed);
        }
    }

    fn enter(&self, call: &Call, cell: &Cell, real: impl FnOnce() -> CK_RV) -> CK_RV {
        // C_WaitForSlotEvent may block for ever and would keep a logout from happening.
        let inside = (call.function != Function::C_WaitForSlotEvent)
            .then(|| self.quiet.read().unwrap_or_else(PoisonError::into_inner));
        let code = real();
        drop(inside);
        if code != CKR_OK {
            cell.errors.fetch_add(1, Relaxed);
        }
        code
    }

    #[cold]
    fn rehearse(&self, call: &Call, cell: &Cell, real: impl FnOnce() -> CK_RV) -> CK_RV {
        let rules = if call.query {
            0
        } else {
            cell.armed.load(Acquire)
        };
        if rules & armed::ABORT != 0 && cell.abort.pull().is_some() {
            std::process::abort();
        }
        if rules & armed::HANG != 0 {
            let epoch = cell.hang_epoch.load(Acquire);
            if cell.hang.pull().is_some() {
                cell.hung.fetch_add(1, Relaxed);
                clock::wait_until(u64::MAX, &cell.hang_epoch, epoch);
            }
        }
        let booking = (rules & armed::DELAY != 0).then(|| Booking::take(cell));
        if let Some(booking) = &booking {
            cell.delayed.fetch_add(1, Relaxed);
            booking.begin();
        }
        let code = self.answer(call, cell, rules, real);
        if let Some(booking) = booking {
            booking.end();
        }
        code
    }

    /// The answer itself, once it is time for it.
    fn answer(&self, call: &Call, cell: &Cell, rules: u32, real: impl FnOnce() -> CK_RV) -> CK_RV {
        if let Err(code) = self.session_rules(call) {
            return self.inject(call.function, CK_RV::from(code));
        }
        if rules & armed::FAIL != 0
            && let Some(code) = cell.fail.pull()
        {
            return self.inject(call.function, CK_RV::from(code));
        }
        let code = self.enter(call, cell, real);
        if let Some(session) = call.session
            && self.state.session_rules.load(Acquire) & session_rule::IDLE_DEATH != 0
        {
            // A long call is no idleness.
            self.sessions.touch(session);
        }
        if code == CKR_OK
            && rules & armed::CORRUPT != 0
            && let Some((signature, length)) = call.signature
            && cell.corrupt.pull().is_some()
        {
            cell.corrupted.fetch_add(1, Relaxed);
            // SAFETY: the wrapped module has just written so many bytes to this place and said so.
            unsafe { corrupt(signature, length) };
        }
        if code != CKR_OK
            && rules & armed::REWORD != 0
            && let Some(other) = cell.reword.pull()
        {
            return CK_RV::from(other);
        }
        code
    }

    /// Counts an error of our own.
    pub(crate) fn inject(&self, function: Function, code: CK_RV) -> CK_RV {
        self.state.cell(function).injected.fetch_add(1, Relaxed);
        code
    }

    fn session_rules(&self, call: &Call) -> Result<(), u32> {
        let Some(session) = call.session else {
            return Ok(());
        };
        let state = self.state;
        let rules = state.session_rules.load(Acquire);
        if rules & session_rule::LOGOUT != 0
            && state.logout_generation.load(Acquire) != self.seen_logout.load(Acquire)
        {
            self.lose_login();
        }
        if rules & session_rule::IDLE_DEATH != 0 {
            let idle = state.idle_ns.load(Acquire);
            let since = state.idle_since.load(Acquire);
            match self
                .sessions
                .pulse(session, idle, since, state.idle_code.load(Acquire))
            {
                Pulse::Alive => {}
                Pulse::Dead(code) => return Err(self.bury(call, session, code)),
                Pulse::Dying(code) => {
                    self.close_quietly(session);
                    self.publish_sessions();
                    return Err(self.bury(call, session, code));
                }
            }
        }
        let code = u32::try_from(self.logged_out.load(Acquire)).unwrap_or(0);
        if code != 0 && call.function.class() == Class::Key {
            return Err(code);
        }
        Ok(())
    }

    /// A dead session that is closed is not known any more; closing it is an error too.
    fn bury(&self, call: &Call, session: CK_SESSION_HANDLE, code: u32) -> u32 {
        if call.function == Function::C_CloseSession {
            self.sessions.forget(session);
        }
        code
    }

    /// The token was logged out elsewhere: the wrapped module is really logged out, so that handles
    /// of private objects are as dead as its own logout makes them.
    fn lose_login(&self) {
        let _alone = self.quiet.write().unwrap_or_else(PoisonError::into_inner);
        let generation = self.state.logout_generation.load(Acquire);
        if self.seen_logout.swap(generation, AcqRel) == generation {
            return;
        }
        let close = self.state.logout_closes.load(Acquire) != 0;
        for (slot, session) in self.sessions.one_a_slot() {
            if let Some(logout) = self.real.C_Logout {
                // SAFETY: a function of the initialised module; a wrong handle is an error code. No
                // other call is inside the module.
                unsafe { logout(session) };
            }
            if close && let Some(close_all) = self.real.C_CloseAllSessions {
                // SAFETY: as above.
                unsafe { close_all(slot) };
                self.sessions.forget_slot(slot);
            }
        }
        self.publish_sessions();
        self.logged_out
            .store(u64::from(self.state.logout_code.load(Acquire)), Release);
    }

    fn close_quietly(&self, session: CK_SESSION_HANDLE) {
        let _alone = self.quiet.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(close) = self.real.C_CloseSession {
            // SAFETY: a function of the initialised module; a wrong handle is an error code. No other
            // call is inside the module.
            unsafe { close(session) };
        }
    }

    /// After C_Initialize, C_Finalize and a successful login: nothing is left of a logout.
    pub(crate) fn login_stands(&self) {
        self.logged_out.store(0, Release);
    }

    /// The state of a process that has just initialised the module, or finalised it.
    pub(crate) fn start_afresh(&self) {
        self.sessions.forget_all();
        self.seen_logout
            .store(self.state.logout_generation.load(Acquire), Release);
        self.login_stands();
        self.publish_sessions();
    }

    pub(crate) fn publish_sessions(&self) {
        if let Some(process) = self.process.get() {
            process.sessions.store(self.sessions.count(), Release);
        }
    }
}

/// Flips one bit in the middle.
///
/// # Safety
/// `length` points to the length of the bytes at `signature`.
unsafe fn corrupt(signature: *mut u8, length: *mut CK_ULONG) {
    if signature.is_null() || length.is_null() {
        return;
    }
    // SAFETY: as the caller says.
    let length = usize::try_from(unsafe { *length }).unwrap_or(0);
    if length > 0 {
        // SAFETY: within the length, as the caller says.
        let byte = unsafe { signature.add(length / 2) };
        // SAFETY: as above; nobody else has this buffer during the call.
        unsafe { *byte ^= 1 };
    }
}
