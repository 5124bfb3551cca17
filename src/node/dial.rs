//! One pooled connection to each peer, made again with jittered backoff when it is lost.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use super::live::{PeerConnection, Stream};
use super::{Inner, Node};
use crate::config::{Limits, size32};
use crate::fault::chain;
use crate::policy::PeerId;
use crate::proxy::{ByteStream, Dial, Dialling, LATE, Other, Pool, remembered};
use crate::tls::{self, HandshakeError, Inside};

/// Dials one peer.
pub(super) struct Dialer {
    channel: Channel,
    /// The newest connection under the channel.
    under: Arc<Mutex<Option<PeerConnection>>>,
    /// The application's connection to the peer.
    pool: Arc<Pool>,
    attempts: Attempts,
}

/// What is known of the last tries to reach a peer.
#[derive(Clone, Debug)]
struct Tries {
    peer: PeerId,
    state: Arc<Mutex<DialState>>,
}

#[derive(Debug, Default)]
struct DialState {
    failures: u32,
    not_before: Option<Instant>,
    last_error: String,
    /// What the try under way waits for.
    waits_for: String,
}

/// A connection that we made, until its peer has sent something: a server that refuses our certificate says
/// so when we believe ourselves connected (RFC 8446 §4.4.2.4).
#[derive(Debug)]
pub(super) struct Trial {
    tries: Tries,
    inside: Inside,
}

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("the node is stopping")]
    Stopping,
    #[error("the peer is no longer in the policy")]
    Unlisted,
    #[error("the policy has no address for this peer, or its name does not resolve")]
    NoAddress,
    #[error("waiting {0:?} before the next try; the last one failed: {1}")]
    Backoff(Duration, String),
    #[error("no connection to {0} in time")]
    Slow(SocketAddr),
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("no handshake with {0}: {text}", text = chain(.1))]
    Handshake(SocketAddr, #[source] HandshakeError),
}

impl DialError {
    /// Another address would not change it.
    fn is_ours(&self) -> bool {
        use HandshakeError as Why;
        let Self::Handshake(_, error) = self else {
            return false;
        };
        matches!(
            error,
            Why::LocalSigning(_) | Why::Busy(_) | Why::NoCredential(_) | Why::Configuration(_)
        )
    }
}

/// The wait after the first failure, and the longest one.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// What our own calls go through.
fn endpoint(limits: &Limits) -> Endpoint {
    let keepalive = Duration::from_millis(limits.keepalive_ms);
    // The authority is never looked up: where to go is the policy's word.
    Endpoint::from_static("http://peer.invalid")
        .initial_stream_window_size(size32(limits.stream_window_bytes))
        .initial_connection_window_size(size32(limits.connection_window_bytes))
        .max_frame_size(size32(limits.frame_bytes))
        .http2_max_header_list_size(size32(limits.header_list_bytes))
        .http2_max_concurrent_reset_streams(remembered())
        .http2_reset_stream_duration(LATE)
        .http2_max_local_error_reset_streams(remembered())
        .http2_keep_alive_interval(keepalive)
        .keep_alive_timeout(keepalive)
        .keep_alive_while_idle(true)
}

impl Dialer {
    pub(super) fn new(peer: PeerId, node: &Node) -> Arc<Self> {
        let attempts = Attempts {
            node: Arc::downgrade(&node.0),
            tries: Tries {
                peer,
                state: Arc::default(),
            },
        };
        let pool = Pool::new(attempts.clone(), Other::Peer, &node.0.proxy);
        let under = Arc::<Mutex<Option<PeerConnection>>>::default();
        let dials = (attempts.clone(), Arc::clone(&under));
        let connector = tower::service_fn(move |_: Uri| {
            let (attempts, under) = dials.clone();
            async move {
                let stream = attempts.next(Inside::H2).await?;
                let connection = stream.connection().clone();
                *under.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
                Ok::<_, DialError>(TokioIo::new(stream))
            }
        });
        Arc::new(Self {
            pool: Arc::new(pool),
            attempts,
            under,
            channel: endpoint(&node.0.limits).connect_with_connector_lazy(connector),
        })
    }

    pub(super) fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.pool)
    }

    /// A connection of its own for any bytes. Each costs a signature.
    pub(super) async fn bytes(&self) -> Result<Stream, DialError> {
        self.attempts.next(Inside::Bytes).await
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The connection that the channel's calls go over; `None` before the first.
    pub(super) fn under(&self) -> Option<PeerConnection> {
        let under = self.under.lock();
        under.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last error, empty when the last try worked, and whether a wait is on.
    pub(super) fn trouble(&self) -> (String, bool) {
        let state = self.attempts.tries.state();
        let waiting = state.not_before.is_some_and(|at| at > Instant::now());
        (state.last_error.clone(), waiting)
    }
}

impl Tries {
    fn state(&self) -> MutexGuard<'_, DialState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the next one has to wait, and for which error.
    fn wait(&self) -> Option<(Duration, String)> {
        let state = self.state();
        let left = state.not_before?.checked_duration_since(Instant::now())?;
        Some((left, state.last_error.clone()))
    }

    fn waits_for(&self, what: String) {
        self.state().waits_for = what;
    }

    fn failed(&self, error: String) {
        tracing::warn!(peer = %self.peer, error, "dialling failed");
        let mut state = self.state();
        let wait = wait_after(state.failures, random_share());
        state.failures = state.failures.saturating_add(1);
        state.not_before = Some(Instant::now() + wait);
        state.last_error = error;
    }
}

impl Trial {
    /// Takes what a read of the connection came to. It is over when something was read or never will be.
    pub(super) fn is_over(&self, read: &Poll<io::Result<()>>, anything: bool) -> bool {
        match read {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if anything => *self.tries.state() = DialState::default(),
            Poll::Ready(Ok(())) => self.ended(),
            Poll::Ready(Err(error)) => self.refused(error),
        }
        true
    }

    fn refused(&self, error: &io::Error) {
        // The other end of bytes may break off as it likes, its application too.
        if self.inside == Inside::Bytes && !tls::is_alert(error) {
            return;
        }
        let told = format!("the peer did not let us in, its log says why: {error}");
        self.tries.failed(told);
    }

    /// The connection has ended without a word. Bytes that only go one way need none.
    pub(super) fn ended(&self) {
        if self.inside == Inside::H2 {
            self.tries
                .failed("the peer took the connection and said nothing".into());
        }
    }
}

#[derive(Clone)]
struct Attempts {
    /// Weak: the node owns the dialer.
    node: Weak<Inner>,
    tries: Tries,
}

impl Dial for Attempts {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let stream = self
                .next(Inside::H2)
                .await
                .map_err(|error| error.to_string())?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }

    fn waits_for(&self) -> String {
        self.tries.state().waits_for.clone()
    }
}

