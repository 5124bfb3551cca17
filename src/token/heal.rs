//! What to do after a PKCS#11 call has failed: one table.
//!
//! Codes are not portable: after the same event one module says CKR_OBJECT_HANDLE_INVALID, another
//! CKR_GENERAL_ERROR. So the table is a ladder with few rungs, and a code only decides where on it
//! to begin. The session of a failed call is closed in every case (PKCS#11 3.0 §5.3: a failed
//! operation ends, but many modules leave it active for ever). One call is beyond our sight: cryptoki
//! keeps to itself what C_FindObjectsFinal answered. A search that did not end shows as
//! CKR_OPERATION_ACTIVE of the next one in that session.

use cryptoki::error::RvError;

use super::{LoginRefusal, ModuleFault, ReturnCode, TokenError};

/// The next rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Open a session, find the keys again, and try once more. A second failure is the caller's
    /// error, and the next call begins anew.
    NewSession,
    /// No session is to be had at the moment; those that exist go on. When nothing was signed for
    /// [`PATIENCE`], the keeper is replaced after all.
    Wait,
    /// C_Finalize and C_Initialize in this process, while it has no session, a few times at most; then
    /// as `ReplaceKeeper`. After C_Login only with SoftHSM, which never locks a PIN: it rewrites
    /// `token.object` at each login, so of several programs that start at once one may read half of it.
    Restart,
    /// The login or the module's state is gone. The PIN was wiped after the login, so a new process
    /// takes it from its source again, loads the module, logs in and finds the keys. While a keeper
    /// starts: this process ends, and the next one is tried after a pause.
    ReplaceKeeper,
    /// A further login could lock the PIN: nothing is tried again until an operator acts.
    Latch,
    /// Nothing was asked of the token: the request itself was wrong.
    Refuse,
}

/// How long nothing but [`Action::Wait`] may follow one another.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// What a keeper was doing when a call failed: the table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doing {
    /// C_Initialize, C_GetSlotList, C_GetTokenInfo, C_OpenSession; once there is a session, the checks of
    /// keys: C_FindObjects…, C_GetAttributeValue, C_GetMechanismList, C_GenerateKey, C_WrapKey,
    /// C_DestroyObject, C_SignInit, C_Sign.
    Starting,
    /// C_Login, with a PIN that cannot be locked, or that the token took before. Whatever it answers: when the
    /// token then says CKF_USER_PIN_COUNT_LOW, that was a wrong PIN.
    LoggingIn,
    /// C_Login, with a PIN that may be locked and that the token has not taken yet: some modules have no other
    /// words for a wrong one. As the PIN's source may have another one by now, a token that took one is here
    /// too after the first such answer, until it takes one again.
    FirstLogin,
    /// C_SignInit and C_Sign, for a handshake or a probe, in a session that worked before.
    Signing,
    /// The same in the session that holds the login, where the token has no other: closing it ends the
    /// login, so what is a new session elsewhere is a new keeper here.
    SigningInTheLogin,
    /// C_OpenSession, C_FindObjects…, C_GetAttributeValue in a new session, or C_Sign right after.
    Reopening,
}

/// A row: the code, and what follows in each column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    code: RvError,
    starting: Action,
    logging_in: Action,
    first_login: Action,
    signing: Action,
    reopening: Action,
}

const fn row(
    code: RvError,
    starting: Action,
    logging_in: Action,
    first_login: Action,
    signing: Action,
    reopening: Action,
) -> Row {
    Row {
        code,
        starting,
        logging_in,
        first_login,
        signing,
        reopening,
    }
}

use Action::{Latch, NewSession, ReplaceKeeper, Restart, Wait};

