//! `[application]`: the program beside us, and the places where the two meet. Only the two of us may
//! reach them: unix sockets, or loopback addresses.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::fault::Fault;
use crate::p2pfl::MOST_COMMAND;

/// Places on this host that the application is given: one more and somebody makes a mistake.
const MOST_EGRESS: usize = 1024;
/// Longest path of a unix socket in bytes (unix(7), `sun_path` with its NUL).
const LONGEST_PATH: usize = 107;

/// `[application]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplicationSpec {
    /// `grpc`, `http` or `tcp`.
    #[serde(default)]
    pub(super) mode: Mode,
    /// Whether an application with `mode = "http"` speaks HTTP/2, and not HTTP/1.1.
    #[serde(default)]
    pub(super) http2: bool,
    /// What is known of the application.
    pub(super) kind: Option<Kind>,
    /// Where the application listens: peers' calls go there.
    pub(super) upstream: Option<Spanned<String>>,
    /// Who runs the application: a user id. Our own by default.
    pub(super) user: Option<u32>,
    /// Service name for `grpc.health.v1` on the application; empty for the whole of it.
    pub(super) health: Option<String>,
    /// Where we are an HTTP CONNECT proxy for the application.
    pub(super) connect: Option<Spanned<String>>,
    /// Peer name → where the application reaches that peer.
    #[serde(default)]
    pub(super) egress: BTreeMap<String, Spanned<String>>,
    /// Peer name → the P2PFL commands that it may give; all that P2PFL knows by default.
    #[serde(default)]
    pub(super) commands: BTreeMap<String, Spanned<Vec<String>>>,
}

/// What the application speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// gRPC over HTTP/2.
    #[default]
    Grpc,
    /// HTTP, of the version that [`Application::http2`] says.
    Http,
    /// Any bytes.
    Tcp,
}

/// An application whose messages we understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A P2PFL learner.
    P2pfl,
}

/// The application beside us, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Application {
    pub(crate) mode: Mode,
    /// It speaks HTTP/2 from the first byte (RFC 9113 §3.3), and not HTTP/1.1.
    pub(crate) http2: bool,
    pub(crate) kind: Option<Kind>,
    pub(crate) upstream: Option<Place>,
    /// Its user id.
    pub(crate) user: u32,
    pub(crate) health: Option<String>,
    pub(crate) connect: Option<Place>,
    pub(crate) egress: Vec<Egress>,
    /// P2PFL's commands by peer.
    pub(crate) commands: BTreeMap<String, Vec<String>>,
}

/// A place on this host that stands for one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Egress {
    /// The peer's short name.
    pub(crate) peer: String,
    pub(crate) at: Place,
}

impl Application {
    /// Where we listen for the application, in the order in which the node gets the sockets.
    pub(crate) fn listens(&self) -> impl Iterator<Item = &Place> {
        self.egress
            .iter()
            .map(|egress| &egress.at)
            .chain(&self.connect)
    }
}

/// Where one of us listens for the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// A unix socket, by its path.
    Unix(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

/// Why a text is not a [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlaceFault {
    #[error("is neither `unix:PATH` nor `IP:port`")]
    Neither,
    #[error("is not a loopback address: what is spoken there is not encrypted")]
    NotLoopback,
    #[error("has no port")]
    NoPort,
    #[error("has a path longer than {LONGEST_PATH} bytes")]
    LongPath,
}

/// What to write instead.
const MEND: &str = "such as \"unix:app.sock\", or a loopback address such as \"127.0.0.1:50051\"";

impl FromStr for Place {
    type Err = PlaceFault;

    fn from_str(text: &str) -> Result<Self, PlaceFault> {
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///path` is how gRPC writes it.
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains('\0') {
                return Err(PlaceFault::Neither);
            }
            return Ok(Self::Unix(path.into()));
        }
        let Ok(address) = text.parse::<SocketAddr>() else {
            return Err(PlaceFault::Neither);
        };
        if !address.ip().to_canonical().is_loopback() {
            return Err(PlaceFault::NotLoopback);
        }
        if address.port() == 0 {
            return Err(PlaceFault::NoPort);
        }
        Ok(Self::Tcp(address))
    }
}