impl Attempts {
    async fn next(&self, inside: Inside) -> Result<Stream, DialError> {
        if let Some((left, error)) = self.tries.wait() {
            return Err(DialError::Backoff(left, error));
        }
        match self.connect(inside).await {
            Ok(stream) => Ok(stream.on_trial(Trial {
                tries: self.tries.clone(),
                inside,
            })),
            Err(error) => {
                self.tries.failed(error.to_string());
                Err(error)
            }
        }
    }

    /// Each address has its share of the time that is left: a caller waits no longer because a peer has more
    /// of them.
    async fn connect(&self, inside: Inside) -> Result<Stream, DialError> {
        let node = Node(self.node.upgrade().ok_or(DialError::Stopping)?);
        let peer = &self.tries.peer;
        let addresses: Vec<SocketAddr> = {
            let generation = node.generation();
            let peer = generation.policy().peer(peer).ok_or(DialError::Unlisted)?;
            peer.socket_addresses().collect()
        };
        let limits = &node.0.limits;
        let patience = Duration::from_millis(limits.connect_ms);
        let mut left = patience + limits.handshake_deadline();
        // Whoever calls waits for no longer than for one address.
        let patience = patience / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut last = DialError::NoAddress;
        for (address, others) in addresses.iter().zip((1..=addresses.len()).rev()) {
            let began = Instant::now();
            let share = left / u32::try_from(others).unwrap_or(u32::MAX);
            let dialling = connect_to(&node, &self.tries, *address, patience, inside);
            match tokio::time::timeout(share, dialling).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) if error.is_ours() => return Err(error),
                Ok(Err(error)) => last = error,
                Err(_) => last = DialError::Slow(*address),
            }
            left = left.saturating_sub(began.elapsed());
        }
        Err(last)
    }
}

async fn connect_to(
    node: &Node,
    tries: &Tries,
    address: SocketAddr,
    patience: Duration,
    inside: Inside,
) -> Result<Stream, DialError> {
    tries.waits_for(format!("a connection to {address}"));
    let tcp = tokio::time::timeout(patience, TcpStream::connect(address))
        .await
        .unwrap_or(Err(io::ErrorKind::TimedOut.into()));
    let tcp = match tcp {
        Ok(tcp) => tcp,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(DialError::Slow(address));
        }
        Err(error) => return Err(DialError::Connect(address, error)),
    };
    // Without it a small frame waits for the acknowledgement of the one before: 40 ms a call.
    tcp.set_nodelay(true)
        .map_err(|error| DialError::Connect(address, error))?;
    tries.waits_for(format!("the handshake with {address}"));
    let connection = node
        .0
        .handshakes
        .dial(&tries.peer, address, tcp, inside)
        .await
        .map_err(|error| {
            node.0.metrics.handshakes.count("client", error.code());
            DialError::Handshake(address, error)
        })?;
    tries.waits_for(format!("HTTP/2 from {address}"));
    node.0.metrics.handshakes.count("client", "established");
    let facts = &connection.facts;
    tracing::info!(
        peer = %facts.peer.id(),
        address = %facts.remote,
        role = "we dialled",
        tls = facts.version,
        group = facts.group,
        suite = facts.suite,
        pin = %facts.peer.label(),
        signed_by = facts.signed_by.keeper,
        token = &*facts.signed_by.token,
        "connected"
    );
    Ok(node.adopt(connection))
}

/// How long to wait after one more failure when there were so many before: doubling, bounded, and half to
/// all of that by `share`, so that peers that lost each other do not come back in step.
fn wait_after(failures: u32, share: u8) -> Duration {
    let longest = FIRST_WAIT
        .saturating_mul(1 << failures.min(16))
        .min(LONGEST_WAIT);
    longest / 2 + longest / 2 * u32::from(share) / u32::from(u8::MAX)
}

fn random_share() -> u8 {
    let mut random = [0];
    // Without random numbers the wait is the longest: late, never in step by force.
    match aws_lc_rs::rand::fill(&mut random) {
        Ok(()) => random[0],
        Err(_) => u8::MAX,
    }
}

#[cfg(test)]
mod tests;
