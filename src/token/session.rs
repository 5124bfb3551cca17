//! The token and its sessions: login, and signing. One session, one thread; after an error, a new
//! session.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::session::UserType;
use cryptoki::slot::Slot;
use secrecy::SecretString;

use super::error::{LoginRefusal, ReturnCode, TokenError};
use super::info::TokenInfo;
use super::key::Key;
use super::mechanism;
use super::module::{Loaded, RESTARTS};
use super::uri::TokenUri;
use super::Scheme;
use crate::secret::UserPin;

/// One token. Login is for the whole process; it lasts until the token is dropped.
#[derive(Debug)]
pub struct Token {
    loaded: Arc<Loaded>,
    place: Mutex<Place>,
    info: TokenInfo,
}

/// Where the token is now; a restarted module may have moved it.
#[derive(Debug)]
struct Place {
    slot: Slot,
    login: Option<Login>,
}

/// The session that keeps the login alive: it ends with the last session of the process.
#[derive(Debug)]
struct Login {
    session: Option<cryptoki::session::Session>,
    loaded: Arc<Loaded>,
}

/// A session: used by one thread at a time. It makes no more calls after the first error.
#[derive(Debug)]
pub struct Session {
    // Before `loaded`: closed before the module may be finalised.
    pub(super) raw: cryptoki::session::Session,
    dead: Cell<bool>,
    pub(super) slot: Slot,
    pub(super) loaded: Arc<Loaded>,
    token: TokenUri,
}

/// What a session may do.
#[derive(Clone, Copy)]
pub(super) enum Access {
    ReadOnly,
    ReadWrite,
}

impl Token {
    pub(super) fn new(loaded: Arc<Loaded>, slot: Slot, info: TokenInfo) -> Self {
        Self { loaded, place: Mutex::new(Place { slot, login: None }), info }
    }

    /// What the token said about itself when it was found.
    pub fn info(&self) -> &TokenInfo {
        &self.info
    }

    /// The token's full name.
    ///
    /// # Errors
    /// When it reports neither label nor serial number.
    pub fn uri(&self) -> Result<TokenUri, TokenError> {
        self.info.uri().ok_or_else(|| {
            TokenError::answer("naming the token", "it reports neither label nor serial number")
        })
    }

    /// Logs this process in as the token's user. The PIN is tried once: a wrong one is never tried
    /// again here. Errors that say nothing about the PIN are met with C_Finalize and C_Initialize,
    /// at most four times (SoftHSM: see `module.rs`), unless another login is alive.
    ///
    /// # Errors
    /// [`TokenError::Login`] with the verdict, or [`TokenError::Call`].
    pub fn login(&self, pin: UserPin) -> Result<(), TokenError> {
        let pin = pin.expose_for_login();
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.login.is_some() {
            return Err(self.refused(LoginRefusal::AlreadyLoggedIn));
        }
        let mut outcome = self.try_login(place.slot, &pin);
        for _ in 0..RESTARTS {
            if !matches!(outcome, Err(TokenError::Call { .. })) || !self.loaded.restart()? {
                break;
            }
            place.slot = match self.loaded.find(&self.uri()?) {
                Ok((slot, _)) => slot,
                // Half-written: once more.
                Err(TokenError::TokenMissing { .. } | TokenError::Call { .. }) => continue,
                Err(other) => return Err(other),
            };
            outcome = self.try_login(place.slot, &pin);
        }
        place.login = Some(outcome?);
        Ok(())
    }

    fn try_login(&self, slot: Slot, pin: &SecretString) -> Result<Login, TokenError> {
        let info = self.loaded.pkcs11.get_token_info(slot).map_err(TokenError::call("login"))?;
        let info = TokenInfo::of(&info);
        if !info.is(&self.uri()?) {
            return Err(TokenError::TokenMissing { wanted: Box::new(self.uri()?), present: vec![info.name()] });
        }
        if let Some(refusal) = info.login_refusal() {
            return Err(self.refused(refusal));
        }
        let session = self.loaded.pkcs11.open_ro_session(slot).map_err(TokenError::call("login"))?;
        session.login(UserType::User, Some(pin)).map_err(|error| self.verdict(error))?;
        self.loaded.logins.fetch_add(1, Ordering::SeqCst);
        Ok(Login { session: Some(session), loaded: self.loaded.clone() })
    }

