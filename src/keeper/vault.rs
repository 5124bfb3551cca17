//! The open token: logged in, every key checked, a pool of sessions to sign with.
//!
//! One session is used by one thread at a time (SoftHSM crashes otherwise), and is closed after any
//! error (a failed C_Sign leaves many modules with an operation that never ends).

use std::sync::{Condvar, Mutex, PoisonError};

use super::message::{Refusal, Request};
use super::purpose;
use crate::control::{KeeperReady, KeeperSetup, KeyReady, KeySetup};
use crate::fault::Fault;
use crate::role::TlsRole;
use crate::secret::UserPin;
use crate::token::{self, Key, KeyUri, Module, Session, Token, TokenError, TokenUri};

/// The token of one keeper.
pub(super) struct Vault {
    token: Token,
    keys: Vec<Purpose>,
    pool: Mutex<Pool>,
    returned: Condvar,
}

/// One key's address and what it is for.
struct Purpose {
    role: TlsRole,
    uri: KeyUri,
    spki: Vec<u8>,
}

struct Pool {
    idle: Vec<Live>,
    /// Sessions that exist or may be opened: idle ones, borrowed ones and missing ones.
    missing: usize,
    borrowed: usize,
    closed: bool,
}

/// A session and the handles that are valid in its login.
struct Live {
    session: Session,
    keys: Vec<Key>,
}

/// Why a vault did not open.
pub(super) struct Refused {
    pub(super) faults: Vec<Fault>,
    /// Whether a further try by itself could lock the PIN.
    pub(super) latch: bool,
}

/// Why a request got no signature.
pub(super) enum SignError {
    /// It asked for what it may not have.
    Refused(Refusal),
    /// The token failed this once.
    Token(TokenError),
    /// Not even a new session works: this process will not sign again.
    Lost(TokenError),
}

impl Vault {
    /// Loads the module, logs in with `pin` and checks every key of `setup`.
    pub(super) fn open(setup: &KeeperSetup, pin: UserPin) -> Result<(Self, KeeperReady), Refused> {
        let token = log_in(setup, pin)?;
        let mut faults = Vec::new();
        let mut keys = Vec::new();
        let mut ready = Vec::new();
        for key in &setup.keys {
            match check_key(&token, key) {
                Ok((purpose, found)) => {
                    keys.push(purpose);
                    ready.push(found);
                }
                Err(found) => faults.extend(found),
            }
        }
        if !faults.is_empty() {
            return Err(Refused { faults, latch: false });
        }
        let vault = Self {
            token,
            keys,
            pool: Mutex::new(Pool { idle: Vec::new(), missing: 0, borrowed: 0, closed: false }),
            returned: Condvar::new(),
        };
        let sessions = vault.fill(setup.sessions).map_err(|error| Refused {
            faults: vec![Fault::new(&*setup.token, error.to_string(), "free sessions of this token, or lower `sessions`")],
            latch: false,
        })?;
        let info = vault.token.info();
        let found = KeeperReady {
            label: info.label.clone(),
            serial: info.serial.clone(),
            manufacturer: info.manufacturer.clone(),
            model: info.model.clone(),
            sessions,
            keys: ready,
        };
        Ok((vault, found))
    }

