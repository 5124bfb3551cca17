//! C_Login, C_InitToken and C_InitPIN with a PIN from any memory.

use std::fmt;
use std::io;
use std::path::Path;
use std::ptr;

use cryptoki_sys::{
    CK_C_InitPIN, CK_C_InitToken, CK_C_Login, CK_FUNCTION_LIST, CK_INTERFACE, CK_RV,
    CK_SESSION_HANDLE, CK_SLOT_ID, CK_ULONG, CKR_FUNCTION_NOT_SUPPORTED, CKR_OK, CKU_SO, CKU_USER,
};

/// Whose PIN it is (PKCS#11 v3.1 section 3.2, `CK_USER_TYPE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The token's user.
    User,
    /// The security officer.
    So,
}

/// The calls of one loaded module that take a PIN. Each returns the module's `CK_RV`; 0 is CKR_OK.
pub struct PinCalls {
    login: CK_C_Login,
    init_token: CK_C_InitToken,
    init_pin: CK_C_InitPIN,
    /// Keeps the functions there.
    _module: cryptoki_sys::Pkcs11,
}

impl fmt::Debug for PinCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PinCalls")
    }
}

impl PinCalls {
    /// The calls of the module at `path`, which must be loaded already (dlopen(3) then gives the
    /// same one), through the interface that cryptoki takes: modules may keep sessions apart by it.
    ///
    /// # Errors
    /// When it cannot be loaded or gives no functions.
    pub fn of(path: &Path) -> io::Result<Self> {
        // SAFETY: whoever loads a module trusts it with this whole process; that was done already.
        let module = unsafe { cryptoki_sys::Pkcs11::new(path) }.map_err(io::Error::other)?;
        let list = match default_interface(&module)? {
            Some(list) => list,
            None => function_list(&module)?,
        };
        Ok(Self {
            login: list.C_Login,
            init_token: list.C_InitToken,
            init_pin: list.C_InitPIN,
            _module: module,
        })
    }

    /// C_Login in `session`.
    pub fn log_in(&self, session: CK_SESSION_HANDLE, user: User, pin: &[u8]) -> CK_RV {
        let Some(login) = self.login else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        let user = match user {
            User::User => CKU_USER,
            User::So => CKU_SO,
        };
        // SAFETY: the function's type is PKCS#11's. The PIN has the stated length, and a module
        // does not write to it (the parameter lacks a `const`).
        unsafe { login(session, user, pin.as_ptr().cast_mut(), length(pin)) }
    }

    /// C_InitToken on `slot`; `label` is padded with blanks.
    pub fn init_token(&self, slot: CK_SLOT_ID, so_pin: &[u8], mut label: [u8; 32]) -> CK_RV {
        let Some(init_token) = self.init_token else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        // SAFETY: as in `log_in`; the label has 32 bytes, as PKCS#11 says.
        unsafe {
            init_token(
                slot,
                so_pin.as_ptr().cast_mut(),
                length(so_pin),
                label.as_mut_ptr(),
            )
        }
    }

    /// C_InitPIN in `session`, where the security officer is logged in.
    pub fn init_pin(&self, session: CK_SESSION_HANDLE, pin: &[u8]) -> CK_RV {
        let Some(init_pin) = self.init_pin else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        // SAFETY: as in `log_in`.
        unsafe { init_pin(session, pin.as_ptr().cast_mut(), length(pin)) }
    }
}

/// The functions of the default interface, if it is one of version 3 (PKCS#11 v3.1 section 5.4.6).
fn default_interface(module: &cryptoki_sys::Pkcs11) -> io::Result<Option<CK_FUNCTION_LIST>> {
    if module.C_GetInterface.is_err() {
        return Ok(None);
    }
    let mut interface: *mut CK_INTERFACE = ptr::null_mut();
    // SAFETY: it is there. No name and no version ask for the default one.
    let code =
        unsafe { module.C_GetInterface(ptr::null_mut(), ptr::null_mut(), &mut interface, 0) };
    succeeded(code)?;
    if interface.is_null() {
        return Ok(None);
    }
    // SAFETY: the module says that an interface is there, and keeps it.
    let list = unsafe { (*interface).pFunctionList }.cast::<CK_FUNCTION_LIST>();
    if list.is_null() {
        return Ok(None);
    }
    // SAFETY: a list of any version begins with the one of version 2, and the module keeps it.
    let list = unsafe { *list };
    Ok((list.version.major >= 3).then_some(list))
}

fn function_list(module: &cryptoki_sys::Pkcs11) -> io::Result<CK_FUNCTION_LIST> {
    let none = || io::Error::other("the module gives no functions");
    if module.C_GetFunctionList.is_err() {
        return Err(none());
    }
    let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
    // SAFETY: it is there, and gets a place for one pointer.
    let code = unsafe { module.C_GetFunctionList(&mut list) };
    succeeded(code)?;
    if list.is_null() {
        return Err(none());
    }
    // SAFETY: the module says that the list is there, and keeps it.
    Ok(unsafe { *list })
}

fn succeeded(code: CK_RV) -> io::Result<()> {
    match code {
        CKR_OK => Ok(()),
        code => Err(io::Error::other(format!(
            "the module gives no functions: CK_RV {code:#x}"
        ))),
    }
}

fn length(pin: &[u8]) -> CK_ULONG {
    CK_ULONG::try_from(pin.len()).expect("a slice's length fits in a long of this machine")
}
