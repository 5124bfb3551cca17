//! What goes wrong with a token, by blame: the operator's names, the PIN, the key, the token.
//!
//! Each text is whole, its cause included, since these cross from a keeper to the log and to
//! `check` as one line; so causes are fields, not sources that a chain would print again.

use std::fmt;
use std::io;
use std::path::PathBuf;

use cryptoki::error::{Error, RvError};

use super::uri::{KeyUri, TokenUri, UriError};
use super::{KeyKind, Scheme};
use crate::fault::Fault;
use crate::ownership::Exposed;

/// Why something that was asked of a token did not happen.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The module cannot be used.
    #[error("PKCS#11 module {path}: {fault}", path = path.display())]
    Module {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        fault: ModuleFault,
    },
    /// The name says too little, or contradicts itself.
    #[error("the name {0} cannot be used: {1}")]
    Name(String, UriError),
    /// No token has this name.
    #[error("no token {wanted}; {}", there_are(.present, "tokens there"))]
    TokenMissing {
        /// What was asked for.
        wanted: Box<TokenUri>,
        /// URIs of the tokens that are there.
        present: Vec<String>,
    },
    /// Several tokens have this name.
    #[error("{} tokens are {wanted}; add the serial number. {}", .matching.len(), there_are(.matching, "they are"))]
    TokenDoubled {
        /// What was asked for.
        wanted: Box<TokenUri>,
        /// URIs of the tokens that match.
        matching: Vec<String>,
    },
    /// A token of this name exists already, or there is no room for a new one.
    #[error("{0}")]
    CannotInitialise(String),
    /// The token did not let us in, or must not be asked to.
    #[error("token {token}: {refusal}")]
    Login {
        /// The token's label.
        token: String,
        /// Why.
        refusal: LoginRefusal,
    },
    /// No private key has this name.
    #[error("no private key {wanted}; {}", there_are(.present, "private keys there"))]
    KeyMissing {
        /// What was asked for.
        wanted: Box<KeyUri>,
        /// Labels and ids of the private keys that are there.
        present: Vec<String>,
    },
    /// Several private keys have this name.
    #[error("{} private keys are {wanted}; name one by its id. {}", .matching.len(), there_are(.matching, "they are"))]
    KeyDoubled {
        /// What was asked for.
        wanted: Box<KeyUri>,
        /// Labels and ids of the keys that match.
        matching: Vec<String>,
    },
    /// The key is there, but is not one that Fastness works with.
    #[error("key {key}: {problem}")]
    KeyUnusable {
        /// The key.
        key: String,
        /// Why.
        problem: String,
    },
    /// The key does not pass the gate.
    #[error("key {key} is refused: {}", .faults.iter().map(|fault| fault.problem.as_str()).collect::<Vec<_>>().join("; "))]
    KeyRefused {
        /// The key.
        key: String,
        /// Every fault of it.
        faults: Vec<Fault>,
    },
    /// The token cannot make or use such a key.
    #[error("the token cannot do {kind}: {problem}")]
    Unsupported {
        /// The kind of key.
        kind: KeyKind,
        /// What is missing.
        problem: String,
    },
    /// The key does not sign with this scheme. Nothing was asked of the token.
    #[error("a key of kind {kind} does not sign with {scheme:?}")]
    WrongScheme {
        /// The key's kind.
        kind: KeyKind,
        /// The scheme that was asked for.
        scheme: Scheme,
    },
    /// A PKCS#11 call failed. The session that made it is dead.
    #[error("{code} from {function} ({doing})")]
    Call {
        /// The return code.
        code: ReturnCode,
        /// The function, `C_Sign`.
        function: String,
        /// What we were doing.
        doing: &'static str,
    },
    /// The token answered with something that cannot be true. The session is dead.
    #[error("the token's answer is wrong ({doing}): {problem}")]
    Answer {
        /// What we were doing.
        doing: &'static str,
        /// What is wrong with the answer.
        problem: String,
    },
    /// An earlier error on this session; it must be replaced.
    #[error("this session had an error before and must be replaced")]
    SessionDead,
    /// Objects were made or removed only in part.
    #[error("{done}; {cause}")]
    Partly {
        /// What was done, and what an operator has to look at.
        done: String,
        /// Why not the rest.
        cause: Box<TokenError>,
    },
}

/// What is wrong with a module.
#[derive(Debug, thiserror::Error)]
pub enum ModuleFault {
    /// Not an absolute path: dlopen(3) would search folders for it.
    #[error("the path must be absolute")]
    NotAbsolute,
    /// Nothing there, or not readable.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// A folder, a device.
    #[error("not a regular file")]
    NotAFile,
    /// Others may change it, and it would run in the process that holds the PIN.
    #[error("{0}")]
    Exposed(Exposed),
    /// dlopen(3) refused it.
    #[error("not a shared library that this program can load: {0}")]
    NotALibrary(Error),
    /// A shared library without C_GetFunctionList.
    #[error("not a PKCS#11 module: it has no C_GetFunctionList")]
    NotPkcs11,
    /// Its list of functions cannot be had a second time.
    #[error("its C_Login cannot be found: {0}")]
    NoPinCalls(io::Error),
    /// C_Initialize failed.
    #[error(
        "{0} from C_Initialize; check the module's own configuration (SoftHSM: SOFTHSM2_CONF and its token folder)"
    )]
    Initialise(ReturnCode),
    /// Something in this process initialised it already.
    #[error("initialised already in this process")]
    InUse,
    /// Another call failed.
    #[error("it cannot be used: {0}")]
    Other(Error),
}