impl Place {
    /// Relative paths start in `folder`.
    fn within(self, folder: &Path) -> Result<Self, PlaceFault> {
        match self {
            Self::Unix(path) => {
                let path = folder.join(path);
                match path.as_os_str().len() {
                    ..=LONGEST_PATH => Ok(Self::Unix(path)),
                    _ => Err(PlaceFault::LongPath),
                }
            }
            Self::Tcp(_) => Ok(self),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// The application that `spec` describes. `listed` says whether the policy names a peer; `fault` is
/// told what is wrong and where it stands.
pub(super) fn check(
    spec: ApplicationSpec,
    folder: &Path,
    listed: impl Fn(&str) -> bool,
    mut fault: impl FnMut(Option<usize>, Fault),
) -> Application {
    let mut place = |key: &str, text: &Spanned<String>| {
        let place = text.get_ref().parse::<Place>();
        match place.and_then(|place| place.within(folder)) {
            Ok(place) => Some(place),
            Err(error) => {
                let problem = Fault::new(key, error.to_string(), MEND);
                fault(Some(text.span().start), problem);
                None
            }
        }
    };
    let upstream = spec
        .upstream
        .as_ref()
        .and_then(|text| place("application.upstream", text));
    let connect = spec
        .connect
        .as_ref()
        .and_then(|text| place("application.connect", text));
    let mut egress = Vec::new();
    let mut unlisted = Vec::new();
    for (peer, text) in &spec.egress {
        let key = format!("application.egress.{peer}");
        if !listed(peer) {
            unlisted.push((text.span().start, key.clone()));
        }
        let at = place(&key, text);
        egress.extend(at.map(|at| Egress {
            peer: peer.clone(),
            at,
        }));
    }
    for (start, key) in unlisted {
        fault(
            Some(start),
            Fault::new(
                key,
                "the peer policy has no peer of this name",
                "name a peer of peers.toml: nobody else is dialled",
            ),
        );
    }
    if spec.egress.len() > MOST_EGRESS {
        fault(
            None,
            Fault::new(
                "application.egress",
                "too many places",
                format!("at most {MOST_EGRESS}; `connect` is one place for all peers"),
            ),
        );
    }
    if spec.upstream.is_none() && spec.connect.is_none() && spec.egress.is_empty() {
        fault(
            None,
            Fault::new(
                "application",
                "names no place",
                "add upstream (peers' calls go there), egress or connect (the application calls peers), or take the section out",
            ),
        );
    }
    for (given, key) in [
        (spec.kind.is_some(), "kind"),
        (spec.health.is_some(), "health"),
        (spec.connect.is_some(), "connect"),
    ] {
        if given && spec.mode != Mode::Grpc {
            fault(
                None,
                Fault::new(
                    format!("application.{key}"),
                    "needs mode = \"grpc\"",
                    format!("leave {key} out, or let the application speak gRPC"),
                ),
            );
        }
    }
    if spec.http2 && spec.mode != Mode::Http {
        let mend = "leave http2 out: with mode = \"grpc\" HTTP/2 is spoken anyway";
        fault(
            None,
            Fault::new("application.http2", "needs mode = \"http\"", mend),
        );
    }
    check_kind(&spec, &listed, &mut fault);
    let commands = spec.commands.into_iter();
    let application = Application {
        mode: spec.mode,
        http2: spec.http2,
        kind: spec.kind,
        upstream,
        user: spec
            .user
            .unwrap_or_else(|| rustix::process::geteuid().as_raw()),
        health: spec.health,
        connect,
        egress,
        commands: commands
            .map(|(peer, commands)| (peer, commands.into_inner()))
            .collect(),
    };
    let mut places: Vec<String> = application
        .listens()
        .chain(&application.upstream)
        .map(Place::to_string)
        .collect();
    places.sort_unstable();
    if let Some(twice) = places.windows(2).find(|pair| pair[0] == pair[1]) {
        fault(
            None,
            Fault::new(
                "application",
                format!("{} stands there twice", twice[0]),
                "give each a place of its own",
            ),
        );
    }
    application
}

/// What a kind needs, and what only it has.
fn check_kind(
    spec: &ApplicationSpec,
    listed: impl Fn(&str) -> bool,
    mut fault: impl FnMut(Option<usize>, Fault),
) {
    if spec.kind.is_some() && spec.upstream.is_none() {
        let mend =
            "say where the application listens, or leave kind out: it is about what peers send";
        fault(None, Fault::new("application.kind", "needs upstream", mend));
    }
    for (peer, commands) in &spec.commands {
        let key = format!("application.commands.{peer}");
        let mut wrong = |problem: String, mend: &str| {
            fault(
                Some(commands.span().start),
                Fault::new(&*key, problem, mend),
            );
        };
        if spec.kind != Some(Kind::P2pfl) {
            let mend = "add it, or leave the commands out: no other application has any";
            wrong("needs kind = \"p2pfl\"".into(), mend);
        }
        if !listed(peer) {
            let mend = "name a peer of peers.toml: nobody else is heard";
            wrong("the peer policy has no peer of this name".into(), mend);
        }
        let is_good = |command: &&String| (1..=MOST_COMMAND).contains(&command.len());
        if let Some(command) = commands.get_ref().iter().find(|one| !is_good(one)) {
            let mend = "P2PFL's are \"beat\", \"start_learning\" and so on: see policies/node.toml";
            wrong(format!("{command:?} is no command"), mend);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_for_listed_peers_of_a_p2pfl_node() {
        let faults = |text: &str| {
            let spec: ApplicationSpec = toml::from_str(text).unwrap();
            let mut found = Vec::new();
            let listed = |peer: &str| peer == "b";
            check(spec, Path::new("/run"), listed, |_, fault| {
                found.push(format!("{} {}", fault.key, fault.problem));
            });
            found
        };
        let here = "kind = 'p2pfl'\nupstream = '127.77.0.1:6666'\n";
        let good = format!("{here}[commands]\nb = ['beat', 'own']\n");
        assert_eq!(faults(&good), [""; 0]);
        for (text, fault) in [
            (
                "kind = 'p2pfl'\nconnect = 'unix:c'\n".to_owned(),
                "application.kind needs upstream",
            ),
            (
                "upstream = 'unix:a'\n[commands]\nb = []\n".to_owned(),
                "application.commands.b needs kind = \"p2pfl\"",
            ),
            (
                format!("{here}[commands]\nc = ['beat']\n"),
                "application.commands.c the peer policy has no peer of this name",
            ),
            (
                format!("{here}[commands]\nb = ['beat', '']\n"),
                "application.commands.b \"\" is no command",
            ),
            (
                format!("{here}[commands]\nb = ['{}']\n", "x".repeat(65)),
                &format!("application.commands.b {:?} is no command", "x".repeat(65)),
            ),
        ] {
            assert_eq!(faults(&text), [fault], "{text}");
        }
    }

    #[test]
    fn a_place_is_one_that_only_this_host_reaches() {
        for (text, place) in [
            ("unix:app.sock", Place::Unix("app.sock".into())),
            ("unix:/run/app.sock", Place::Unix("/run/app.sock".into())),
            ("unix:///run/app.sock", Place::Unix("/run/app.sock".into())),
            (
                "127.77.0.2:6666",
                Place::Tcp("127.77.0.2:6666".parse().unwrap()),
            ),
            ("[::1]:50051", Place::Tcp("[::1]:50051".parse().unwrap())),
        ] {
            assert_eq!(text.parse(), Ok(place), "{text}");
        }
        for (text, fault) in [
            ("unix:", PlaceFault::Neither),
            ("app.sock", PlaceFault::Neither),
            ("localhost:50051", PlaceFault::Neither),
            ("0.0.0.0:50051", PlaceFault::NotLoopback),
            ("192.0.2.1:50051", PlaceFault::NotLoopback),
            ("[2001:db8::1]:50051", PlaceFault::NotLoopback),
            ("127.0.0.1:0", PlaceFault::NoPort),
        ] {
            assert_eq!(text.parse::<Place>(), Err(fault), "{text}");
        }
        let long = Place::Unix("x".repeat(107).into());
        assert_eq!(long.within(Path::new("/")), Err(PlaceFault::LongPath));
    }
}
