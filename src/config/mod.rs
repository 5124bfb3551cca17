//! `node.toml` and the files it names: a `Spec` is what they say, a [`Config`] is what we trust,
//! valid by construction. Every fault is reported at once, with its key, its line and the mend.

mod application;
mod certificate;
mod files;
mod limits;
#[cfg(test)]
mod sample;
mod sandbox;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use toml::Spanned;

use crate::fault::Fault;
use crate::policy::{PeerId, PeerPolicy, ResolvedHosts, SpkiPin};
use crate::role::TlsRole;
use crate::sandbox::{OwnProfile, Role, User};
use crate::secret::PinSource;
use crate::telemetry::LogSetup;
use crate::tls::TrustAnchors;
use crate::token::{KeyUri, TokenUri};
use crate::toml_faults;

#[cfg(test)]
pub(crate) use application::Egress;
pub(crate) use application::{Application, Kind, Mode, Place};
pub use limits::Limits;
pub(crate) use limits::{size, size32};
pub(crate) use sandbox::NodeSandbox;

use application::ApplicationSpec;
use certificate::OwnChain;
use files::Privacy;
use spec::{KeySpec, Spec, TokenSpec};

/// Sessions of a token when the configuration does not say.
const SESSIONS: u8 = 4;
/// Milliseconds between two health probes when the configuration does not say: idle time-outs of HSMs are
/// minutes.
const PROBE_MS: u64 = 10_000;
/// Not so often that probes are a load, and often enough that a token without handshakes is known.
const PROBE_RANGE: std::ops::RangeInclusive<u64> = 100..=3_600_000;
/// More sessions than any HSM we know gives to one client.
const MOST_SESSIONS: u8 = 64;
/// Tokens of one identity: the first and its replacements.
const MOST_TOKENS: usize = 8;
/// In the place of an identity that is faulty, as long as the rest is looked at.
const NOBODY: &str = "spiffe://nobody.invalid/faulty";
/// One more than this and somebody makes a mistake.
const MOST_LISTENERS: usize = 16;

/// A node's configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) file: PathBuf,
    pub(crate) id: PeerId,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) admin: PathBuf,
    /// A loopback address.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) application: Option<Application>,
    pub(crate) tokens: Vec<TokenConfig>,
    /// PEM text.
    pub(crate) trust_anchors: String,
    /// The peer policy's text, checked.
    pub(crate) peers: String,
    /// The TCP ports of the addresses in it.
    pub(crate) peer_ports: BTreeSet<u16>,
    /// Addresses found for the host names in it.
    pub(crate) resolved: ResolvedHosts,
    pub(crate) limits: Limits,
    pub(crate) log: LogSetup,
    /// The administrator's profile for the supervisor.
    pub(crate) profile: Option<OwnProfile>,
    pub(crate) node: NodeSandbox,
}

/// One token and the keys in it.
#[derive(Clone, Debug)]
pub(crate) struct TokenConfig {
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

impl Config {
    /// Reads and checks `file` and every file that it names.
    ///
    /// # Errors
    /// Every fault found.
    pub fn load(file: &Path) -> Result<Self, Vec<Fault>> {
        match Self::read(file) {
            (Some(config), faults) if faults.is_empty() => Ok(config),
            (_, faults) => Err(faults),
        }
    }

    /// The faults of `file` and of every file that it names, and what can be tried all the same: its
    /// sockets, and its tokens before the first that has a fault beside its keys. For `check` alone: what
    /// is faulty is left out, or has something in its place.
    pub(crate) fn load_to_try(file: &Path) -> (Option<Self>, Vec<Fault>) {
        let (config, faults) = Self::read(file);
        let config = config.and_then(|config| config.that_can_be_tried(&faults));
        (config, faults)
    }

    fn that_can_be_tried(mut self, faults: &[Fault]) -> Option<Self> {
        // Nothing is started as somebody whom nobody named.
        if faults.iter().any(|fault| fault.key.starts_with("sandbox.")) {
            return None;
        }
        let sound = |index: &usize| {
            let place = format!("token[{index}].");
            let of_token = |fault: &&Fault| {
                let inside = fault.key.strip_prefix(&place);
                inside.is_some_and(|key| !key.starts_with("server") && !key.starts_with("client"))
            };
            !faults.iter().any(|fault| of_token(&fault))
        };
        let sound = (0..self.tokens.len()).take_while(sound).count();
        self.tokens.truncate(sound);
        Some(self)
    }

