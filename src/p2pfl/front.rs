//! Decides about each request of a peer, as it comes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use http::request;

use super::command::{COMMANDS, envelope_of};
use super::{Envelope, Method, Reader, Seen, Unread};
use crate::config::{Application, Limits, Place};
use crate::policy::PeerAddress;
use crate::proxy::{Caller, Code, Inspect, Look, Refusal, is_grpc};
use crate::telemetry::Lines;

/// Longest message without weights: a vote names each node of the learning, at about 30 bytes.
const MOST_WITHOUT_WEIGHTS: u64 = 1 << 20;

/// Stands between peers and the P2PFL node beside us.
#[derive(Debug)]
pub(crate) struct Front {
    /// Peer's name → the place that stands for it on this host: its address in the virtual plan.
    places: BTreeMap<String, String>,
    /// Peer's name → the commands that it may give; all that P2PFL knows for those that are not here.
    commands: BTreeMap<String, Vec<String>>,
    /// Longest message in bytes.
    most: u64,
    lines: Lines,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error("this certificate does not stand for that address")]
    Address { claimed: String },
    #[error("this command is not on the list of this peer")]
    Command { command: String },
    #[error("this command does not travel so")]
    Envelope { command: String },
    #[error("no such method")]
    Method,
    #[error("a message without weights that is as long as one with weights")]
    Long,
    #[error(transparent)]
    Unread(#[from] Unread),
}

impl Reason {
    fn refusal(&self) -> Refusal {
        let code = match self {
            Self::Address { .. } | Self::Command { .. } | Self::Envelope { .. } => {
                Code::PermissionDenied
            }
            Self::Method | Self::Unread(Unread::Compressed) => Code::Unimplemented,
            Self::Long | Self::Unread(Unread::TooLong) => Code::ResourceExhausted,
            Self::Unread(_) => Code::InvalidArgument,
        };
        Refusal {
            code,
            message: self.to_string(),
        }
    }

    /// What the peer wrote, for the log alone.
    fn detail(&self) -> &str {
        match self {
            Self::Address { claimed } => claimed,
            Self::Command { command } | Self::Envelope { command } => command,
            _ => "",
        }
    }
}

impl Front {
    /// The front of the P2PFL node that `settings` describes.
    pub(crate) fn new(settings: &Application, limits: &Limits) -> Self {
        let places = settings.egress.iter().map(|egress| {
            let address = match &egress.at {
                Place::Tcp(address) => address.to_string(),
                // P2PFL writes `unix:` with two slashes and an absolute path.
                Place::Unix(path) => format!("unix://{}", path.display()),
            };
            (egress.peer.clone(), address)
        });
        Self {
            places: places.collect(),
            commands: settings.commands.clone(),
            most: limits.weights_bytes,
            lines: Lines::default(),
        }
    }

    /// The addresses that a peer may call its own, as P2PFL writes them.
    fn addresses_of(&self, peer: &str, policy: &[PeerAddress]) -> Vec<String> {
        let resolved = policy.iter().flat_map(PeerAddress::resolved);
        resolved
            .map(ToString::to_string)
            .chain(self.places.get(peer).cloned())
            .collect()
    }

    fn allows(&self, peer: &str, command: &str) -> bool {
        match self.commands.get(peer) {
            Some(listed) => listed.iter().any(|one| one == command),
            None => COMMANDS.iter().any(|(name, _)| *name == command),
        }
    }

    /// Logs why, and returns what the peer is told.
    fn refuse(&self, peer: &str, method: &str, reason: &Reason) -> Refusal {
        if let Some(unlogged) = self.lines.take(Instant::now()) {
            let detail = reason.detail();
            tracing::warn!(peer, method, %reason, ?detail, unlogged, "a P2PFL request was refused");
        }
        reason.refusal()
    }
}

impl Inspect for Front {
    fn begin(
        self: Arc<Self>,
        caller: &Caller,
        addresses: &[PeerAddress],
        head: &request::Parts,
    ) -> Result<Option<Box<dyn Look>>, Refusal> {
        let method = Method::at(head.uri.path()).filter(|_| is_grpc(&head.headers));
        let Some(method) = method else {
            return Err(self.refuse(&caller.name, "unknown", &Reason::Method));
        };
        Ok(Some(Box::new(Watch {
            addresses: self.addresses_of(&caller.name, addresses),
            peer: caller.name.clone(),
            method,
            reader: Reader::new(method, self.most),
            front: self,
        })))
    }
}

/// One request of a peer.
struct Watch {
    front: Arc<Front>,
    peer: String,
    addresses: Vec<String>,
    method: Method,
    reader: Reader,
}

impl Watch {
    fn judge(&self, seen: Seen) -> Result<(), Reason> {
        let (claimed, command, envelope) = match seen {
            Seen::Address(claimed) => return self.bind(claimed),
            Seen::Message {
                source,
                command,
                envelope,
            } => (source, command, envelope),
        };
        if !self.front.allows(&self.peer, &command) {
            return Err(Reason::Command { command });
        }
        if envelope_of(&command).is_some_and(|own| own != envelope) {
            return Err(Reason::Envelope { command });
        }
        if envelope != Envelope::Weights && self.reader.length() > MOST_WITHOUT_WEIGHTS {
            return Err(Reason::Long);
        }
        match envelope {
            Envelope::Gossip => Ok(()),
            Envelope::Direct | Envelope::Weights => self.bind(claimed),
        }
    }

    /// The address must be one of this peer. To the letter: P2PFL compares them so.
    fn bind(&self, claimed: String) -> Result<(), Reason> {
        match self.addresses.contains(&claimed) {
            true => Ok(()),
            false => Err(Reason::Address { claimed }),
        }
    }

    fn refuse(&self, reason: impl Into<Reason>) -> Refusal {
        let (peer, method) = (&self.peer, self.method.name());
        self.front.refuse(peer, method, &reason.into())
    }
}

impl Look for Watch {
    fn data(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        match self.reader.take(bytes) {
            Ok(None) => Ok(()),
            Ok(Some(seen)) => self.judge(seen).map_err(|reason| self.refuse(reason)),
            Err(unread) => Err(self.refuse(unread)),
        }
    }

    fn end(&mut self) -> Result<(), Refusal> {
        self.reader.end().map_err(|unread| self.refuse(unread))
    }
}