/// Every return code that has a row of its own (PKCS#11 3.0 §5.1), and what it means.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    //  code                               starting       C_Login        the first one  signing        reopening
    row(RvError::HostMemory,               Restart,       ReplaceKeeper, ReplaceKeeper, NewSession,    Wait),
    row(RvError::DeviceMemory,             Restart,       ReplaceKeeper, ReplaceKeeper, NewSession,    Wait),
    row(RvError::SessionCount,             Restart,       ReplaceKeeper, ReplaceKeeper, NewSession,    Wait),
    row(RvError::GeneralError,             Restart,       Restart,       Latch,         NewSession,    ReplaceKeeper),
    row(RvError::FunctionFailed,           Restart,       ReplaceKeeper, Latch,         NewSession,    ReplaceKeeper),
    row(RvError::FunctionCanceled,         Restart,       ReplaceKeeper, ReplaceKeeper, NewSession,    Wait),
    row(RvError::OperationActive,          Restart,       ReplaceKeeper, ReplaceKeeper, NewSession,    Wait),
    row(RvError::OperationNotInitialized,  Restart,       ReplaceKeeper, ReplaceKeeper, NewSession,    Wait),
    row(RvError::SessionClosed,            Restart,       ReplaceKeeper, ReplaceKeeper, NewSession,    ReplaceKeeper),
    row(RvError::SessionHandleInvalid,     Restart,       ReplaceKeeper, ReplaceKeeper, NewSession,    ReplaceKeeper),
    row(RvError::KeyHandleInvalid,         Restart,       ReplaceKeeper, ReplaceKeeper, NewSession,    ReplaceKeeper),
    row(RvError::ObjectHandleInvalid,      Restart,       ReplaceKeeper, ReplaceKeeper, NewSession,    ReplaceKeeper),
    row(RvError::DeviceError,              Restart,       ReplaceKeeper, Latch,         NewSession,    ReplaceKeeper),
    row(RvError::DeviceRemoved,            Restart,       ReplaceKeeper, ReplaceKeeper, NewSession,    ReplaceKeeper),
    row(RvError::TokenNotPresent,          Restart,       ReplaceKeeper, ReplaceKeeper, NewSession,    ReplaceKeeper),
    row(RvError::TokenNotRecognized,       Restart,       ReplaceKeeper, ReplaceKeeper, NewSession,    ReplaceKeeper),
    row(RvError::SlotIdInvalid,            Restart,       ReplaceKeeper, ReplaceKeeper, NewSession,    ReplaceKeeper),
    row(RvError::UserNotLoggedIn,          Restart,       ReplaceKeeper, ReplaceKeeper, ReplaceKeeper, ReplaceKeeper),
    row(RvError::CryptokiNotInitialized,   Restart,       ReplaceKeeper, ReplaceKeeper, ReplaceKeeper, ReplaceKeeper),
    row(RvError::UserPinNotInitialized,    Restart,       Restart,       Restart,       NewSession,    ReplaceKeeper),
    row(RvError::PinIncorrect,             Latch,         Latch,         Latch,         Latch,         Latch),
    row(RvError::PinInvalid,               Latch,         Latch,         Latch,         Latch,         Latch),
    row(RvError::PinLenRange,              Latch,         Latch,         Latch,         Latch,         Latch),
    row(RvError::PinExpired,               Latch,         Latch,         Latch,         Latch,         Latch),
    row(RvError::PinLocked,                Latch,         Latch,         Latch,         Latch,         Latch),
    OTHER,
];

/// Any code without a row, a vendor's own for example: the last row of the table, and its own example.
#[rustfmt::skip]
const OTHER: Row =
    row(RvError::VendorDefined(0x8000_0001), Restart,     ReplaceKeeper, Latch,         NewSession,    ReplaceKeeper);

impl Row {
    /// The code's name, as `fault-ctl` takes it.
    pub fn code(&self) -> String {
        match self.code {
            RvError::VendorDefined(code) => format!("{code:#x}"),
            code => ReturnCode(code).to_string(),
        }
    }

    /// What follows while `doing`.
    pub fn action(&self, doing: Doing) -> Action {
        match (doing, self.signing) {
            (Doing::Starting, _) => self.starting,
            (Doing::LoggingIn, _) => self.logging_in,
            (Doing::FirstLogin, _) => self.first_login,
            (Doing::SigningInTheLogin, NewSession | Wait) => ReplaceKeeper,
            (Doing::Signing | Doing::SigningInTheLogin, action) => action,
            (Doing::Reopening, _) => self.reopening,
        }
    }
}