    /// What `file` says, with something in place of what is faulty, and every fault.
    fn read(file: &Path) -> (Option<Self>, Vec<Fault>) {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let shown = file.display().to_string();
        let in_file = |fault: Fault| fault.in_file(&*shown);
        let mut faults = Vec::new();
        let text = match files::read(&file, Privacy::Private, "", &mut faults) {
            Ok(text) => text,
            Err(fault) => return (None, vec![in_file(fault)]),
        };
        let spec = toml_faults::parse_collecting::<Spec>(&text, &shown, &mut faults);
        let mut reader = Reader {
            text: &text,
            folder: file.parent().unwrap_or(Path::new("/")),
            now: SystemTime::now(),
            faults,
        };
        let config = spec.map(|spec| reader.config(spec, file.clone()));
        (config, reader.faults.into_iter().map(in_file).collect())
    }
}

impl Config {
    /// The admin socket that `file` names, without checking the rest of it.
    pub(crate) fn admin_socket(file: &Path) -> Result<PathBuf, Vec<Fault>> {
        #[derive(serde::Deserialize)]
        struct Spec {
            admin: Option<PathBuf>,
        }
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let shown = file.display().to_string();
        // Only the socket's place is wanted here; `check` says what is wrong with the file.
        let text = files::read(&file, Privacy::Private, "", &mut Vec::new())
            .map_err(|fault| vec![fault.in_file(&*shown)])?;
        let spec: Spec = toml_faults::parse(&text, &shown)?;
        let folder = file.parent().unwrap_or(Path::new("/"));
        Ok(folder.join(spec.admin.unwrap_or_else(|| "admin.sock".into())))
    }
}

/// Turns a `Spec` into a [`Config`], collecting faults on the way.
struct Reader<'a> {
    text: &'a str,
    /// Relative paths start here.
    folder: &'a Path,
    now: SystemTime,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn config(&mut self, spec: Spec, file: PathBuf) -> Config {
        let id = self.parse::<PeerId>(&spec.id, "id", "such as spiffe://mesh.example/node/a");
        let listen = self.listen(&spec.listen);
        let trust_anchors = self.read(&spec.trust_anchors, Privacy::Public, "trust_anchors");
        let anchors = trust_anchors
            .as_deref()
            .and_then(|pem| match TrustAnchors::from_pem(pem) {
                Ok(anchors) => Some(anchors),
                Err(error) => {
                    self.fault(
                        &spec.trust_anchors,
                        Fault::new(
                            "trust_anchors",
                            error.to_string(),
                            "name a PEM file of root certificates",
                        ),
                    );
                    None
                }
            });
        let peers = self.peers(&spec.peers);
        let mut limit_faults = Vec::new();
        let limits = spec
            .limits
            .resolve(|offset, fault| limit_faults.push((offset, fault)));
        for (offset, fault) in limit_faults {
            self.fault_at(offset, fault);
        }
        let mut tokens = Vec::new();
        match spec.token.as_slice() {
            [] => self.faults.push(Fault::new(
                "token",
                "is missing",
                "add a [[token]] with module, uri, pin, server and client",
            )),
            tokens if tokens.len() > MOST_TOKENS => self.fault(
                &tokens[MOST_TOKENS],
                Fault::new("token", "too many tokens", format!("at most {MOST_TOKENS}")),
            ),
            _ => {}
        }
        for (index, token) in spec.token.into_iter().enumerate() {
            tokens.extend(self.token(index, token.into_inner(), id.as_ref(), anchors.as_ref()));
        }
        let admin = match spec.admin {
            Some(path) => self.folder.join(path.get_ref()),
            None => self.folder.join("admin.sock"),
        };
        let metrics = spec
            .metrics
            .as_ref()
            .and_then(|address| self.metrics(address));
        let profile = self.own_profile(
            Role::Supervisor,
            spec.sandbox.supervisor_profile.as_ref(),
            "sandbox.supervisor_profile",
        );
        let node = self.node_sandbox(&spec.sandbox);
        self.users(&tokens, &node, spec.sandbox.node_user.as_ref());
        // Its places are named by the policy's peers.
        let application = match (spec.application, &peers) {
            (Some(spec), Some((_, policy, _))) => Some(self.application(spec, policy)),
            _ => None,
        };
        let (peers, peer_ports, resolved) = match peers {
            Some((text, policy, resolved)) => {
                self.methods(&policy, application.as_ref(), spec.peers.get_ref());
                (text, policy.ports(), resolved)
            }
            None => Default::default(),
        };
        Config {
            profile,
            node,
            file,
            id: id.unwrap_or_else(|| NOBODY.parse().expect("it is a SPIFFE ID")),
            listen,
            admin,
            metrics,
            application,
            tokens,
            trust_anchors: trust_anchors.unwrap_or_default(),
            peers,
            peer_ports,
            resolved,
            limits,
            log: LogSetup {
                level: spec.log.level.unwrap_or(LogSetup::default().level),
                format: spec.log.format.unwrap_or(LogSetup::default().format),
            },
        }
    }

