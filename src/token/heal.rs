//! What to do after a PKCS#11 call has failed: one table.
//!
//! Codes are not portable: after the same event one module says CKR_OBJECT_HANDLE_INVALID, another
//! CKR_GENERAL_ERROR. So the table is a ladder with few rungs, and a code only decides where on it
//! to begin. The session of a failed call is closed in every case (PKCS#11 3.0 §5.3: a failed
//! operation ends, but many modules leave it active for ever).

use cryptoki::error::RvError;

use super::{ReturnCode, TokenError};

/// The next rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Open a session, find the keys again, and try once more. A second failure is the caller's
    /// error, and the next call begins anew.
    NewSession,
    /// No session is to be had at the moment; those that exist go on.
    Wait,
    /// The login or the module's state is gone. The PIN was wiped after the login, so a new process
    /// takes it from its source again, loads the module, logs in and finds the keys.
    ReplaceKeeper,
    /// A further login could lock the PIN: nothing is tried again until an operator acts.
    Latch,
    /// Nothing was asked of the token: the request itself was wrong.
    Refuse,
}

/// The calls that a keeper makes once it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doing {
    /// C_SignInit and C_Sign in a session that worked before.
    Signing,
    /// C_OpenSession, C_FindObjects…, C_GetAttributeValue in a new session, or C_Sign right after.
    Reopening,
}

/// Every return code that has a row of its own (PKCS#11 3.0 §5.1), and what it means.
#[rustfmt::skip]
const TABLE: &[(RvError, Action, Action)] = &[
    // code                                while signing          while reopening
    (RvError::HostMemory,                  Action::NewSession,    Action::Wait),
    (RvError::DeviceMemory,                Action::NewSession,    Action::Wait),
    (RvError::SessionCount,                Action::NewSession,    Action::Wait),
    (RvError::GeneralError,                Action::NewSession,    Action::ReplaceKeeper),
    (RvError::FunctionFailed,              Action::NewSession,    Action::ReplaceKeeper),
    (RvError::FunctionCanceled,            Action::NewSession,    Action::Wait),
    (RvError::OperationActive,             Action::NewSession,    Action::Wait),
    (RvError::OperationNotInitialized,     Action::NewSession,    Action::Wait),
    (RvError::SessionClosed,               Action::NewSession,    Action::ReplaceKeeper),
    (RvError::SessionHandleInvalid,        Action::NewSession,    Action::ReplaceKeeper),
    (RvError::KeyHandleInvalid,            Action::NewSession,    Action::ReplaceKeeper),
    (RvError::ObjectHandleInvalid,         Action::NewSession,    Action::ReplaceKeeper),
    (RvError::DeviceError,                 Action::NewSession,    Action::ReplaceKeeper),
    (RvError::DeviceRemoved,               Action::NewSession,    Action::ReplaceKeeper),
    (RvError::TokenNotPresent,             Action::NewSession,    Action::ReplaceKeeper),
    (RvError::TokenNotRecognized,          Action::NewSession,    Action::ReplaceKeeper),
    (RvError::SlotIdInvalid,               Action::NewSession,    Action::ReplaceKeeper),
    (RvError::UserNotLoggedIn,             Action::ReplaceKeeper, Action::ReplaceKeeper),
    (RvError::CryptokiNotInitialized,      Action::ReplaceKeeper, Action::ReplaceKeeper),
    (RvError::PinIncorrect,                Action::Latch,         Action::Latch),
    (RvError::PinInvalid,                  Action::Latch,         Action::Latch),
    (RvError::PinLenRange,                 Action::Latch,         Action::Latch),
    (RvError::PinExpired,                  Action::Latch,         Action::Latch),
    (RvError::PinLocked,                   Action::Latch,         Action::Latch),
];

/// Any other code, a vendor's own for example.
const OTHER: (Action, Action) = (Action::NewSession, Action::ReplaceKeeper);

/// What to do after `error`.
pub fn after(error: &TokenError, doing: Doing) -> Action {
    let pick = |signing, reopening| match doing {
        Doing::Signing => signing,
        Doing::Reopening => reopening,
    };
    match error {
        TokenError::Call { code, .. } => {
            let row = TABLE.iter().find(|(known, ..)| *known == code.0);
            row.map_or(pick(OTHER.0, OTHER.1), |(_, signing, reopening)| {
                pick(*signing, *reopening)
            })
        }
        // A signature of the wrong length: once more, and then it is the caller's error.
        TokenError::Answer { .. } | TokenError::SessionDead => {
            pick(Action::NewSession, Action::Wait)
        }
        TokenError::WrongScheme { .. } => Action::Refuse,
        error if error.is_pin_verdict() => Action::Latch,
        // The key or the token is not where it was.
        _ => Action::ReplaceKeeper,
    }
}

/// The rows of the table: code, what follows while signing, what follows while reopening.
pub fn rows() -> impl Iterator<Item = (String, Action, Action)> {
    TABLE
        .iter()
        .map(|(code, signing, reopening)| (ReturnCode(*code).to_string(), *signing, *reopening))
}