/// What to do after `error`.
pub fn after(error: &TokenError, doing: Doing) -> Action {
    match error {
        TokenError::Call { code, .. }
        | TokenError::Module {
            fault: ModuleFault::Initialise(code),
            ..
        } => TABLE
            .iter()
            .find(|row| row.code == code.0)
            .unwrap_or(&OTHER)
            .action(doing),
        // A signature of the wrong length, or one that does not verify: once more, and then it is the
        // caller's error.
        TokenError::Answer { .. } | TokenError::SessionDead => match doing {
            Doing::Signing => NewSession,
            Doing::Reopening => Wait,
            Doing::Starting | Doing::LoggingIn | Doing::FirstLogin | Doing::SigningInTheLogin => {
                ReplaceKeeper
            }
        },
        TokenError::WrongScheme { .. } => Action::Refuse,
        error if error.is_pin_verdict() => Latch,
        // What SoftHSM's half-written file looks like.
        TokenError::TokenMissing { .. }
        | TokenError::Login {
            refusal: LoginRefusal::NoPinSet | LoginRefusal::NotInitialised,
            ..
        } if matches!(
            doing,
            Doing::Starting | Doing::LoggingIn | Doing::FirstLogin
        ) =>
        {
            Restart
        }
        // The key or the token is not where it was.
        _ => ReplaceKeeper,
    }
}

/// Whether a start that `error` stops may be tried again, though nobody has changed a file of ours: the token is
/// not there, or it or its module does not do what it should. Not after what C_Login has answered, in whatever
/// words: that may have been a wrong PIN.
pub fn may_pass(error: &TokenError) -> bool {
    match error {
        TokenError::Module { fault, .. } => matches!(
            fault,
            ModuleFault::Initialise(_) | ModuleFault::NoPinCalls(_) | ModuleFault::Other(_)
        ),
        TokenError::Call { .. } => !is_of_login(error),
        TokenError::TokenMissing { .. } | TokenError::Answer { .. } | TokenError::SessionDead => {
            true
        }
        _ => false,
    }
}

/// Whether `error` is what C_Login has answered, in words that are not about the PIN.
pub fn is_of_login(error: &TokenError) -> bool {
    matches!(error, TokenError::Call { function, .. } if function == "C_Login")
}

/// Whether `error` is a code with a row of its own: it then says something of the session or the token, whatever
/// was asked for.
pub fn has_row(error: &TokenError) -> bool {
    matches!(error, TokenError::Call { code, .. } if TABLE.iter().any(|row| row.code == code.0))
}

/// The rows of the table; the last one stands for all other codes.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    TABLE.iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(code: RvError) -> TokenError {
        TokenError::Call {
            code: ReturnCode(code),
            function: "C_Sign".into(),
            doing: "signing",
        }
    }

    #[test]
    fn a_start_is_not_tried_again_after_any_answer_of_c_login() {
        let TokenError::Call { code, doing, .. } = call(RvError::DeviceError) else {
            panic!("it is a call");
        };
        let login = TokenError::Call {
            code,
            function: "C_Login".into(),
            doing,
        };
        assert!(!may_pass(&login));
        assert!(may_pass(&call(RvError::DeviceError)));
        let refused = TokenError::Login {
            token: "a".into(),
            refusal: LoginRefusal::WrongPin,
        };
        assert!(!may_pass(&refused));
    }

    #[test]
    fn a_first_login_is_not_tried_again_after_words_that_may_mean_a_wrong_pin() {
        for (code, latches) in [
            (RvError::GeneralError, true),
            (RvError::FunctionFailed, true),
            (RvError::DeviceError, true),
            (RvError::VendorDefined(0x8765_4321), true),
            (RvError::TokenNotPresent, false),
            (RvError::SessionHandleInvalid, false),
        ] {
            let error = call(code);
            let first = after(&error, Doing::FirstLogin);
            assert_eq!(first == Latch, latches, "{error}");
            assert_ne!(after(&error, Doing::LoggingIn), Latch, "{error}");
        }
    }

    #[test]
    fn a_code_without_a_row_is_the_last_row() {
        for doing in [
            Doing::Starting,
            Doing::LoggingIn,
            Doing::FirstLogin,
            Doing::Signing,
            Doing::SigningInTheLogin,
            Doing::Reopening,
        ] {
            let unknown = call(RvError::VendorDefined(0x8765_4321));
            assert_eq!(after(&unknown, doing), OTHER.action(doing), "{doing:?}");
            assert_eq!(after(&call(RvError::PinLocked), doing), Latch, "{doing:?}");
        }
    }

    #[test]
    fn the_session_that_holds_the_login_is_never_replaced_alone() {
        for row in rows() {
            let action = row.action(Doing::SigningInTheLogin);
            assert!(matches!(action, ReplaceKeeper | Latch), "{row:?}");
        }
    }
}