    fn listen(&mut self, addresses: &Spanned<Vec<Spanned<String>>>) -> Vec<SocketAddr> {
        let mend = "such as \"0.0.0.0:7443\"";
        let count = addresses.get_ref().len();
        if count == 0 || count > MOST_LISTENERS {
            self.fault(
                addresses,
                Fault::new(
                    "listen",
                    format!("names {count} addresses"),
                    format!("one to {MOST_LISTENERS}, {mend}"),
                ),
            );
        }
        let mut found = Vec::new();
        for (index, address) in addresses.get_ref().iter().enumerate() {
            found.extend(self.parse::<SocketAddr>(address, &format!("listen[{index}]"), mend));
        }
        found
    }

    fn metrics(&mut self, address: &Spanned<String>) -> Option<SocketAddr> {
        let mend = "a loopback address, such as \"127.0.0.1:9464\"; from elsewhere, scrape through the tunnel or agent that you trust";
        let found = self.parse::<SocketAddr>(address, "metrics", mend)?;
        if !found.ip().to_canonical().is_loopback() {
            self.fault(
                address,
                Fault::new(
                    "metrics",
                    "is not a loopback address: metrics are not authenticated",
                    mend,
                ),
            );
        }
        Some(found)
    }

    fn application(&mut self, spec: ApplicationSpec, policy: &PeerPolicy) -> Application {
        let mut faults = Vec::new();
        let application = application::check(
            spec,
            self.folder,
            |peer| policy.named(peer).is_some(),
            |offset, fault| faults.push((offset, fault)),
        );
        for (offset, fault) in faults {
            match offset {
                Some(offset) => self.fault_at(offset, fault),
                None => self.faults.push(fault),
            }
        }
        application
    }

    /// An application that speaks any bytes has no methods: a list of them would keep nothing out.
    fn methods(&mut self, policy: &PeerPolicy, application: Option<&Application>, file: &Path) {
        let speaks_bytes = |application: &&Application| {
            application.mode == Mode::Tcp && application.upstream.is_some()
        };
        if application.filter(speaks_bytes).is_none() {
            return;
        }
        let shown = self.folder.join(file).display().to_string();
        for (index, peer) in policy.peers().iter().enumerate() {
            if peer.methods().patterns().is_some() {
                let fault = Fault::new(
                    format!("peer[{index}].methods"),
                    "cannot be held to: the application has mode = \"tcp\", which has no methods",
                    "remove the methods, and the peer too if it may not speak to the application",
                );
                self.faults.push(fault.in_file(&*shown));
            }
        }
    }

    /// The policy's text, what it says, and the addresses of the host names in it.
    fn peers(&mut self, path: &Spanned<PathBuf>) -> Option<(String, PeerPolicy, ResolvedHosts)> {
        let text = self.read(path, Privacy::Private, "peers")?;
        let shown = self.folder.join(path.get_ref()).display().to_string();
        match PeerPolicy::parse(&text) {
            Ok(policy) => {
                let resolved = policy
                    .hosts()
                    .map(|host| (host.to_owned(), resolve(host)))
                    .collect();
                Some((text, policy, resolved))
            }
            Err(faults) => {
                self.faults
                    .extend(faults.into_iter().map(|fault| fault.in_file(&*shown)));
                None
            }
        }
    }

