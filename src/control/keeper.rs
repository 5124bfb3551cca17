//! Supervisor and keeper.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::TokenConfig;
use crate::fault::Fault;
use crate::role::TlsRole;
use crate::sandbox;
use crate::secret::PinKind;
use crate::telemetry::LogSetup;
use crate::token::{KeyEvidence, KeyKind};

/// To a keeper. The setup comes first, with descriptors: the PIN's, then one for each channel.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToKeeper {
    Setup(Box<KeeperSetup>),
    /// How are you.
    Poll,
    /// Let running signatures end, then exit.
    Stop,
    #[cfg(feature = "attack-trigger")]
    Attack(sandbox::attack::Attack),
}

/// What a keeper is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeeperSetup {
    pub(crate) log: LogSetup,
    /// Where the token stands in the configuration (`token[0]`).
    pub(crate) place: String,
    pub(crate) module: PathBuf,
    /// RFC 7512 URI of the token.
    pub(crate) token: String,
    pub(crate) pin: PinKind,
    /// Whether an operator asked for this start, or types the PIN; if not, a token that remembers a wrong PIN
    /// is not logged in to.
    pub(crate) attended: bool,
    /// Whether the token took a PIN of ours, and has answered nothing since that may mean a wrong one.
    pub(crate) trusted: bool,
    /// Sessions to hold; at most one for each channel.
    pub(crate) sessions: usize,
    /// Milliseconds between two health probes, at most.
    pub(crate) probe_ms: u64,
    /// In the order of their [`crate::keeper::message::KeyIndex`].
    pub(crate) keys: Vec<KeySetup>,
    /// What it may still open, beside what we know of its module.
    #[serde(default)]
    pub(crate) files: Vec<PathBuf>,
    /// TCP ports that it may connect to.
    pub(crate) ports: BTreeSet<u16>,
    /// The administrator's own, instead of the one for its token.
    pub(crate) profile: Option<sandbox::OwnProfile>,
}

impl KeeperSetup {
    /// For the keeper of `token`: for a start that an operator asked for, of a token that took no PIN of ours yet.
    pub(crate) fn of(token: &TokenConfig, pin: PinKind, log: LogSetup) -> Self {
        let keys = token.keys.iter().map(|key| KeySetup {
            place: format!("{}.{}.key", token.place, key.role),
            role: key.role,
            uri: key.uri.to_string(),
            spki: key.spki.clone(),
        });
        Self {
            log,
            place: token.place.clone(),
            module: token.module.clone(),
            token: token.uri.to_string(),
            pin,
            attended: true,
            trusted: false,
            sessions: usize::from(token.sessions),
            probe_ms: token.probe_ms,
            keys: keys.collect(),
            files: token.files.clone(),
            ports: token.ports.clone(),
            profile: token.profile.clone(),
        }
    }
}

/// One key and what it is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeySetup {
    /// Where it stands in the configuration (`token[0].server.key`).
    pub(crate) place: String,
    pub(crate) role: TlsRole,
    /// RFC 7512 URI of the key, within the token.
    pub(crate) uri: String,
    /// SubjectPublicKeyInfo of its certificate, DER: the key must match it.
    pub(crate) spki: Vec<u8>,
}

/// From a keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromKeeper {
    /// It has its PIN: nobody types any more.
    HasPin,
    /// It is about to log in.
    LoggingIn,
    /// The token has taken it.
    LoggedIn,
    /// Logged in, every key checked.
    Ready(Box<KeeperReady>),
    /// It will not serve.
    Refused { faults: Vec<Fault>, retry: Retry },
    /// The answer to a poll.
    Vitals(Box<Vitals>),
    /// The token no longer answers in this process: a new keeper is needed.
    /// `latch`: a further login by itself could lock the PIN.
    TokenLost {
        reason: String,
        latch: bool,
        /// What it has counted since the last poll too.
        last: Box<Vitals>,
    },
}

/// Whether a login is tried again by itself, the shyer the higher.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Retry {
    /// What failed says nothing about the PIN.
    #[default]
    Freely,
    /// It may mean that the PIN is wrong, which the token took before: once more.
    Once,
    /// A further try could lock the PIN.
    Never,
}

/// How a keeper is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Vitals {
    /// How long the longest call into the module has been under way.
    pub(crate) longest_call: Duration,
    /// Sessions open.
    pub(crate) sessions: usize,
    /// Signatures made since it started.
    pub(crate) signatures: u64,
    /// Requests refused since it started.
    pub(crate) refusals: u64,
    /// Sessions closed after an error, by return code.
    pub(crate) evictions: BTreeMap<String, u64>,
    /// Why the token's health is bad; `None` when it is good.
    pub(crate) trouble: Option<String>,
}

/// What a keeper found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeeperReady {
    pub(crate) label: String,
    pub(crate) serial: String,
    pub(crate) manufacturer: String,
    pub(crate) model: String,
    /// Sessions open.
    pub(crate) sessions: usize,
    pub(crate) keys: Vec<KeyReady>,
    /// How it is confined.
    pub(crate) sandbox: sandbox::Report,
}

/// One key that passed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeyReady {
    pub(crate) kind: KeyKind,
    /// SubjectPublicKeyInfo as the token tells it, DER.
    pub(crate) spki: Vec<u8>,
    pub(crate) evidence: KeyEvidence,
}
