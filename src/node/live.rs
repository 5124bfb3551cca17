//! The established connections: what each one is, and whether it may stay, for as long as it lives.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::Connected;

use super::dial::Trial;
use crate::policy::{Grant, PeerId, PeerPolicy, Reason};
use crate::role::TlsRole;
use crate::rpc::admin;
use crate::tls::{Connection, ConnectionFacts, Generation, TlsStream};

/// What a service may know of the connection that a call came in on: an extension of the request.
#[derive(Clone, Debug)]
pub struct PeerConnection(Arc<Established>);

#[derive(Debug)]
struct Established {
    facts: ConnectionFacts,
    since: Instant,
    /// What the policy in force says of the peer, not the one of the handshake.
    standing: RwLock<Result<Grant, Reason>>,
    /// There is a reason: nothing more goes in or out.
    closed: AtomicBool,
    /// Who waits for the peer's next bytes.
    waiting: AtomicWaker,
}

impl PeerConnection {
    /// The connection behind `request`; `None` on a request that did not come through a node.
    pub fn of<T>(request: &tonic::Request<T>) -> Option<&Self> {
        request.extensions().get()
    }

    /// What its handshake settled.
    pub fn facts(&self) -> &ConnectionFacts {
        &self.0.facts
    }

    /// Whether the policy in force lets the peer call `path`.
    pub(super) fn may_call(&self, path: &str) -> Result<(), Reason> {
        let standing = self.0.standing.read();
        match &*standing.unwrap_or_else(PoisonError::into_inner) {
            Ok(grant) => grant.methods().decide(path),
            Err(reason) => Err(*reason),
        }
    }

    /// Whether the policy in force lists what the peer may call: bytes without a protocol's name call
    /// nothing that could stand in a list.
    pub(super) fn is_listing(&self) -> bool {
        let standing = self.0.standing.read();
        match &*standing.unwrap_or_else(PoisonError::into_inner) {
            Ok(grant) => grant.methods().patterns().is_some(),
            Err(_) => true,
        }
    }

    /// Puts `policy` in force for it: what that does not allow is closed.
    fn judge(&self, policy: &PeerPolicy) {
        let judged = policy.decide_again(&self.facts().peer).into_result();
        if let Err(reason) = &judged {
            let facts = self.facts();
            self.0.closed.store(true, Ordering::Release);
            self.0.waiting.wake();
            tracing::warn!(
                peer = %facts.peer.id(),
                address = %facts.remote,
                code = reason.code(),
                "closed: the policy in force does not allow it: {reason}"
            );
        }
        *self
            .0
            .standing
            .write()
            .unwrap_or_else(PoisonError::into_inner) = judged;
    }

    fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }
}

/// All live connections of a node.
#[derive(Debug, Default)]
pub(super) struct Live {
    next: AtomicU64,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    /// By their number: the oldest comes first.
    all: BTreeMap<u64, PeerConnection>,
    /// How many each peer has made.
    made: HashMap<PeerId, usize>,
}

impl Connections {
    fn insert(&mut self, number: u64, connection: PeerConnection) {
        let peer = &connection.facts().peer;
        if peer.role() == TlsRole::Client {
            *self.made.entry(peer.id().clone()).or_default() += 1;
        }
        self.all.insert(number, connection);
    }

    fn remove(&mut self, number: u64) {
        let Some(connection) = self.all.remove(&number) else {
            return;
        };
        let peer = &connection.facts().peer;
        if peer.role() == TlsRole::Client
            && let Some(made) = self.made.get_mut(peer.id())
        {
            *made -= 1;
            if *made == 0 {
                self.made.remove(peer.id());
            }
        }
    }
}

impl Live {
    /// Registers a connection that a peer made as [`Self::adopt`] does, unless it has `most` of them: then
    /// its facts come back.
    pub(super) fn admit(
        self: &Arc<Self>,
        connection: Connection,
        newest: impl FnOnce() -> Arc<Generation>,
        most: usize,
    ) -> Result<Stream, Box<ConnectionFacts>> {
        let mut connections = self.connections();
        let made = connections.made.get(connection.facts.peer.id());
        if made.is_some_and(|made| *made >= most) {
            return Err(Box::new(connection.facts));
        }
        Ok(self.register(connection, newest, &mut connections))
    }