    fn token(
        &mut self,
        index: usize,
        spec: TokenSpec,
        id: Option<&PeerId>,
        trust_anchors: Option<&TrustAnchors>,
    ) -> Option<TokenConfig> {
        let place = format!("token[{index}]");
        if !spec.module.get_ref().is_absolute() {
            self.fault(
                &spec.module,
                Fault::new(
                    format!("{place}.module"),
                    "is not an absolute path",
                    "such as /usr/lib/softhsm/libsofthsm2.so",
                ),
            );
        } else if !spec.module.get_ref().is_file() {
            self.fault(&spec.module, Fault::new(
                format!("{place}.module"),
                format!("{} is not there", spec.module.get_ref().display()),
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
        if let Some(Err(error)) = pin.as_ref().map(PinSource::open) {
            self.fault(
                &spec.pin,
                Fault::new(
                    format!("{place}.pin"),
                    error.to_string(),
                    "mend the PIN's source",
                ),
            );
        }
        let sessions = spec
            .sessions
            .as_ref()
            .map_or(SESSIONS, |sessions| *sessions.get_ref());
        if let Some(stated) = &spec.sessions
            && !(1..=MOST_SESSIONS).contains(&sessions)
        {
            self.fault(
                stated,
                Fault::new(
                    format!("{place}.sessions"),
                    "out of range",
                    format!("from 1 to {MOST_SESSIONS}"),
                ),
            );
        }
        let probe_ms = spec
            .probe_ms
            .as_ref()
            .map_or(PROBE_MS, |probe_ms| *probe_ms.get_ref());
        if let Some(stated) = &spec.probe_ms
            && !PROBE_RANGE.contains(&probe_ms)
        {
            let (least, most) = (PROBE_RANGE.start(), PROBE_RANGE.end());
            let mend = format!("from {least} to {most}");
            let fault = Fault::new(format!("{place}.probe_ms"), "out of range", mend);
            self.fault(stated, fault);
        }
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
        let folder = self.folder;
        let environment = spec.environment.into_iter().map(|(name, value)| {
            let path = folder.join(&value);
            // A module's settings file may stand beside the configuration.
            let value = if !value.is_empty() && path.exists() {
                path.display().to_string()
            } else {
                value
            };
            (name, value)
        });
        let files = self.token_files(&spec.files, &format!("{place}.files"));
        let user = self.user(spec.user.as_ref(), &format!("{place}.user"));
        let profile = self.own_profile(
            Role::Keeper,
            spec.profile.as_ref(),
            &format!("{place}.profile"),
        );
        Some(TokenConfig {
            files,
            user,
            profile,
            module: spec.module.into_inner(),
            uri: uri?,
            pin: pin?,
            environment: environment.collect(),
            sessions,
            probe_ms,
            keys,
        })
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

    fn read(&mut self, path: &Spanned<PathBuf>, privacy: Privacy, key: &str) -> Option<String> {
        let mut faults = Vec::new();
        let text = match files::read(&self.folder.join(path.get_ref()), privacy, key, &mut faults) {
            Ok(text) => Some(text),
            Err(fault) => {
                faults.push(fault);
                None
            }
        };
        for fault in faults {
            self.fault(path, fault);
        }
        text
    }

    fn parse<T: FromStr<Err: std::fmt::Display>>(
        &mut self,
        text: &Spanned<String>,
        key: &str,
        mend: &str,
    ) -> Option<T> {
        match text.get_ref().parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(text, Fault::new(key, format!("{error}"), mend));
                None
            }
        }
    }

    fn fault<T>(&mut self, place: &Spanned<T>, fault: Fault) {
        self.fault_at(place.span().start, fault);
    }

    fn fault_at(&mut self, offset: usize, fault: Fault) {
        self.faults
            .push(fault.at_line(toml_faults::line_of(self.text, offset)));
    }
}

/// Addresses of `host:port`; none when the name does not resolve now.
fn resolve(host: &str) -> Vec<SocketAddr> {
    match host.to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            tracing::warn!(host, %error, "a peer's address does not resolve; it cannot be dialled until a reload finds it");
            Vec::new()
        }
    }
}
