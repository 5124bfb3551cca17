//! `node.toml` and the files it names: a `Spec` is what they say, a [`Config`] is what we trust,
//! valid by construction. Every fault is reported at once, with its key, its line and the mend.

mod application;
mod certificate;
mod environment;
mod files;
mod limits;
mod listen;
mod part;
#[cfg(test)]
mod sample;
mod sandbox;
mod spec;
mod to_try;
mod token;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use toml::Spanned;

use crate::control::frame::MAX_FILES;
use crate::fault::Fault;
use crate::policy::{PeerId, PeerPolicy, ResolvedHosts};
use crate::sandbox::{OwnProfile, Role};
use crate::telemetry::LogSetup;
use crate::toml_faults;

#[cfg(test)]
pub(crate) use application::Egress;
pub(crate) use application::{Application, Kind, Mode, Place};
pub use limits::Limits;
pub(crate) use limits::{size, size32};
pub(crate) use sandbox::{NodeSandbox, ResolverSandbox};
pub(crate) use to_try::ToTry;
pub(crate) use token::TokenConfig;

use application::ApplicationSpec;
use files::Privacy;
use spec::Spec;

/// Tokens of one identity: the first and its replacements.
const MOST_TOKENS: usize = 8;
/// In the place of an identity that is faulty, as long as the rest is looked at.
const NOBODY: &str = "spiffe://nobody.invalid/faulty";

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
    /// The host names in it, with ports.
    pub(crate) hosts: BTreeSet<String>,
    /// Addresses found for them: none as long as nobody has looked.
    pub(crate) resolved: ResolvedHosts,
    pub(crate) limits: Limits,
    pub(crate) log: LogSetup,
    /// The administrator's profile for the supervisor.
    pub(crate) profile: Option<OwnProfile>,
    pub(crate) node: NodeSandbox,
    pub(crate) resolver: ResolverSandbox,
}

impl Config {
    /// Reads and checks `file` and every file that it names.
    ///
    /// # Errors
    /// Every fault found.
    pub fn load(file: &Path) -> Result<Self, Vec<Fault>> {
        match Self::read(file, Aim::Start) {
            (Some(config), faults) if faults.is_empty() => Ok(config),
            (_, faults) => Err(faults),
        }
    }

    /// The same for a node that runs. Its tokens stay as they are, so what only a start needs of them may be
    /// away: a PIN's source, a module, a token's files.
    ///
    /// # Errors
    /// Every fault found.
    pub(crate) fn load_again(file: &Path) -> Result<Self, Vec<Fault>> {
        match Self::read(file, Aim::Reload) {
            (Some(config), faults) if faults.is_empty() => Ok(config),
            (_, faults) => Err(faults),
        }
    }

    /// The faults of `file` and of every file that it names, and what can be tried all the same. For `check` alone:
    /// what is faulty is left out, or has something in its place.
    pub(crate) fn load_to_try(file: &Path) -> (Option<ToTry>, Vec<Fault>) {
        let (config, faults) = Self::read(file, Aim::Start);
        let to_try = config.map(|config| config.that_can_be_tried(&faults));
        (to_try, faults)
    }

    /// What `file` says, with something in place of what is faulty, and every fault.
    fn read(file: &Path, aim: Aim) -> (Option<Self>, Vec<Fault>) {
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
            aim,
            faults,
        };
        let config = spec.map(|spec| reader.config(spec, file.clone()));
        (config, reader.faults.into_iter().map(in_file).collect())
    }
}

/// Turns a `Spec` into a [`Config`], collecting faults on the way.
struct Reader<'a> {
    text: &'a str,
    /// Relative paths start here.
    folder: &'a Path,
    now: SystemTime,
    aim: Aim,
    faults: Vec<Fault>,
}

/// What a configuration is read for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// To start a node: its PINs are to be had, its certificates in date, its peers' names looked up.
    Start,
    /// For the node that runs: nothing that only a start needs.
    Reload,
    /// To show what it says: none of these.
    Show,
}

