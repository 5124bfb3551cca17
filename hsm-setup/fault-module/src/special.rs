//! The functions that need more than the gate: they start and end the module, open and close
//! sessions, log in, or describe the token.

use std::ffi::c_void;
use std::sync::atomic::Ordering::Acquire;

use cryptoki_sys::*;

use crate::functions::Function;
use crate::gate::Gate;

/// What the module calls itself, in front of the wrapped module's own words.
const NAME: &str = "TEST DOUBLE ";

pub(crate) unsafe fn initialize(
    gate: &Gate,
    real: unsafe extern "C" fn(*mut c_void) -> CK_RV,
    arguments: *mut c_void,
) -> CK_RV {
    // SAFETY: the caller's arguments, passed on.
    let code = unsafe { real(arguments) };
    if code == CKR_OK {
        gate.process
            .get_or_init(|| gate.state.register(std::process::id()));
        gate.start_afresh();
        gate.state.cured_by(Function::C_Initialize);
    }
    code
}

pub(crate) unsafe fn finalize(
    gate: &Gate,
    real: unsafe extern "C" fn(*mut c_void) -> CK_RV,
    reserved: *mut c_void,
) -> CK_RV {
    gate.note_overlap();
    // SAFETY: the caller's arguments, passed on.
    let code = unsafe { real(reserved) };
    if code == CKR_OK {
        gate.start_afresh();
    }
    code
}

pub(crate) unsafe fn open_session(
    gate: &Gate,
    real: OpenSession,
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    if !gate
        .sessions
        .reserve(slot, gate.state.max_sessions.load(Acquire).checked_sub(1))
    {
        return gate.inject(Function::C_OpenSession, CKR_SESSION_COUNT);
    }
    // SAFETY: the caller's arguments, passed on.
    let code = unsafe { real(slot, flags, application, notify, session) };
    // SAFETY: after CKR_OK the module has written the handle there.
    let opened = (code == CKR_OK).then(|| unsafe { *session });
    gate.sessions.settle(slot, opened);
    gate.publish_sessions();
    code
}

type OpenSession = unsafe extern "C" fn(
    CK_SLOT_ID,
    CK_FLAGS,
    *mut c_void,
    CK_NOTIFY,
    *mut CK_SESSION_HANDLE,
) -> CK_RV;

pub(crate) unsafe fn close_session(
    gate: &Gate,
    real: unsafe extern "C" fn(CK_SESSION_HANDLE) -> CK_RV,
    session: CK_SESSION_HANDLE,
) -> CK_RV {
    // SAFETY: the caller's arguments, passed on.
    let code = unsafe { real(session) };
    if code == CKR_OK {
        gate.sessions.forget(session);
        gate.publish_sessions();
    }
    code
}

pub(crate) unsafe fn close_all_sessions(
    gate: &Gate,
    real: unsafe extern "C" fn(CK_SLOT_ID) -> CK_RV,
    slot: CK_SLOT_ID,
) -> CK_RV {
    // SAFETY: the caller's arguments, passed on.
    let code = unsafe { real(slot) };
    if code == CKR_OK {
        gate.sessions.forget_slot(slot);
        gate.publish_sessions();
    }
    code
}

pub(crate) unsafe fn login(
    gate: &Gate,
    real: unsafe extern "C" fn(
        CK_SESSION_HANDLE,
        CK_USER_TYPE,
        *mut CK_UTF8CHAR,
        CK_ULONG,
    ) -> CK_RV,
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
) -> CK_RV {
    if locked(gate, user) {
        return gate.inject(Function::C_Login, CKR_PIN_LOCKED);
    }
    // SAFETY: the caller's arguments, passed on.
    let code = unsafe { real(session, user, pin, length) };
    if code == CKR_OK {
        gate.login_stands();
        gate.state.cured_by(Function::C_Login);
    }
    code
}

