//! The network process: listens, dials, keeps count of live connections, drains. It holds no key, no
//! PIN and no PKCS#11 module, and reads no file: everything it knows came from its supervisor.

mod application;
mod descriptors;
mod dial;
mod generation;
mod listen;
mod live;
mod methods;
mod metrics;
mod metrics_port;
mod orders;
mod peer_service;
mod per_peer;
mod ping;
mod prewarmed;
mod proving;
pub(crate) mod role;
mod serve;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tonic::transport::Channel;

use crate::admission::{Gate, GateLimits};
use crate::config::{Limits, size, size32};
use crate::keeper::ask::Standing;
use crate::policy::PeerId;
use crate::proxy;
use crate::telemetry::Lines;
use crate::tls::{
    Connection, ConnectionFacts, Generation, GenerationError, Handshakes, Inside, Lane,
};

pub use live::PeerConnection;

pub(crate) use application::{descriptors as application_descriptors, per_connection};

use dial::Dialer;
use generation::Signer;
use live::Live;
use metrics::Metrics;

/// A running node, as the services it serves see it: who it is, and a channel to each peer.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    id: PeerId,
    limits: Limits,
    handshakes: Handshakes,
    generations: watch::Sender<Arc<Generation>>,
    /// Who may begin a handshake.
    gate: Arc<Gate>,
    metrics: Metrics,
    /// How calls are passed on.
    proxy: Arc<proxy::Settings>,
    refusal_lines: Lines,
    refused_call_lines: Lines,
    signers: Vec<Signer>,
    /// Whether it counts as ready: the supervisor's word.
    ready: watch::Sender<bool>,
    live: Arc<Live>,
    dialers: Mutex<HashMap<PeerId, Arc<Dialer>>>,
}

/// No peer of the policy in force has this name or identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such peer; the policy lists: {}", known.join(", "))]
pub struct UnknownPeer {
    /// The names that the policy knows.
    pub known: Vec<String>,
}

/// So that a service can pass it on with `?`.
impl From<UnknownPeer> for tonic::Status {
    fn from(unknown: UnknownPeer) -> Self {
        Self::not_found(unknown.to_string())
    }
}

impl Node {
    fn new(
        id: PeerId,
        limits: Limits,
        lane: Lane,
        first: Generation,
        signers: Vec<Signer>,
        also: Option<Inside>,
    ) -> Result<Self, GenerationError> {
        let (generations, newest) = watch::channel(Arc::new(first));
        let lane_threads = u32::try_from(lane.threads()).unwrap_or(u32::MAX);
        let handshakes = Handshakes::new(Arc::new(lane), newest, limits.handshake_deadline())?;
        let handshakes = handshakes.speaking(also);
        let gate = GateLimits {
            pending: size(limits.pending_handshakes),
            source_pending: size32(limits.source_pending),
            source_signatures: size32(limits.source_signatures_per_second),
            stranger_signatures: size32(limits.stranger_signatures_per_second),
            lane_threads,
        };
        Ok(Self(Arc::new(Inner {
            id,
            proxy: Arc::new(proxy::Settings::new(&limits)),
            limits,
            handshakes,
            generations,
            gate: Gate::new(gate, Instant::now()),
            metrics: Metrics::default(),
            refusal_lines: Lines::default(),
            refused_call_lines: Lines::default(),
            signers,
            ready: watch::channel(true).0,
            live: Arc::default(),
            dialers: Mutex::default(),
        })))
    }

    /// Our own SPIFFE-form identity.
    pub fn id(&self) -> &PeerId {
        &self.0.id
    }

    /// The longest message that a service should take, in bytes: `limits.message_bytes`. tonic wants to
    /// be told for each service and each client; what is not told takes 4 MiB:
    ///
    /// ```ignore
    /// Routes::new(GreeterServer::new(greeter).max_decoding_message_size(node.message_bytes()))
    /// ```
    pub fn message_bytes(&self) -> usize {
        size(self.0.limits.message_bytes)
    }

    /// A channel to the peer with this name or identity. All channels to a peer share one
    /// connection, made at the first call, and made again with backoff when it is lost. A call
    /// fails with `UNAVAILABLE` when the peer cannot be reached or either side refuses the other.
    ///
    /// # Errors
    /// [`UnknownPeer`] when the policy in force lists no such peer.
    pub fn channel(&self, peer: &str) -> Result<Channel, UnknownPeer> {
        self.dialer(peer).map(|dialer| dialer.channel())
    }

    fn dialer(&self, peer: &str) -> Result<Arc<Dialer>, UnknownPeer> {
        let generation = self.generation();
        let policy = generation.policy();
        let by_id = || peer.parse().ok().and_then(|id| policy.peer(&id));
        let Some(found) = policy.named(peer).or_else(by_id) else {
            let known = policy.peers().iter().map(|peer| peer.name().to_owned());
            return Err(UnknownPeer {
                known: known.collect(),
            });
        };
        let mut dialers = self
            .0
            .dialers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let dialer = dialers
            .entry(found.id().clone())
            .or_insert_with(|| Dialer::new(found.id().clone(), self));
        Ok(Arc::clone(dialer))
    }

    /// Certificates, trust anchors and policy in force.
    fn generation(&self) -> Arc<Generation> {
        self.0.handshakes.generation()
    }

    /// Puts a generation in force that was checked whole, for live connections too.
    fn swap(&self, generation: Generation) {
        self.0.generations.send_replace(Arc::new(generation));
        self.0.live.judge(|| self.generation());
    }

    /// Takes the supervisor's word on how the tokens are, and whether the node counts as ready.
    fn on_tokens(&self, standings: &[Standing], ready: bool) {
        for (signer, standing) in self.0.signers.iter().zip(standings) {
            signer.asker.supervisor_says(*standing);
        }
        self.0
            .ready
            .send_if_modified(|now| std::mem::replace(now, ready) != ready);
    }

    /// Registers an established connection; the record goes with the returned stream.
    fn adopt(&self, connection: Connection) -> live::Stream {
        self.0.live.adopt(connection, || self.generation())
    }
    /// The same for one that a peer made, unless it has too many: then its facts come back.
    fn admit(&self, connection: Connection) -> Result<live::Stream, Box<ConnectionFacts>> {
        let most = size(self.0.limits.peer_connections);
        self.0.live.admit(connection, || self.generation(), most)
    }
}