    fn verdict(&self, error: Error) -> TokenError {
        let refusal = match error {
            Error::Pkcs11(code, _) => match code {
                RvError::PinIncorrect => LoginRefusal::WrongPin,
                RvError::PinInvalid | RvError::PinLenRange => {
                    LoginRefusal::ImpossiblePin(ReturnCode(code).to_string())
                }
                RvError::PinLocked => LoginRefusal::Locked,
                RvError::PinExpired => LoginRefusal::Expired,
                RvError::UserPinNotInitialized => LoginRefusal::NoPinSet,
                RvError::UserAlreadyLoggedIn | RvError::UserAnotherAlreadyLoggedIn => {
                    LoginRefusal::AlreadyLoggedIn
                }
                _ => return TokenError::call("login")(error),
            },
            other => return TokenError::call("login")(other),
        };
        self.refused(refusal)
    }

    fn refused(&self, refusal: LoginRefusal) -> TokenError {
        TokenError::Login { token: self.info.label.clone(), refusal }
    }

    /// Opens a read-only session.
    ///
    /// # Errors
    /// When the token has no session left, or is gone.
    pub fn session(&self) -> Result<Session, TokenError> {
        self.open(Access::ReadOnly)
    }

    pub(super) fn open(&self, access: Access) -> Result<Session, TokenError> {
        let slot = self.place.lock().unwrap_or_else(PoisonError::into_inner).slot;
        Session::open(&self.loaded, slot, self.uri()?, access)
    }

}

impl Session {
    pub(super) fn open(
        loaded: &Arc<Loaded>,
        slot: Slot,
        token: TokenUri,
        access: Access,
    ) -> Result<Self, TokenError> {
        let raw = match access {
            Access::ReadOnly => loaded.pkcs11.open_ro_session(slot),
            Access::ReadWrite => loaded.pkcs11.open_rw_session(slot),
        };
        let raw = raw.map_err(TokenError::call("opening a session"))?;
        Ok(Self { raw, dead: Cell::new(false), slot, loaded: loaded.clone(), token })
    }

    /// Another read-only session on the same token, for tries that may fail.
    pub(super) fn sibling(&self) -> Result<Self, TokenError> {
        Self::open(&self.loaded, self.slot, self.token.clone(), Access::ReadOnly)
    }

    /// The mechanisms that the token offers.
    pub(super) fn mechanisms(&self) -> Result<Vec<MechanismType>, TokenError> {
        let list = self.loaded.pkcs11.get_mechanism_list(self.slot);
        list.map_err(TokenError::call("listing mechanisms"))
    }

    /// The token this session is with.
    pub fn token(&self) -> &TokenUri {
        &self.token
    }

    /// Signs `message` (unhashed: it is hashed here, as the scheme says) and returns the signature
    /// as TLS and X.509 have it: ECDSA as DER, RSASSA-PSS in the modulus' length, Ed25519 64 bytes.
    ///
    /// # Errors
    /// [`TokenError::WrongScheme`] before anything is asked of the token: SoftHSM crashes on a
    /// mechanism that does not fit the key. After an error for which
    /// [`session_is_dead`](TokenError::session_is_dead) holds, this session makes no more calls.
    pub fn sign(&self, key: &Key, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        if !key.kind().schemes().contains(&scheme) {
            return Err(TokenError::WrongScheme { kind: key.kind(), scheme });
        }
        self.guard(|session| {
            let raw = mechanism::sign(session, key.handle(), scheme, message)?;
            mechanism::encode(key.kind(), raw)
        })
    }

    /// Runs calls on the session, and lets none run after a failed one.
    pub(super) fn guard<T>(
        &self,
        calls: impl FnOnce(&cryptoki::session::Session) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        if self.dead.get() {
            return Err(TokenError::SessionDead);
        }
        let outcome = calls(&self.raw);
        if outcome.as_ref().is_err_and(TokenError::session_is_dead) {
            self.dead.set(true);
        }
        outcome
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        self.session = None;
        self.loaded.logins.fetch_sub(1, Ordering::SeqCst);
    }
}