#[expect(clippy::too_many_arguments, reason = "C_LoginUser has so many")]
pub(crate) unsafe fn login_user(
    gate: &Gate,
    real: unsafe extern "C" fn(
        CK_SESSION_HANDLE,
        CK_USER_TYPE,
        *mut CK_UTF8CHAR,
        CK_ULONG,
        *mut CK_UTF8CHAR,
        CK_ULONG,
    ) -> CK_RV,
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
    name: *mut CK_UTF8CHAR,
    name_length: CK_ULONG,
) -> CK_RV {
    if locked(gate, user) {
        return gate.inject(Function::C_LoginUser, CKR_PIN_LOCKED);
    }
    // SAFETY: the caller's arguments, passed on.
    let code = unsafe { real(session, user, pin, length, name, name_length) };
    if code == CKR_OK {
        gate.login_stands();
    }
    code
}

/// A token that says its PIN is locked does not look at it either.
fn locked(gate: &Gate, user: CK_USER_TYPE) -> bool {
    user == CKU_USER && gate.state.pin_flags.load(Acquire) & CKF_USER_PIN_LOCKED != 0
}

pub(crate) unsafe fn info(
    _: &Gate,
    real: unsafe extern "C" fn(*mut CK_INFO) -> CK_RV,
    info: *mut CK_INFO,
) -> CK_RV {
    // SAFETY: the caller's arguments, passed on.
    let code = unsafe { real(info) };
    if code == CKR_OK {
        // SAFETY: the module has just filled it.
        let info = unsafe { &mut *info };
        mark(&mut info.manufacturerID);
        mark(&mut info.libraryDescription);
    }
    code
}

pub(crate) unsafe fn slot_info(
    _: &Gate,
    real: unsafe extern "C" fn(CK_SLOT_ID, *mut CK_SLOT_INFO) -> CK_RV,
    slot: CK_SLOT_ID,
    info: *mut CK_SLOT_INFO,
) -> CK_RV {
    // SAFETY: the caller's arguments, passed on.
    let code = unsafe { real(slot, info) };
    if code == CKR_OK {
        // SAFETY: the module has just filled it.
        let info = unsafe { &mut *info };
        mark(&mut info.slotDescription);
        mark(&mut info.manufacturerID);
    }
    code
}

/// Label, serial number and model stay: URIs still match.
pub(crate) unsafe fn token_info(
    gate: &Gate,
    real: unsafe extern "C" fn(CK_SLOT_ID, *mut CK_TOKEN_INFO) -> CK_RV,
    slot: CK_SLOT_ID,
    info: *mut CK_TOKEN_INFO,
) -> CK_RV {
    // SAFETY: the caller's arguments, passed on.
    let code = unsafe { real(slot, info) };
    if code == CKR_OK {
        // SAFETY: the module has just filled it.
        let info = unsafe { &mut *info };
        mark(&mut info.manufacturerID);
        info.flags |= gate.state.pin_flags.load(Acquire);
        if let Some(limit) = gate.state.max_sessions.load(Acquire).checked_sub(1) {
            info.ulMaxSessionCount = limit;
            info.ulMaxRwSessionCount = limit;
        }
    }
    code
}

/// Puts [`NAME`] in front of a blank-padded UTF-8 field, cut at a character where it gets too long.
fn mark(field: &mut [u8]) {
    let old = String::from_utf8_lossy(field);
    let mut text = format!("{NAME}{}", old.trim_end_matches(['\0', ' ']));
    while text.len() > field.len() {
        text.pop();
    }
    field.fill(b' ');
    field[..text.len()].copy_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_marked_field_keeps_its_length_and_whole_characters() {
        let mut field = *b"SoftHSM project                 ";
        super::mark(&mut field);
        assert_eq!(&field, b"TEST DOUBLE SoftHSM project     ");
        let mut field = *b"TEST DOUBL\xc3\xa9\xc3\xa9   ";
        super::mark(&mut field);
        assert!(std::str::from_utf8(&field).is_ok());
    }
}
