//! The open token: logged in, every key checked, a pool of sessions to sign with.
//!
//! One session is used by one thread at a time (SoftHSM crashes otherwise), and is closed after any
//! error (a failed C_Sign leaves many modules with an operation that never ends).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::calls::Calls;
use super::message::{Refusal, Request};
use super::open::Purpose;
use super::purpose;
use crate::token::heal::{self, Action, Doing};
use crate::token::{self, Key, Scheme, Session, Token, TokenError};

/// The token of one keeper.
pub(super) struct Vault {
    token: Token,
    keys: Vec<Purpose>,
    pool: Mutex<Pool>,
    returned: Condvar,
    pub(super) calls: Calls,
    signatures: AtomicU64,
    evictions: Mutex<BTreeMap<String, u64>>,
}

struct Pool {
    idle: Vec<Live>,
    /// Places of sessions that were closed after an error and may be opened again.
    vacant: Vec<Place>,
    borrowed: usize,
    /// Threads that wait for a session, in the order of their coming.
    waiting: VecDeque<u64>,
    next: u64,
    /// Threads that call the module in a session that is not the pool's.
    inside: usize,
    closed: bool,
}

/// A session's place in [`Calls`].
#[derive(Clone, Copy, Debug)]
struct Place(usize);

/// A session and the handles that are valid in its login: they never outlive it.
struct Live {
    place: Place,
    session: Session,
    keys: Vec<Key>,
}

/// Why a request got no signature.
pub(super) enum SignError {
    /// It asked for what it may not have.
    Refused(Refusal),
    /// The token failed; the next request begins anew.
    Token(TokenError),
    /// This process will not sign again.
    Lost(TokenError),
}

/// How long a request waits for a session before it is the node's to decide.
const SESSION_WAIT: Duration = Duration::from_secs(30);

impl Vault {
    /// A vault over a token that is logged in and whose keys were checked in `session`, with at most
    /// `wanted` sessions, that one included.
    pub(super) fn new(
        token: Token,
        session: Session,
        keys: Vec<Purpose>,
        wanted: usize,
    ) -> Result<Self, TokenError> {
        let vault = Self {
            token,
            keys,
            pool: Mutex::new(Pool {
                idle: Vec::new(),
                vacant: Vec::new(),
                borrowed: 0,
                waiting: VecDeque::new(),
                next: 0,
                inside: 0,
                closed: false,
            }),
            returned: Condvar::new(),
            // One more for the health probe.
            calls: Calls::new(wanted + 1),
            signatures: AtomicU64::new(0),
            evictions: Mutex::default(),
        };
        let mut idle = vec![vault.find_keys(Place(0), session)?];
        while idle.len() < wanted {
            match vault.open_session(Place(idle.len())) {
                Ok(live) => idle.push(live),
                Err(error) => {
                    tracing::warn!(%error, wanted, sessions = idle.len(), "the token gives fewer sessions than configured");
                    break;
                }
            }
        }
        vault.pool().idle = idle;
        Ok(vault)
    }

    /// Sessions that exist, in use or not.
    pub(super) fn sessions(&self) -> usize {
        let pool = self.pool();
        pool.idle.len() + pool.borrowed
    }

    /// Signatures made.
    pub(super) fn signatures(&self) -> u64 {
        self.signatures.load(Ordering::Relaxed)
    }

