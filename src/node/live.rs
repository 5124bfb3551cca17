//! The established connections: what each one is, for as long as it lives.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

use crate::role::TlsRole;
use crate::rpc::admin;
use crate::tls::{Connection, ConnectionFacts};

/// What a service may know of the connection that a call came in on: an extension of the request.
#[derive(Clone, Debug)]
pub struct PeerConnection(pub Arc<ConnectionFacts>);

impl PeerConnection {
    /// The connection behind `request`; `None` on a request that did not come through a node.
    pub fn of<T>(request: &tonic::Request<T>) -> Option<&Self> {
        request.extensions().get()
    }
}

/// All live connections of a node.
#[derive(Debug, Default)]
pub(super) struct Live {
    next: AtomicU64,
    connections: Mutex<BTreeMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    facts: Arc<ConnectionFacts>,
    since: Instant,
}

impl Live {
    /// Registers a connection that a peer made, unless it has `most` of them: then its facts come back.
    pub(super) fn admit(
        self: &Arc<Self>,
        connection: Connection,
        most: usize,
    ) -> Result<Stream, Box<ConnectionFacts>> {
        let peer = connection.facts.peer.id();
        let mut entries = self.entries();
        let made = |entry: &&Entry| {
            let other = &entry.facts.peer;
            other.role() == TlsRole::Client && other.id() == peer
        };
        if entries.values().filter(made).count() >= most {
            return Err(Box::new(connection.facts));
        }
        Ok(self.register(connection, &mut entries))
    }

    /// Registers a connection.
    pub(super) fn adopt(self: &Arc<Self>, connection: Connection) -> Stream {
        self.register(connection, &mut self.entries())
    }

    fn register(
        self: &Arc<Self>,
        connection: Connection,
        entries: &mut BTreeMap<u64, Entry>,
    ) -> Stream {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let facts = Arc::new(connection.facts);
        let entry = Entry {
            facts: Arc::clone(&facts),
            since: Instant::now(),
        };
        entries.insert(number, entry);
        Stream {
            tls: connection.stream,
            facts: PeerConnection(facts),
            _registration: Registration {
                number,
                live: Arc::clone(self),
            },
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.entries().len()
    }

    /// How many there are with peers in `role`.
    pub(super) fn count_of(&self, role: TlsRole) -> usize {
        self.entries()
            .values()
            .filter(|entry| entry.facts.peer.role() == role)
            .count()
    }

    /// Every connection, the oldest first, in the words of the admin socket.
    pub(super) fn list(&self) -> Vec<admin::Connection> {
        self.entries().values().map(Entry::describe).collect()
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn describe(&self) -> admin::Connection {
        let facts = &self.facts;
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
            age_seconds: self.since.elapsed().as_secs(),
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
        self.live.entries().remove(&self.number);
    }
}

/// A registered connection, for hyper.
#[derive(Debug)]
pub(super) struct Stream {
    tls: TlsStream<TcpStream>,
    facts: PeerConnection,
    /// Held for its drop.
    _registration: Registration,
}

impl Stream {
    /// What is known of it.
    pub(super) fn connection(&self) -> &PeerConnection {
        &self.facts
    }
}

impl Connected for Stream {
    type ConnectInfo = PeerConnection;

    fn connect_info(&self) -> PeerConnection {
        self.facts.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