    /// Registers a connection, under the `newest` generation: one may have come since its handshake
    /// was judged.
    pub(super) fn adopt(
        self: &Arc<Self>,
        connection: Connection,
        newest: impl FnOnce() -> Arc<Generation>,
    ) -> Stream {
        self.register(connection, newest, &mut self.connections())
    }

    fn register(
        self: &Arc<Self>,
        connection: Connection,
        newest: impl FnOnce() -> Arc<Generation>,
        connections: &mut Connections,
    ) -> Stream {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let facts = connection.facts;
        let established = PeerConnection(Arc::new(Established {
            standing: RwLock::new(Ok(facts.peer.clone())),
            facts,
            since: Instant::now(),
            closed: AtomicBool::new(false),
            waiting: AtomicWaker::new(),
        }));
        established.judge(newest().policy());
        connections.insert(number, established.clone());
        Stream {
            tls: connection.stream,
            connection: established,
            trial: None,
            _registration: Registration {
                number,
                live: Arc::clone(self),
            },
        }
    }

    /// Puts the `newest` generation in force for all of them. It is asked for once nobody else can be
    /// registered or judged, so that none stays under an older one.
    pub(super) fn judge(&self, newest: impl FnOnce() -> Arc<Generation>) {
        let connections = self.connections();
        let newest = newest();
        for connection in connections.all.values() {
            connection.judge(newest.policy());
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.connections().all.len()
    }

    /// How many there are with peers in `role`.
    pub(super) fn count_of(&self, role: TlsRole) -> usize {
        self.connections()
            .all
            .values()
            .filter(|connection| connection.facts().peer.role() == role)
            .count()
    }

    /// Every connection, the oldest first, in the words of the admin socket.
    pub(super) fn list(&self) -> Vec<admin::Connection> {
        let connections = self.connections();
        connections
            .all
            .values()
            .map(PeerConnection::describe)
            .collect()
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerConnection {
    pub(super) fn describe(&self) -> admin::Connection {
        let facts = self.facts();
        admin::Connection {
            peer_name: facts.peer.name().into(),
            peer_id: facts.peer.id().to_string(),
            peer_role: facts.peer.role().to_string(),
            address: facts.remote.to_string(),
            tls_version: facts.version.into(),
            group: facts.group.into(),
            cipher_suite: facts.suite.into(),
            pin_label: facts.peer.label().to_string(),
            spki_pin: facts.peer.end_entity().pin().to_string(),
            signed_by_pid: facts.signed_by.keeper,
            signed_in_token: facts.signed_by.token.to_string(),
            age_seconds: self.0.since.elapsed().as_secs(),
        }
    }
}

#[derive(Debug)]
struct Registration {
    number: u64,
    live: Arc<Live>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.live.connections().remove(self.number);
    }
}

/// A registered connection, for hyper.
#[derive(Debug)]
pub(super) struct Stream {
    tls: TlsStream<TcpStream>,
    connection: PeerConnection,
    /// We made it, and nothing has come yet.
    trial: Option<Trial>,
    /// Held for its drop.
    _registration: Registration,
}

impl Stream {
    /// What is known of it.
    pub(super) fn connection(&self) -> &PeerConnection {
        &self.connection
    }

    /// The same, whose first bytes, or their absence, `trial` hears of.
    pub(super) fn on_trial(mut self, trial: Trial) -> Self {
        self.trial = Some(trial);
        self
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(trial) = &self.trial {
            trial.ended();
        }
    }
}

/// What reading and writing find on a closed connection.
fn closed<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
}

impl Connected for Stream {
    type ConnectInfo = PeerConnection;

    fn connect_info(&self) -> PeerConnection {
        self.connection.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.connection.is_closed() {
            return closed();
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.tls).poll_read(cx, buffer);
        if let Some(trial) = &self.trial
            && trial.is_over(&read, buffer.filled().len() > before)
        {
            self.trial = None;
        }
        if read.is_pending() {
            self.connection.0.waiting.register(cx.waker());
            // Closed since, it would wait for ever.
            if self.connection.is_closed() {
                return closed();
            }
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.connection.is_closed() {
            return closed();
        }
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.connection.is_closed() {
            return closed();
        }
        Pin::new(&mut self.tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
