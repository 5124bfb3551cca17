//! The open token: logged in, every key checked, a pool of sessions to sign with.
//!
//! One session is used by one thread at a time (SoftHSM crashes otherwise), and is closed after any
//! error (a failed C_Sign leaves many modules with an operation that never ends). What follows an error
//! stands in one table, [`heal`], for handshakes and for probes alike. Every call into the module, the
//! closing of a session included, is one that the supervisor can see: [`Calls`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::calls::Calls;
use super::message::{Refusal, Request};
use super::open::Purpose;
use super::pool::{Place, Pool, Taken};
use super::purpose;
use crate::token::heal::{self, Action, Doing};
use crate::token::{self, Key, Scheme, Session, Token, TokenError};

/// The token of one keeper.
pub(super) struct Vault {
    token: Token,
    keys: Vec<Purpose>,
    pool: Pool<Live>,
    /// The health probe's own session, between two probes: the first that a pool short of them gets.
    probing: Mutex<Option<Live>>,
    pub(super) calls: Calls,
    signatures: AtomicU64,
    /// The last signature that was verified is wrong.
    doubted: AtomicBool,
    evictions: Mutex<BTreeMap<String, u64>>,
    /// Since when nothing but [`Action::Wait`] follows in the pool; what the probe's own session does says
    /// nothing of that.
    waiting_since: Mutex<Option<Instant>>,
}

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

/// One in so many signatures is verified before it is given out, as each is one more verification in a handshake; a
/// token that signs wrongly is found out within so many, where it can be probed at once.
const VERIFIED: u64 = 16;
/// How long a request waits for a session before it is the node's to decide.
const SESSION_WAIT: Duration = Duration::from_secs(30);

impl Vault {
    /// A vault over a token that is logged in and whose keys were checked, as `found`, in `session`, with
    /// at most `wanted` sessions, that one included.
    pub(super) fn new(
        token: Token,
        session: Session,
        (keys, found): (Vec<Purpose>, Vec<Key>),
        wanted: usize,
    ) -> Self {
        let mut vault = Self {
            token,
            keys,
            pool: Pool::new(Vec::new(), Vec::new()),
            probing: Mutex::default(),
            // One more for the health probe.
            calls: Calls::new(wanted + 1),
            signatures: AtomicU64::new(0),
            doubted: AtomicBool::new(false),
            evictions: Mutex::default(),
            waiting_since: Mutex::default(),
        };
        let mut idle = vec![Live {
            place: Place(0),
            session,
            keys: found,
        }];
        while idle.len() < wanted {
            match vault.open_session(Place(idle.len())) {
                Ok(live) => idle.push(live),
                Err(error) => {
                    tracing::warn!(%error, wanted, sessions = idle.len(), "the token gives fewer sessions than configured");
                    break;
                }
            }
        }
        let vacant = (idle.len()..wanted).map(Place).collect();
        vault.pool = Pool::new(idle, vacant);
        vault
    }

    /// Sessions that exist, in use or not.
    pub(super) fn sessions(&self) -> usize {
        self.pool.sessions()
    }

    /// Signatures made.
    pub(super) fn signatures(&self) -> u64 {
        self.signatures.load(Ordering::Relaxed)
    }

    /// Sessions closed after an error, by return code.
    pub(super) fn evictions(&self) -> BTreeMap<String, u64> {
        locked(&self.evictions).clone()
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
        self.in_pool(|live| self.sign_for_request(live, index, request.scheme, signable))
    }

    /// Does `work` in one of the pool's sessions, and once more where the table says so.
    fn in_pool<T>(&self, work: impl Fn(&Live) -> Result<T, TokenError>) -> Result<T, SignError> {
        let until = Instant::now() + SESSION_WAIT;
        let live = self.borrow(until)?;
        let error = match work(&live) {
            Ok(done) => return Ok(self.done(live, done)),
            Err(error) => error,
        };
        let action = heal::after(&error, live.doing());
        let place = self.evict(live, &error);
        if !matches!(action, Action::NewSession | Action::Wait) {
            self.pool.vacate(place);
            return Err(SignError::Lost(error));
        }
        let live = self.renew(place, until)?;
        match work(&live) {
            Ok(done) => Ok(self.done(live, done)),
            Err(error) => {
                let place = self.evict(live, &error);
                self.pool.vacate(place);
                Err(self.fate(error))
            }
        }
    }

    /// What was `done` in a session of the pool, which goes back.
    fn done<T>(&self, live: Live, done: T) -> T {
        self.pool.put(live);
        *locked(&self.waiting_since) = None;
        done
    }

