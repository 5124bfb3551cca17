//! `[[token]]`: a token, its module and the keys in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::certificate::{self, OwnChain};
use super::files::Privacy;
use super::spec::{KeySpec, TokenSpec};
use super::{Aim, Reader};
use toml::Spanned;

use crate::fault::Fault;
use crate::policy::{PeerId, SpkiPin};
use crate::role::TlsRole;
use crate::sandbox::{OwnProfile, Role, User};
use crate::secret::PinSource;
use crate::tls::TrustAnchors;
use crate::token::{KeyUri, TokenUri};

/// Sessions of a token when the configuration does not say.
const SESSIONS: u8 = 4;
/// Milliseconds between two health probes when the configuration does not say: idle time-outs of HSMs are
/// minutes.
const PROBE_MS: u64 = 10_000;
/// Not so often that probes are a load, and often enough that a token without handshakes is known.
const PROBE_RANGE: RangeInclusive<u64> = 100..=3_600_000;
/// More sessions than any HSM we know gives to one client.
const SESSIONS_RANGE: RangeInclusive<u8> = 1..=64;
/// One token and the keys in it.
#[derive(Clone, Debug)]
pub(crate) struct TokenConfig {
    /// `token[0]` for the first.
    pub(crate) place: String,
    pub(crate) module: PathBuf,
    pub(crate) uri: TokenUri,
    pub(crate) pin: PinSource,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) sessions: u8,
    /// Milliseconds between two health probes, at most.
    pub(crate) probe_ms: u64,
    /// The server key, then the client key.
    pub(crate) keys: Vec<KeyConfig>,
    /// Files and folders that its keeper may still read once it is sealed, beside what we know of its module.
    pub(crate) files: Vec<PathBuf>,
    /// TCP ports that its keeper may connect to.
    pub(crate) ports: BTreeSet<u16>,
    /// The user that its keeper runs as.
    pub(crate) user: Option<User>,
    /// The administrator's profile for its keeper.
    pub(crate) profile: Option<OwnProfile>,
}

impl TokenConfig {
    /// Whether `self` asks for the same token and the same keys as `other`.
    pub(crate) fn same_keys(&self, other: &Self) -> bool {
        self.module == other.module
            && self.uri == other.uri
            && self.pin == other.pin
            && self.environment == other.environment
            && self.sessions == other.sessions
            && self.probe_ms == other.probe_ms
            && self.files == other.files
            && self.ports == other.ports
            && self.user == other.user
            && self.profile == other.profile
            && self.keys.len() == other.keys.len()
            && self
                .keys
                .iter()
                .zip(&other.keys)
                .all(|(a, b)| a.role == b.role && a.uri == b.uri && a.spki == b.spki)
    }
}

/// One key, its purpose and its certificate chain.
#[derive(Clone, Debug)]
pub(crate) struct KeyConfig {
    pub(crate) role: TlsRole,
    pub(crate) uri: KeyUri,
    /// PEM text, end entity first.
    pub(crate) chain: String,
    /// SubjectPublicKeyInfo of the end entity, DER.
    pub(crate) spki: Vec<u8>,
    pub(crate) pin: SpkiPin,
    /// RFC 3339
    pub(crate) not_after: String,
}

