//! The token and its sessions: login, and signing. One session, one thread; after an error, a new
//! session.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::context::{Function, Pkcs11};
use cryptoki::error::{Error, Rv, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::slot::Slot;
use fastness_secret_page::User;

use super::Scheme;
use super::error::{LoginRefusal, ReturnCode, TokenError};
use super::heal::{self, Action, Doing};
use super::info::{PinState, TokenInfo};
use super::key::Key;
use super::mechanism;
use super::module::{Access, Loaded, Open, RESTARTS};
use super::uri::TokenUri;
use crate::secret::UserPin;

/// One token. Login is for the whole process; it lasts until the token and all of its sessions are
/// dropped.
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
    /// Keeps the login alive, which ends with the last session of the process.
    login: Option<Open>,
    /// In which a login failed: open until the next is tried or the token is dropped, so that a verdict
    /// on the PIN can be told before the module is asked for anything more. It may hang or crash.
    failed: Option<Open>,
}

/// Who wants a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    ByOperator,
    ByItself,
}

/// A session: used by one thread at a time. It makes no more calls after the first error.
#[derive(Debug)]
pub struct Session {
    open: Open,
    holds_login: bool,
    dead: Cell<bool>,
    pub(super) slot: Slot,
    token: TokenUri,
}

impl Token {
    pub(super) fn new(loaded: Arc<Loaded>, slot: Slot, info: TokenInfo) -> Self {
        Self {
            loaded,
            place: Mutex::new(Place {
                slot,
                login: None,
                failed: None,
            }),
            info,
        }
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
            TokenError::answer(
                "naming the token",
                "it reports neither label nor serial number",
            )
        })
    }

    /// Logs this process in as the token's user. The PIN is tried once: a wrong one is never tried
    /// again here. Only SoftHSM, which never locks a PIN, is asked again after an answer that says nothing
    /// about it ([`Action::Restart`]), at most four times, unless a session is open.
    ///
    /// # Errors
    /// [`TokenError::Login`] with the verdict, or [`TokenError::Call`].
    pub fn login(&self, pin: UserPin) -> Result<(), TokenError> {
        self.login_as(pin, Asked::ByOperator)
    }

    /// The same for a login that nobody asked for: none is tried when the token remembers a wrong PIN
    /// since the last login (CKF_USER_PIN_COUNT_LOW), because ours may be the one.
    ///
    /// # Errors
    /// As [`Token::login`].
    pub fn login_by_itself(&self, pin: UserPin) -> Result<(), TokenError> {
        self.login_as(pin, Asked::ByItself)
    }

    fn login_as(&self, pin: UserPin, asked: Asked) -> Result<(), TokenError> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.login.is_some() {
            return Err(self.refused(LoginRefusal::AlreadyLoggedIn));
        }
        place.failed = None;
        let mut outcome = self.try_login(&mut place, &pin, asked);
        for _ in 0..RESTARTS {
            let Err(tried) = &outcome else { break };
            let again = heal::after(&tried.error, tried.doing) == Action::Restart
                && (tried.doing == Doing::Starting || self.info.never_locks());
            if !again {
                break;
            }
            place.failed = None;
            if !self.loaded.restart()? {
                break;
            }
            outcome = match self.loaded.find(&self.uri()?) {
                Ok((slot, _)) => {
                    place.slot = slot;
                    self.try_login(&mut place, &pin, asked)
                }
                Err(error) => Err(Tried::before_the_pin(error)),
            };
        }
        outcome.map_err(|tried| tried.error)
    }

    fn try_login(&self, place: &mut Place, pin: &UserPin, asked: Asked) -> Result<(), Tried> {
        let session = self
            .before_login(place.slot, asked)
            .map_err(Tried::before_the_pin)?;
        let code = self.loaded.pin_calls.log_in(
            session.raw().handle(),
            User::User,
            pin.expose_for_login(),
        );
        match Rv::from(code).into_result(Function::Login) {
            Ok(()) => place.login = Some(session),
            Err(error) => {
                place.failed = Some(session);
                return Err(Tried {
                    error: self.verdict(error, place.slot),
                    doing: Doing::LoggingIn,
                });
            }
        }
        Ok(())
    }

    /// What has to hold before a PIN is tried, and the session to try it in.
    fn before_login(&self, slot: Slot, asked: Asked) -> Result<Open, TokenError> {
        let (info, uri) = (self.info_now(slot)?, self.uri()?);
        if !info.is(&uri) {
            let present = vec![info.name()];
            return Err(TokenError::TokenMissing {
                wanted: Box::new(uri),
                present,
            });
        }
        if let Some(refusal) = info.login_refusal() {
            return Err(self.refused(refusal));
        }
        if asked == Asked::ByItself && info.pin == PinState::WrongTryRecorded {
            return Err(self.refused(LoginRefusal::WrongTryRecorded));
        }
        Open::new(&self.loaded, slot, Access::ReadOnly)
    }

    fn info_now(&self, slot: Slot) -> Result<TokenInfo, TokenError> {
        let info = self.loaded.pkcs11.get_token_info(slot);
        Ok(TokenInfo::of(&info.map_err(TokenError::call("login"))?))
    }

    /// What a failed C_Login means. A module may have other words for a wrong PIN; its flags tell.
    fn verdict(&self, error: Error, slot: Slot) -> TokenError {
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
                other if self.info_now(slot).is_ok_and(|info| info.pin.is_counting()) => {
                    LoginRefusal::Counted(ReturnCode(other).to_string())
                }
                _ => return TokenError::call("login")(error),
            },
            other => return TokenError::call("login")(other),
        };
        self.refused(refusal)
    }

    fn refused(&self, refusal: LoginRefusal) -> TokenError {
        TokenError::Login {
            token: self.info.label.clone(),
            refusal,
        }
    }

    /// Opens a read-only session.
    ///
    /// # Errors
    /// When the token has no session left, or is gone.
    pub fn session(&self) -> Result<Session, TokenError> {
        self.open(Access::ReadOnly)
    }

    /// Opens a read-only session; where the token gives no other than the one that holds the login, that
    /// one: the login then lasts as long as it does.
    ///
    /// # Errors
    /// As [`Token::session`].
    pub fn session_or_the_login_s(&self) -> Result<Session, TokenError> {
        match self.session() {
            Err(error) if error.is_session_shortage() => {
                let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
                let open = place.login.take().ok_or(error)?;
                let mut session = Session::with(open, place.slot, self.uri()?);
                session.holds_login = true;
                Ok(session)
            }
            outcome => outcome,
        }
    }

    /// Ends the login and the module (C_Finalize), once every session is closed.
    ///
    /// # Errors
    /// When a session is still open, or C_Finalize fails.
    pub fn end(&self) -> Result<(), TokenError> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        (place.login, place.failed) = (None, None);
        self.loaded.end()
    }

    pub(super) fn open(&self, access: Access) -> Result<Session, TokenError> {
        let slot = self
            .place
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .slot;
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
        Ok(Self::with(Open::new(loaded, slot, access)?, slot, token))
    }

    fn with(open: Open, slot: Slot, token: TokenUri) -> Self {
        Self {
            open,
            holds_login: false,
            dead: Cell::new(false),
            slot,
            token,
        }
    }

    /// Whether the login ends with this session: the token had no other.
    pub fn holds_login(&self) -> bool {
        self.holds_login
    }

    /// Tries what may fail in another read-only session on the same token, or in this one where the
    /// token has no other.
    pub(super) fn aside<T>(
        &self,
        tries: impl FnOnce(&Self) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let token = self.token.clone();
        match Self::open(&self.open.loaded, self.slot, token, Access::ReadOnly) {
            Ok(sibling) => tries(&sibling),
            Err(error) if error.is_session_shortage() => tries(self),
            Err(error) => Err(error),
        }
    }

    /// The mechanisms that the token offers.
    pub(super) fn mechanisms(&self) -> Result<Vec<MechanismType>, TokenError> {
        let list = self.module().get_mechanism_list(self.slot);
        list.map_err(TokenError::call("listing mechanisms"))
    }

    pub(super) fn module(&self) -> &Pkcs11 {
        &self.open.loaded.pkcs11
    }

    /// The session itself, for calls after which it is dropped whatever they return. All others go
    /// through [`guard`](Self::guard).
    pub(super) fn raw(&self) -> &cryptoki::session::Session {
        self.open.raw()
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
            return Err(TokenError::WrongScheme {
                kind: key.kind(),
                scheme,
            });
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
        let outcome = calls(self.raw());
        if outcome.as_ref().is_err_and(TokenError::session_is_dead) {
            self.dead.set(true);
        }
        outcome
    }
}

/// A login that failed, and where.
struct Tried {
    error: TokenError,
    doing: Doing,
}

impl Tried {
    fn before_the_pin(error: TokenError) -> Self {
        Self {
            error,
            doing: Doing::Starting,
        }
    }
}