/// Why a login did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginRefusal {
    /// CKR_PIN_INCORRECT. It was tried once; tokens lock after a few tries.
    #[error(
        "the PIN is wrong (CKR_PIN_INCORRECT). It was tried once and will not be tried again by itself: tokens lock after a few wrong tries"
    )]
    WrongPin,
    /// CKR_PIN_LEN_RANGE or CKR_PIN_INVALID: no PIN of this token looks like this.
    #[error(
        "the PIN is wrong ({0}): no PIN of this token has this length or these characters. It was tried once"
    )]
    ImpossiblePin(String),
    /// C_Login failed in other words, and the token has counted a wrong PIN.
    #[error(
        "the PIN is wrong: C_Login answered {0}, and the token has a wrong try on record (CKF_USER_PIN_COUNT_LOW). It was tried once and will not be tried again by itself"
    )]
    Counted(String),
    /// CKR_PIN_LOCKED, or the token says so beforehand.
    #[error("the PIN is locked after too many wrong tries; the security officer can set a new one")]
    Locked,
    /// CKF_USER_PIN_FINAL_TRY. Nothing was tried.
    #[error(
        "one more wrong PIN locks this token, so it is not tried here. Log in once with the vendor's tool, then start again"
    )]
    FinalTry,
    /// CKF_USER_PIN_COUNT_LOW, and nobody is there who would notice another wrong try. Nothing was tried.
    #[error(
        "a wrong PIN was tried since the last login (CKF_USER_PIN_COUNT_LOW), so none is tried here by itself"
    )]
    WrongTryRecorded,
    /// CKR_PIN_EXPIRED, or the token wants the PIN changed.
    #[error("the PIN has expired; set a new one with the vendor's tool")]
    Expired,
    /// CKR_USER_PIN_NOT_INITIALIZED, or the token says so beforehand.
    #[error("no user PIN has been set yet; the security officer has to set one")]
    NoPinSet,
    /// The token was never initialised.
    #[error("the token is not initialised; see fastness token init --help")]
    NotInitialised,
    /// CKF_PROTECTED_AUTHENTICATION_PATH.
    #[error(
        "the PIN has to be typed on the token's own keypad (CKF_PROTECTED_AUTHENTICATION_PATH), which Fastness does not do"
    )]
    Keypad,
    /// CKR_USER_ALREADY_LOGGED_IN: nobody checked this PIN.
    #[error("this process is logged in already, so the PIN was not checked")]
    AlreadyLoggedIn,
}

/// A PKCS#11 return code; shown by its name in the specification.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReturnCode(pub(super) RvError);