impl Reader<'_> {
    fn config(&mut self, spec: Spec, file: PathBuf) -> Config {
        self.users(&spec);
        let id = self.parse::<PeerId>(&spec.id, "id", "such as spiffe://mesh.example/node/a");
        let listen = self.listen(&spec.listen);
        let trust_anchors = self.read(&spec.trust_anchors, Privacy::Public, "trust_anchors");
        let anchors = trust_anchors.as_deref().and_then(|pem| {
            certificate::trust_anchors(pem, self.now)
                .map_err(|fault| self.fault(&spec.trust_anchors, fault))
                .ok()
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
            [] if !self.missed("token") && !self.missed("token[0]") => {
                self.faults.push(Fault::new(
                    "token",
                    "is missing",
                    "add a [[token]] with module, uri, pin, server and client",
                ))
            }
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
        let node = self.node_sandbox(&spec.sandbox, &tokens);
        let resolver = self.resolver_sandbox(&spec.sandbox, &node, &tokens);
        let policy = peers.as_ref().map(|(_, policy)| policy);
        let application = spec.application.map(|spec| self.application(spec, policy));
        let (peers, peer_ports, hosts) = match peers {
            Some((text, policy)) => {
                self.methods(&policy, application.as_ref(), spec.peers.get_ref());
                let hosts = policy.hosts().map(str::to_owned).collect();
                (text, policy.ports(), hosts)
            }
            None => Default::default(),
        };
        let config = Config {
            profile,
            node,
            resolver,
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
            hosts,
            resolved: ResolvedHosts::default(),
            limits,
            log: LogSetup {
                level: spec.log.level.unwrap_or(LogSetup::default().level),
                format: spec.log.format.unwrap_or(LogSetup::default().format),
            },
        };
        self.must_fit(&config);
        config
    }

    /// A node is given all of its files at once, by its start and by every reload.
    fn must_fit(&mut self, config: &Config) {
        let keys = config.tokens.iter().flat_map(|token| &token.keys);
        let chains: Vec<&str> = keys.map(|key| key.chain.as_str()).collect();
        let length = serde_json::to_vec(&(&config.trust_anchors, &config.peers, chains))
            .map_or(usize::MAX, |json| json.len());
        if length > MAX_FILES {
            self.faults.push(Fault::new(
                "",
                format!(
                    "certificates, trust anchors and peers are {length} bytes together, written as JSON: more than {MAX_FILES}"
                ),
                "leave out what is no certificate and no peer, such as text around them",
            ));
        }
    }

    /// Its places are named by the policy's peers, whoever they are while it has faults.
    fn application(&mut self, spec: ApplicationSpec, policy: Option<&PeerPolicy>) -> Application {
        let mut faults = Vec::new();
        let application = application::check(
            spec,
            self.folder,
            |peer| policy.is_none_or(|policy| policy.named(peer).is_some()),
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

    /// The policy's text and what it says.
    fn peers(&mut self, path: &Spanned<PathBuf>) -> Option<(String, PeerPolicy)> {
        let text = self.read(path, Privacy::Private, "peers")?;
        let shown = self.folder.join(path.get_ref()).display().to_string();
        match PeerPolicy::parse(&text) {
            Ok(policy) => Some((text, policy)),
            Err(faults) => {
                self.faults
                    .extend(faults.into_iter().map(|fault| fault.in_file(&*shown)));
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

    /// Of what stands in for a missing key nothing is said: that it is missing, is.
    fn fault_at(&mut self, offset: usize, fault: Fault) {
        if toml_faults::is_in_text(self.text, offset) {
            self.faults
                .push(fault.at_line(toml_faults::line_of(self.text, offset)));
        }
    }

    /// Whether it is known of `key` that it is missing or faulty.
    fn missed(&self, key: &str) -> bool {
        self.faults.iter().any(|fault| fault.key == key)
    }
}