    /// Sessions closed after an error, by return code.
    pub(super) fn evictions(&self) -> BTreeMap<String, u64> {
        self.evictions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Signs what `request` asks for, if it may be signed.
    pub(super) fn sign(&self, request: &Request<'_>) -> Result<Vec<u8>, SignError> {
        let index = usize::from(request.key.0);
        let purpose = self
            .keys
            .get(index)
            .ok_or(SignError::Refused(Refusal::UnknownKey))?;
        let signable = purpose::certificate_verify(purpose.role, request.input)
            .ok_or(SignError::Refused(Refusal::WrongPurpose))?;
        if !purpose.kind.schemes().contains(&request.scheme) {
            return Err(SignError::Refused(Refusal::WrongScheme));
        }
        let live = self.borrow()?;
        let place = live.place;
        match self.sign_in(&live, index, request.scheme, signable) {
            Ok(signature) => {
                self.give_back(Ok(live));
                Ok(signature)
            }
            Err(error) => {
                drop(live);
                self.note_eviction(&error);
                match heal::after(&error, Doing::Signing) {
                    Action::NewSession | Action::Wait => {
                        self.sign_in_new_session(place, index, request.scheme, signable)
                    }
                    Action::ReplaceKeeper | Action::Latch | Action::Refuse => {
                        self.give_back(Err(place));
                        Err(SignError::Lost(error))
                    }
                }
            }
        }
    }

    fn sign_in(
        &self,
        live: &Live,
        index: usize,
        scheme: Scheme,
        signable: purpose::Signable<'_>,
    ) -> Result<Vec<u8>, TokenError> {
        let _inside = self.calls.enter(live.place.0);
        let signature = live
            .session
            .sign(&live.keys[index], scheme, signable.as_bytes())?;
        self.signatures.fetch_add(1, Ordering::Relaxed);
        Ok(signature)
    }

    fn sign_in_new_session(
        &self,
        place: Place,
        index: usize,
        scheme: Scheme,
        signable: purpose::Signable<'_>,
    ) -> Result<Vec<u8>, SignError> {
        let again = self
            .open_session(place)
            .and_then(|live| Ok((self.sign_in(&live, index, scheme, signable)?, live)));
        match again {
            Ok((signature, live)) => {
                self.give_back(Ok(live));
                Ok(signature)
            }
            Err(error) => {
                self.note_eviction(&error);
                self.give_back(Err(place));
                Err(fate(error))
            }
        }
    }

    /// Opens a session and finds every key in it again. A key that is not the one that was checked
    /// at start is no key of ours.
    fn open_session(&self, place: Place) -> Result<Live, TokenError> {
        let _inside = self.calls.enter(place.0);
        self.find_keys(place, self.token.session()?)
    }

    fn find_keys(&self, place: Place, session: Session) -> Result<Live, TokenError> {
        let mut keys = Vec::with_capacity(self.keys.len());
        for purpose in &self.keys {
            let key = session.locate(&purpose.uri)?;
            if key.spki_der() != purpose.spki {
                return Err(TokenError::KeyUnusable {
                    key: purpose.uri.to_string(),
                    problem: "another key has taken its place".into(),
                });
            }
            keys.push(key);
        }
        Ok(Live {
            place,
            session,
            keys,
        })
    }

    fn borrow(&self) -> Result<Live, SignError> {
        match self.take()? {
            Ok(live) => Ok(live),
            Err(place) => self.open_session(place).map_err(|error| {
                self.note_eviction(&error);
                self.give_back(Err(place));
                fate(error)
            }),
        }
    }

    /// A session, or the place of one that is to be opened: first come first served.
    fn take(&self) -> Result<Result<Live, Place>, SignError> {
        let refused = Err(SignError::Refused(Refusal::Token));
        let mut pool = self.pool();
        let ours = pool.next;
        pool.next += 1;
        pool.waiting.push_back(ours);
        let until = Instant::now() + SESSION_WAIT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if pool.closed || left.is_zero() {
                pool.waiting.retain(|waiting| *waiting != ours);
                self.wake(pool);
                return refused;
            }
            if pool.waiting.front() == Some(&ours)
                && let Some(taken) = pool.spare()
            {
                pool.waiting.pop_front();
                pool.borrowed += 1;
                self.wake(pool);
                return Ok(taken);
            }
            (pool, _) = self
                .returned
                .wait_timeout(pool, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts a session back, or the place of one that was closed after an error.
    fn give_back(&self, session: Result<Live, Place>) {
        let mut pool = self.pool();
        pool.borrowed -= 1;
        match session {
            Ok(live) => pool.idle.push(live),
            Err(place) => pool.vacant.push(place),
        }
        self.wake(pool);
    }

    /// Lets those who wait look whose turn it is; they are few.
    fn wake(&self, pool: MutexGuard<'_, Pool>) {
        let spare = !pool.idle.is_empty() || !pool.vacant.is_empty();
        let wanted = pool.closed || (spare && !pool.waiting.is_empty());
        drop(pool);
        // Waking nobody is a system call too.
        if wanted {
            self.returned.notify_all();
        }
    }

    fn note_eviction(&self, error: &TokenError) {
        let code = error
            .code()
            .map_or_else(|| "other".to_owned(), |code| code.to_string());
        tracing::warn!(%error, "session closed after an error");
        let mut evictions = self
            .evictions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *evictions.entry(code).or_default() += 1;
    }

    /// One signature with each key, verified, in a session of its own that is kept in `kept`
    /// between probes, or in one of the pool's when the token gives no more.
    pub(super) fn probe(&self, kept: &mut Option<Probing>) -> Result<(), SignError> {
        {
            let mut pool = self.pool();
            if pool.closed {
                return Err(SignError::Refused(Refusal::Token));
            }
            pool.inside += 1;
        }
        let outcome = self.probe_somewhere(kept);
        if outcome.is_err() {
            *kept = None;
        }
        self.pool().inside -= 1;
        self.returned.notify_all();
        outcome
    }

    fn probe_somewhere(&self, kept: &mut Option<Probing>) -> Result<(), SignError> {
        let place = Place(self.calls.last());
        let probing = match kept.take() {
            Some(probing) => probing,
            None => match self.open_session(place) {
                Ok(live) => Probing(live),
                Err(error) => match fate(error) {
                    SignError::Token(_) => return self.probe_in_pool(),
                    lost => return Err(lost),
                },
            },
        };
        self.probe_in(&probing.0).map_err(SignError::Token)?;
        *kept = Some(probing);
        Ok(())
    }

    fn probe_in_pool(&self) -> Result<(), SignError> {
        let live = self.borrow()?;
        let outcome = self.probe_in(&live);
        let place = live.place;
        self.give_back(if outcome.is_ok() {
            Ok(live)
        } else {
            Err(place)
        });
        outcome.map_err(SignError::Token)
    }

    fn probe_in(&self, live: &Live) -> Result<(), TokenError> {
        for (index, purpose) in self.keys.iter().enumerate() {
            let mut nonce = [0; 32];
            aws_lc_rs::rand::fill(&mut nonce)
                .expect("the system's random numbers never fail after boot");
            let input = purpose::probe(purpose.role, nonce);
            let scheme = purpose.kind.schemes()[0];
            let signable = purpose::certificate_verify(purpose.role, &input)
                .expect("a probe is a CertificateVerify input for its role");
            let signature = self.sign_in(live, index, scheme, signable)?;
            token::verify(&purpose.spki, scheme, &input, &signature).map_err(|error| {
                TokenError::KeyUnusable {
                    key: purpose.uri.to_string(),
                    problem: format!("a signature it made does not verify: {error}"),
                }
            })?;
        }
        Ok(())
    }

    /// Waits for running signatures and closes every session: a module must not be ended while a
    /// thread is inside it (SoftHSM crashes).
    pub(super) fn close(&self) {
        let mut pool = self.pool();
        pool.closed = true;
        self.returned.notify_all();
        while pool.borrowed + pool.inside > 0 {
            pool = self
                .returned
                .wait(pool)
                .unwrap_or_else(PoisonError::into_inner);
        }
        pool.idle.clear();
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// A session that nobody uses, or a place for one.
    fn spare(&mut self) -> Option<Result<Live, Place>> {
        let idle = self.idle.pop().map(Ok);
        idle.or_else(|| self.vacant.pop().map(Err))
    }
}

/// The health probe's own session.
pub(super) struct Probing(Live);

/// What a failure in a new session means.
fn fate(error: TokenError) -> SignError {
    match heal::after(&error, Doing::Reopening) {
        Action::ReplaceKeeper | Action::Latch => SignError::Lost(error),
        Action::NewSession | Action::Wait | Action::Refuse => SignError::Token(error),
    }
}