    /// A signature that is verified when its turn has come, or when the last one that was did not pass.
    fn sign_for_request(
        &self,
        live: &Live,
        index: usize,
        scheme: Scheme,
        signable: purpose::Signable<'_>,
    ) -> Result<Vec<u8>, TokenError> {
        let signature = self.sign_in(live, index, scheme, signable)?;
        if self.doubted.load(Ordering::Relaxed) || self.signatures().is_multiple_of(VERIFIED) {
            let verdict = self.verify(index, scheme, signable, &signature);
            self.doubted.store(verdict.is_err(), Ordering::Relaxed);
            verdict?;
        }
        Ok(signature)
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

    fn borrow(&self, until: Instant) -> Result<Live, SignError> {
        match self.pool.take(until) {
            Some(Taken::Session(live)) => Ok(live),
            Some(Taken::Vacant(place)) => self.renew(place, until),
            None => Err(SignError::Refused(Refusal::Token)),
        }
    }

    /// Opens a session in `place`; where the token has none to spare, takes the probe's, or waits for another.
    fn renew(&self, place: Place, until: Instant) -> Result<Live, SignError> {
        let error = match self.open_session(place) {
            Ok(live) => return Ok(live),
            Err(error) => error,
        };
        self.note_eviction(&error);
        if heal::after(&error, Doing::Reopening) != Action::Wait {
            self.pool.vacate(place);
            return Err(self.fate(error));
        }
        let probes = locked(&self.probing).take();
        if let Some(live) = probes {
            return Ok(Live { place, ..live });
        }
        match self.pool.is_short(place) {
            true => self.borrow(until),
            false => Err(self.fate(error)),
        }
    }

    /// Opens a session and finds every key in it again. A key that is not the one that was checked
    /// at start is no key of ours.
    fn open_session(&self, place: Place) -> Result<Live, TokenError> {
        let inside = self.calls.enter(place.0);
        let session = self.token.session()?;
        drop(inside);
        let mut live = Live {
            place,
            session,
            keys: Vec::with_capacity(self.keys.len()),
        };
        for purpose in &self.keys {
            let inside = self.calls.enter(place.0);
            let key = live.session.locate(&purpose.uri);
            drop(inside);
            match key {
                Ok(key) if key.spki_der() == purpose.spki => live.keys.push(key),
                other => {
                    self.close_session(live);
                    return Err(other.err().unwrap_or_else(|| TokenError::KeyUnusable {
                        key: purpose.uri.to_string(),
                        problem: "another key has taken its place".into(),
                    }));
                }
            }
        }
        Ok(live)
    }

    /// Closes a session after an error; its place is left.
    fn evict(&self, live: Live, error: &TokenError) -> Place {
        self.note_eviction(error);
        self.close_session(live)
    }

    fn close_session(&self, live: Live) -> Place {
        let place = live.place;
        let _inside = self.calls.enter(place.0);
        drop(live);
        place
    }

    fn note_eviction(&self, error: &TokenError) {
        let code = error
            .code()
            .map_or_else(|| "other".to_owned(), |code| code.to_string());
        tracing::warn!(%error, "session closed after an error");
        *locked(&self.evictions).entry(code).or_default() += 1;
    }

    /// What a failure in a new session means.
    fn fate(&self, error: TokenError) -> SignError {
        match heal::after(&error, Doing::Reopening) {
            Action::Wait => {
                let mut since = locked(&self.waiting_since);
                match since.get_or_insert_with(Instant::now).elapsed() {
                    waited if waited > heal::PATIENCE => SignError::Lost(error),
                    _ => SignError::Token(error),
                }
            }
            Action::NewSession | Action::Refuse => SignError::Token(error),
            Action::Restart | Action::ReplaceKeeper | Action::Latch => SignError::Lost(error),
        }
    }

    /// One signature with each key, verified, in a session of its own that is kept between probes, or
    /// in one of the pool's when the token gives no more, or as long as requests may wait there in vain.
    pub(super) fn probe(&self) -> Result<(), SignError> {
        let _visit = self
            .pool
            .visit()
            .ok_or(SignError::Refused(Refusal::Token))?;
        if locked(&self.waiting_since).is_some() {
            return self.in_pool(|live| self.probe_in(live));
        }
        let kept = locked(&self.probing).take();
        let kept = self.probe_somewhere(kept)?;
        *locked(&self.probing) = kept;
        Ok(())
    }

    /// Closes the probe's own session: the next probe opens another.
    pub(super) fn forget_probe(&self) {
        let kept = locked(&self.probing).take();
        kept.map(|live| self.close_session(live));
    }

    fn probe_somewhere(&self, kept: Option<Live>) -> Result<Option<Live>, SignError> {
        if let Some(live) = kept {
            let Err(error) = self.probe_in(&live) else {
                return Ok(Some(live));
            };
            let action = heal::after(&error, live.doing());
            self.evict(live, &error);
            if !matches!(action, Action::NewSession | Action::Wait) {
                return Err(SignError::Lost(error));
            }
        }
        match self.open_session(Place(self.calls.last())) {
            Ok(live) => match self.probe_in(&live) {
                Ok(()) => Ok(Some(live)),
                Err(error) => {
                    self.evict(live, &error);
                    Err(self.fate(error))
                }
            },
            // As ever with a token of few sessions.
            Err(error) if heal::after(&error, Doing::Reopening) == Action::Wait => {
                self.in_pool(|live| self.probe_in(live)).map(|()| None)
            }
            Err(error) => {
                self.note_eviction(&error);
                Err(self.fate(error))
            }
        }
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
            self.verify(index, scheme, signable, &signature)?;
        }
        Ok(())
    }

    fn verify(
        &self,
        index: usize,
        scheme: Scheme,
        signable: purpose::Signable<'_>,
        signature: &[u8],
    ) -> Result<(), TokenError> {
        let Purpose { spki, uri, .. } = &self.keys[index];
        token::verify(spki, scheme, signable.as_bytes(), signature).map_err(|error| {
            TokenError::Answer {
                doing: "verifying a signature",
                problem: format!("a signature made with {uri} does not verify: {error}"),
            }
        })
    }

    /// Lets running signatures end, closes every session and ends the module: not while a thread is
    /// inside it (SoftHSM crashes). False when one still was after `patience`, and nothing was ended.
    pub(super) fn close(&self, patience: Duration) -> bool {
        let Some(idle) = self.pool.close(patience) else {
            return false;
        };
        self.forget_probe();
        for live in idle {
            self.close_session(live);
        }
        if let Err(error) = self.token.end() {
            tracing::warn!(%error, "the module was not ended in order");
        }
        true
    }
}

impl Live {
    /// The column of the table for an error in this session.
    fn doing(&self) -> Doing {
        if self.session.holds_login() {
            Doing::SigningInTheLogin
        } else {
            Doing::Signing
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
