//! Supervisor and node.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::config::{Application, Limits};
use crate::fault::Fault;
use crate::keeper::ask::Standing;
use crate::keeper::message::KeyIndex;
use crate::policy::ResolvedHosts;
use crate::role::TlsRole;
use crate::rpc::admin;
use crate::sandbox;
use crate::telemetry::LogSetup;
use crate::token::KeyKind;

/// To a node. The setup comes first, with descriptors: the sockets that listen for peers, for scrapers
/// of metrics and for the application, then those of each token's channels.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToNode {
    Setup(Box<NodeSetup>),
    /// It was attested: begin.
    Serve,
    Order {
        id: u64,
        order: Order,
    },
    /// Put this in force, and answer; these are carried out one after the other.
    Reload {
        id: u64,
        generation: Box<Generation>,
    },
    /// How the tokens are, in their order, and whether the node counts as ready.
    Tokens {
        standings: Vec<Standing>,
        ready: bool,
    },
    /// What the supervisor counts, for those who ask the node: Prometheus text.
    Metrics(String),
    /// Stop accepting, let calls end, then exit.
    Drain,
    #[cfg(feature = "attack-trigger")]
    Attack(sandbox::attack::Attack),
}

/// What a node is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeSetup {
    pub(crate) log: LogSetup,
    /// Our own SPIFFE-form identity.
    pub(crate) id: String,
    /// Number of sockets that came along and listen for peers.
    pub(crate) listeners: usize,
    /// The next one is for scrapers of metrics.
    pub(crate) metrics: bool,
    /// The next ones are the places where it listens for the application.
    pub(crate) application: Option<Application>,
    pub(crate) tokens: Vec<TokenSetup>,
    pub(crate) limits: Limits,
    /// The administrator's own, instead of the one in the binary.
    pub(crate) profile: Option<sandbox::OwnProfile>,
    /// The TCP ports that Landlock lets it connect to.
    pub(crate) dials: BTreeSet<u16>,
    pub(crate) generation: Generation,
}

/// One token's keeper, as the node sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TokenSetup {
    pub(crate) label: String,
    /// Number of channels that came along.
    pub(crate) channels: usize,
    /// How many signatures it is asked for at once.
    pub(crate) sessions: usize,
}

/// Everything that a reload replaces, as one whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Generation {
    pub(crate) number: u64,
    /// Trust anchors, PEM.
    pub(crate) trust_anchors: String,
    /// The peer policy's text.
    pub(crate) peers: String,
    /// Host names in the policy with the addresses that the supervisor found for them.
    pub(crate) resolved: ResolvedHosts,
    pub(crate) credentials: Vec<CredentialSetup>,
}

/// A certificate chain and the key behind it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CredentialSetup {
    pub(crate) role: TlsRole,
    /// Which of the tokens.
    pub(crate) token: usize,
    pub(crate) key: KeyIndex,
    pub(crate) kind: KeyKind,
    /// SubjectPublicKeyInfo as the token tells it, DER.
    pub(crate) spki: Vec<u8>,
    /// The end entity first, PEM.
    pub(crate) chain: String,
}

/// Something the supervisor wants an answer to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Say that you live.
    Alive,
    Connections,
    Metrics,
    Peers,
    Ping {
        peer: String,
        transfer_bytes: u64,
    },
}

/// The answer to an [`Order`], or to a reload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Answer {
    Alive,
    Connections {
        connections: Vec<admin::Connection>,
        counters: std::collections::HashMap<String, u64>,
    },
    /// Prometheus text.
    Metrics(String),
    Peers(Vec<admin::Peer>),
    Ping(Box<admin::PingResponse>),
    Reloaded,
    /// No peer has this name or id.
    UnknownPeer {
        known: Vec<String>,
    },
    /// The peer could not be reached, or refused us.
    Unreachable(String),
    Refused(Vec<Fault>),
    /// The true answer is longer than a frame may be.
    TooLong,
}

/// From a node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromNode {
    /// It is confined, and waits to be attested.
    Sealed(Box<sandbox::Report>),
    /// It serves.
    Ready,
    /// Whether the application says that it is well.
    Application {
        well: bool,
    },
    /// It will not serve.
    Refused {
        faults: Vec<Fault>,
    },
    Answer {
        id: u64,
        answer: Answer,
    },
}