impl fmt::Display for ReturnCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            RvError::VendorDefined(code) => {
                write!(f, "CKR_VENDOR_DEFINED+{:#x}", code & 0x7fff_ffff)
            }
            RvError::UnknownErrorCode(code) => write!(f, "CKR {code:#x}"),
            // cryptoki names its variants after the specification: PinIncorrect.
            known => {
                f.write_str("CKR")?;
                for letter in format!("{known:?}").chars() {
                    if letter.is_ascii_uppercase() {
                        f.write_str("_")?;
                    }
                    write!(f, "{}", letter.to_ascii_uppercase())?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for ReturnCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TokenError {
    /// Whether the session that reported this must be dropped and replaced: after a failed call a
    /// session may keep an operation open for ever (CKR_OPERATION_ACTIVE), and a handle may be
    /// stale.
    pub fn session_is_dead(&self) -> bool {
        matches!(
            self,
            Self::Call { .. } | Self::Answer { .. } | Self::SessionDead
        )
    }

    /// Whether the token gives this process no further session.
    pub fn is_session_shortage(&self) -> bool {
        matches!(self, Self::Call { code, .. } if code.0 == RvError::SessionCount)
    }

    /// Whether a PIN was tried and refused. Whoever sees this must not try again by itself.
    pub fn is_pin_verdict(&self) -> bool {
        matches!(
            self,
            Self::Login {
                refusal: LoginRefusal::WrongPin
                    | LoginRefusal::ImpossiblePin(_)
                    | LoginRefusal::Counted(_)
                    | LoginRefusal::Locked
                    | LoginRefusal::FinalTry
                    | LoginRefusal::WrongTryRecorded
                    | LoginRefusal::Expired,
                ..
            }
        )
    }

    /// What to do about it.
    pub fn mend(&self) -> &'static str {
        match self {
            Self::Module { fault, .. } => match fault {
                ModuleFault::NotAbsolute | ModuleFault::Unreadable(_) | ModuleFault::NotAFile => {
                    "give the full path of the vendor's PKCS#11 library (SoftHSM on Debian: /usr/lib/softhsm/libsofthsm2.so)"
                }
                ModuleFault::Exposed(_) => {
                    "it gets the PIN: install it where only root or this user can change or replace it"
                }
                ModuleFault::NotALibrary(_) | ModuleFault::NotPkcs11 => {
                    "name the vendor's PKCS#11 library, built for this machine's architecture"
                }
                ModuleFault::Initialise(_) | ModuleFault::NoPinCalls(_) | ModuleFault::Other(_) => {
                    "check the module's own configuration and log (SoftHSM: SOFTHSM2_CONF, and that its token folder can be read and written; over TCP: `ports` in its [[token]] of a node)"
                }
                ModuleFault::InUse => "use the module once in a process",
            },
            Self::Name(..) => "mend the URI; see fastness token list",
            Self::TokenMissing { .. } => {
                "see that it is connected, and compare with fastness token list: is it the right module, with its right configuration (SoftHSM: SOFTHSM2_CONF, in [token.environment] of a node; over TCP: `ports` in its [[token]])?"
            }
            Self::TokenDoubled { .. } => "add `serial` to the URI",
            Self::CannotInitialise(_) => "see fastness token list",
            Self::Login { refusal, .. } => refusal.mend(),
            Self::KeyMissing { .. } => {
                "compare with fastness token list, or make the key with fastness token keygen"
            }
            Self::KeyDoubled { .. } => {
                "add `id` to the URI, or destroy the key that should not be there"
            }
            Self::KeyUnusable { .. } | Self::KeyRefused { .. } => {
                "make a new key inside the token with fastness token keygen"
            }
            Self::Unsupported { .. } => {
                "choose another kind of key; p256 is the most widely supported"
            }
            Self::WrongScheme { .. } => "ask for a scheme of the key's kind",
            Self::Call { .. } | Self::Answer { .. } | Self::SessionDead => {
                "open a new session; if that fails too, see the token's own log and its connection"
            }
            Self::Partly { .. } => "look at the token with fastness token list and finish by hand",
        }
    }

    /// The PKCS#11 return code, when a call failed.
    pub fn code(&self) -> Option<ReturnCode> {
        match self {
            Self::Call { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// A failed call while `doing` something.
    pub(super) fn call(doing: &'static str) -> impl FnOnce(Error) -> Self {
        move |error| match error {
            Error::Pkcs11(code, function) => Self::Call {
                code: ReturnCode(code),
                function: format!("C_{function:?}"),
                doing,
            },
            // What cryptoki itself could not make sense of.
            other => Self::Answer {
                doing,
                problem: other.to_string(),
            },
        }
    }

    pub(super) fn answer(doing: &'static str, problem: impl Into<String>) -> Self {
        Self::Answer {
            doing,
            problem: problem.into(),
        }
    }
}

impl LoginRefusal {
    /// What to do about it.
    pub fn mend(&self) -> &'static str {
        match self {
            Self::WrongPin | Self::ImpossiblePin(_) | Self::Counted(_) => {
                "correct the PIN's source, then have it tried once: `fastness unlock`, or `fastness check` where no node runs"
            }
            Self::Locked | Self::NoPinSet => {
                "have the security officer set a user PIN (C_InitPIN) with the vendor's tool"
            }
            Self::FinalTry => "log in once by hand with the vendor's tool: that resets the counter",
            Self::WrongTryRecorded => {
                "find out who tried a wrong PIN, see that the PIN's source is right, then `fastness unlock`, or `fastness check` where no node runs"
            }
            Self::Expired => "set a new PIN with the vendor's tool",
            Self::NotInitialised => "initialise it with fastness token init",
            Self::Keypad => {
                "use a token, or a configuration of it, that takes the PIN from the program"
            }
            Self::AlreadyLoggedIn => "log in once in a process",
        }
    }
}

/// "tokens there: a, b", or that there are none.
fn there_are(names: &[String], what: &str) -> String {
    if names.is_empty() {
        format!("{what}: none")
    } else {
        format!("{what}: {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn return_codes_are_named_as_in_the_specification() {
        for (code, name) in [
            (RvError::PinIncorrect, "CKR_PIN_INCORRECT"),
            (RvError::UserAlreadyLoggedIn, "CKR_USER_ALREADY_LOGGED_IN"),
            (RvError::FipsSelfTestFailed, "CKR_FIPS_SELF_TEST_FAILED"),
            (
                RvError::VendorDefined(0x8000_0011),
                "CKR_VENDOR_DEFINED+0x11",
            ),
            (RvError::UnknownErrorCode(0x7), "CKR 0x7"),
        ] {
            assert_eq!(ReturnCode(code).to_string(), name);
        }
    }
}