impl Reader<'_> {
    pub(super) fn token(
        &mut self,
        index: usize,
        spec: TokenSpec,
        id: Option<&PeerId>,
        trust_anchors: Option<&TrustAnchors>,
    ) -> Option<TokenConfig> {
        let place = format!("token[{index}]");
        let shown = spec.module.get_ref().display().to_string();
        if !spec.module.get_ref().is_absolute() {
            self.fault(
                &spec.module,
                Fault::new(
                    format!("{place}.module"),
                    "is not an absolute path",
                    "such as /usr/lib/softhsm/libsofthsm2.so",
                ),
            );
        } else if self.aim != Aim::Reload && !spec.module.get_ref().is_file() {
            let problem = match spec.module.get_ref().exists() {
                true => format!("{shown} is not a file"),
                false => format!("{shown} is not there"),
            };
            self.fault(&spec.module, Fault::new(
                format!("{place}.module"),
                problem,
                "install the module, or name its path: SoftHSM's is /usr/lib/softhsm/libsofthsm2.so",
            ));
        }
        let uri = self.parse::<TokenUri>(
            &spec.uri,
            &format!("{place}.uri"),
            "such as pkcs11:token=node-a;serial=0123456789abcdef",
        );
        let pin = self.parse::<PinSource>(
            &spec.pin,
            &format!("{place}.pin"),
            "file:PATH, fd:N, credential:NAME or prompt",
        );
        let pin = pin.map(|source| source.relative_to(self.folder));
        let opened = pin.as_ref().filter(|_| self.aim == Aim::Start);
        if let Some(Err(error)) = opened.map(PinSource::open) {
            self.fault(
                &spec.pin,
                Fault::new(format!("{place}.pin"), error.to_string(), error.mend()),
            );
        }
        let key = format!("{place}.sessions");
        let sessions = self.within(spec.sessions.as_ref(), SESSIONS, SESSIONS_RANGE, key);
        let key = format!("{place}.probe_ms");
        let probe_ms = self.within(spec.probe_ms.as_ref(), PROBE_MS, PROBE_RANGE, key);
        let mut keys = Vec::new();
        for (role, key) in [
            (TlsRole::Server, &spec.server),
            (TlsRole::Client, &spec.client),
        ] {
            keys.extend(self.key(&place, role, key.get_ref(), uri.as_ref(), id, trust_anchors));
        }
        if let [server, client] = keys.as_slice()
            && server.spki == client.spki
        {
            self.fault(&spec.client, Fault::new(
                format!("{place}.client"),
                "server and client certificate have the same key",
                "a key has one purpose: make a second one with `fastness token keygen --purpose client`",
            ));
        }
        let environment = self.environment(spec.environment, &format!("{place}.environment"));
        let files = self.token_files(&spec.files, &format!("{place}.files"));
        let ports = self.ports(&spec.ports, &format!("{place}.ports"), 1792);
        let user = self.user(spec.user.as_ref(), &format!("{place}.user"));
        let profile = self.own_profile(
            Role::Keeper,
            spec.profile.as_ref(),
            &format!("{place}.profile"),
        );
        Some(TokenConfig {
            place,
            files,
            ports,
            user,
            profile,
            module: spec.module.into_inner(),
            uri: uri?,
            pin: pin?,
            environment,
            sessions,
            probe_ms,
            keys,
        })
    }

    /// The stated number, or `default`, which also takes the place of one that is out of `range`.
    fn within<T: TryFrom<i64> + PartialOrd + Display>(
        &mut self,
        stated: Option<&Spanned<i64>>,
        default: T,
        range: RangeInclusive<T>,
        key: String,
    ) -> T {
        let Some(stated) = stated else {
            return default;
        };
        match T::try_from(*stated.get_ref()) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let (least, most) = range.into_inner();
                let mend = format!("from {least} to {most}; {default} is the default");
                self.fault(stated, Fault::new(key, "out of range", mend));
                default
            }
        }
    }

    fn key(
        &mut self,
        place: &str,
        role: TlsRole,
        spec: &KeySpec,
        token: Option<&TokenUri>,
        id: Option<&PeerId>,
        trust_anchors: Option<&TrustAnchors>,
    ) -> Option<KeyConfig> {
        let key = format!("{place}.{role}.key");
        let uri = self.parse::<KeyUri>(&spec.key, &key, &format!("such as pkcs11:object={role}"));
        let uri = match (uri, token) {
            (Some(uri), Some(token)) => match uri.within(token) {
                Ok(uri) => Some(uri),
                Err(error) => {
                    self.fault(
                        &spec.key,
                        Fault::new(
                            &*key,
                            error.to_string(),
                            "leave the token out of the key's URI",
                        ),
                    );
                    None
                }
            },
            _ => None,
        };
        if self.aim == Aim::Show {
            return None;
        }
        let certificate = format!("{place}.{role}.certificate");
        let chain = self.read(&spec.certificate, Privacy::Public, &certificate)?;
        match certificate::check(&chain, role, id, trust_anchors, self.now, &certificate) {
            Ok(OwnChain {
                spki,
                pin,
                not_after,
            }) => Some(KeyConfig {
                role,
                uri: uri?,
                chain,
                spki,
                pin,
                not_after,
            }),
            Err(faults) => {
                for fault in faults {
                    self.fault(&spec.certificate, fault);
                }
                None
            }
        }
    }
}