    /// Opens as many of `wanted` sessions as the token gives; at least one.
    fn fill(&self, wanted: usize) -> Result<usize, TokenError> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        while pool.idle.len() < wanted {
            match self.open_session() {
                Ok(live) => pool.idle.push(live),
                Err(error) if pool.idle.is_empty() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, wanted, sessions = pool.idle.len(), "the token gives fewer sessions than configured");
                    break;
                }
            }
        }
        Ok(pool.idle.len())
    }

    fn open_session(&self) -> Result<Live, TokenError> {
        let session = self.token.session()?;
        let keys = self
            .keys
            .iter()
            .map(|purpose| session.locate(&purpose.uri))
            .collect::<Result<_, _>>()?;
        Ok(Live { session, keys })
    }

    /// Signs what `request` asks for, if it may be signed.
    pub(super) fn sign(&self, request: &Request<'_>) -> Result<Vec<u8>, SignError> {
        let index = usize::from(request.key.0);
        let purpose = self.keys.get(index).ok_or(SignError::Refused(Refusal::UnknownKey))?;
        let signable = purpose::certificate_verify(purpose.role, request.input)
            .ok_or(SignError::Refused(Refusal::WrongPurpose))?;
        let live = self.borrow()?;
        let key = &live.keys[index];
        if !key.kind().schemes().contains(&request.scheme) {
            self.give_back(Some(live));
            return Err(SignError::Refused(Refusal::WrongScheme));
        }
        match live.session.sign(key, request.scheme, signable.as_bytes()) {
            Ok(signature) => {
                self.give_back(Some(live));
                Ok(signature)
            }
            Err(first) => {
                tracing::warn!(error = %first, "signing failed: trying once more in a new session");
                drop(live);
                self.sign_in_new_session(index, request, signable)
            }
        }
    }

    fn sign_in_new_session(
        &self,
        index: usize,
        request: &Request<'_>,
        signable: purpose::Signable<'_>,
    ) -> Result<Vec<u8>, SignError> {
        let live = match self.open_session() {
            Ok(live) => live,
            Err(error) => {
                self.give_back(None);
                return Err(SignError::Lost(error));
            }
        };
        if live.keys[index].spki_der() != self.keys[index].spki {
            self.give_back(None);
            return Err(SignError::Refused(Refusal::UnknownKey));
        }
        match live.session.sign(&live.keys[index], request.scheme, signable.as_bytes()) {
            Ok(signature) => {
                self.give_back(Some(live));
                Ok(signature)
            }
            Err(error) => {
                drop(live);
                self.give_back(None);
                Err(SignError::Token(error))
            }
        }
    }

    fn borrow(&self) -> Result<Live, SignError> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if pool.closed {
                return Err(SignError::Refused(Refusal::Token));
            }
            if let Some(live) = pool.idle.pop() {
                pool.borrowed += 1;
                return Ok(live);
            }
            if pool.missing > 0 {
                pool.missing -= 1;
                pool.borrowed += 1;
                drop(pool);
                return self.open_session().map_err(|error| {
                    self.give_back(None);
                    SignError::Lost(error)
                });
            }
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts a session back; `None` stands for one that was closed after an error.
    fn give_back(&self, live: Option<Live>) {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.borrowed -= 1;
        match live {
            Some(live) => pool.idle.push(live),
            None => pool.missing += 1,
        }
        drop(pool);
        self.returned.notify_all();
    }

    /// Waits for running signatures and closes every session: a module must not be ended while a
    /// thread is inside it (SoftHSM crashes).
    pub(super) fn close(&self) {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.closed = true;
        self.returned.notify_all();
        while pool.borrowed > 0 {
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
        pool.idle.clear();
    }
}

fn log_in(setup: &KeeperSetup, pin: UserPin) -> Result<Token, Refused> {
    let refuse = |error: TokenError| Refused {
        latch: error.is_pin_verdict(),
        faults: vec![Fault::new(&*setup.token, error.to_string(), error.mend())],
    };
    let uri: TokenUri = setup.token.parse().map_err(|error| Refused {
        faults: vec![Fault::new(&*setup.token, format!("{error}"), "mend the URI")],
        latch: false,
    })?;
    let module = Module::load(&setup.module).map_err(refuse)?;
    let token = module.token(&uri).map_err(refuse)?;
    token.login(pin).map_err(refuse)?;
    Ok(token)
}

/// Everything a key must show before it is used: one object, not readable, matching its certificate.
fn check_key(token: &Token, setup: &KeySetup) -> Result<(Purpose, KeyReady), Vec<Fault>> {
    let one = |error: TokenError| vec![Fault::new(&*setup.place, error.to_string(), error.mend())];
    let uri: KeyUri = setup
        .uri
        .parse()
        .map_err(|error| vec![Fault::new(&*setup.place, format!("{error}"), "mend the URI")])?;
    let session = token.session().map_err(one)?;
    let key = session.locate(&uri).map_err(one)?;
    if key.spki_der() != setup.spki {
        return Err(vec![other_key(setup, "they have different public keys")]);
    }
    let evidence = session.gate(&key)?;
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).expect("the system's random numbers never fail after boot");
    let probe = purpose::probe(setup.role, nonce);
    // The first scheme is the one that handshakes will use most; the others must work as well.
    for scheme in key.kind().schemes() {
        let signature = session.sign(&key, *scheme, &probe).map_err(one)?;
        if let Err(error) = token::verify(&setup.spki, *scheme, &probe, &signature) {
            return Err(vec![other_key(setup, &error.to_string())]);
        }
    }
    let ready = KeyReady { kind: key.kind(), spki: key.spki_der().to_vec(), evidence };
    Ok((Purpose { role: setup.role, uri, spki: setup.spki.clone() }, ready))
}

fn other_key(setup: &KeySetup, why: &str) -> Fault {
    Fault::new(
        &*setup.place,
        format!("the key does not belong to its certificate: {why}"),
        "name the key whose request the certificate was issued for: compare `fastness spki-pin` of both",
    )
}
