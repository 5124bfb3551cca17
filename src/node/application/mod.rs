//! The application beside us, joined to the network: peers' calls to it, and its calls to peers.

mod door;
mod room;

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

use super::Node;
use super::per_peer::PerPeer;
use super::serve::Spoken;
use crate::config::{Application as Settings, Kind, Mode, Place, size};
use crate::p2pfl::Front;
use crate::proxy::{Inspect, Other, Pool, Upstream, health};
use crate::telemetry::Lines;
use crate::tls::Inside;
use door::{Door, Listener};
use room::Room;

/// Connections of the application to us, at once: so many for all places together, of which each has a few that
/// no other takes from it.
const CONNECTIONS: usize = 1024;
const OWN_CONNECTIONS: usize = 2;

/// Connections of the application at once that any of its `places` may have beside its own.
fn shared(places: usize) -> usize {
    CONNECTIONS.saturating_sub(places * OWN_CONNECTIONS)
}

/// Descriptors of the node for the calls of the application; a connection that carries any bytes has
/// another to the peer.
pub(crate) fn descriptors(settings: Option<&Settings>) -> usize {
    let Some(settings) = settings else { return 0 };
    let places = match settings.listens().count() {
        0 => return 0,
        places => places,
    };
    let each = match settings.mode {
        Mode::Tcp => 2,
        Mode::Grpc | Mode::Http => 1,
    };
    (shared(places) + places * OWN_CONNECTIONS) * each
}

/// Descriptors of a peer's connection: its own, and that to the application for its calls.
pub(crate) fn per_connection(settings: Option<&Settings>) -> u64 {
    match settings {
        Some(settings) if settings.upstream.is_some() => 2,
        _ => 1,
    }
}

/// What is spoken, beside HTTP/2, with peers that dial a node with this application.
pub(super) fn spoken(settings: Option<&Settings>) -> Option<Inside> {
    let settings = settings.filter(|settings| settings.upstream.is_some())?;
    match settings.mode {
        Mode::Grpc => None,
        Mode::Http => Some(Inside::Http1),
        Mode::Tcp => Some(Inside::Bytes),
    }
}

/// What the node was given of the application; the default is none.
#[derive(Default)]
pub(super) struct Application {
    spoken: Arc<Spoken>,
    /// The service whose health the application tells us, and the connection on which we ask.
    health: Option<(Arc<Pool>, String)>,
    doors: Vec<Door>,
}

impl Application {
    /// Takes the sockets that came for `settings`, in the order of [`Settings::listens`].
    pub(super) fn new(
        settings: &Settings,
        sockets: impl IntoIterator<Item = OwnedFd>,
        node: &Node,
    ) -> io::Result<Self> {
        let peers = settings.egress.iter().map(|egress| &egress.peer);
        let peers = peers.map(|peer| Some(peer.clone())).chain([None]);
        let shared = Arc::new(Semaphore::new(shared(settings.listens().count())));
        let doors = sockets
            .into_iter()
            .zip(settings.listens().zip(peers))
            .map(|(socket, (at, peer))| {
                Ok(Door {
                    listener: match at {
                        Place::Unix(_) => {
                            Listener::Unix(UnixListener::from_std(StdUnixListener::from(socket))?)
                        }
                        Place::Tcp(_) => {
                            Listener::Tcp(TcpListener::from_std(StdTcpListener::from(socket))?)
                        }
                    },
                    mode: settings.mode,
                    at: at.to_string(),
                    user: settings.user,
                    room: Room::new(OWN_CONNECTIONS, &shared),
                    peer,
                    lines: Lines::default(),
                })
            })
            .collect::<io::Result<_>>()?;
        let limits = &node.0.limits;
        let patience = Duration::from_millis(limits.connect_ms);
        let reach = |place: &Place| Upstream::new(place.clone(), settings.user, patience);
        let upstream = settings.upstream.as_ref().map(reach);
        let spoken = upstream
            .clone()
            .map_or(Spoken::Nothing, |upstream| match settings.mode {
                Mode::Grpc => Spoken::Grpc {
                    upstream,
                    pools: PerPeer::default(),
                    inspect: settings.kind.map(|kind| match kind {
                        Kind::P2pfl => Arc::new(Front::new(settings, limits)) as Arc<dyn Inspect>,
                    }),
                },
                Mode::Http if settings.http2 => Spoken::Http2 {
                    upstream,
                    pools: PerPeer::default(),
                },
                Mode::Http => Spoken::Http1 {
                    upstream,
                    webs: PerPeer::default(),
                    all: Arc::new(Semaphore::new(size(limits.connections))),
                },
                Mode::Tcp => Spoken::Tcp(upstream),
            });
        Ok(Self {
            spoken: Arc::new(spoken),
            // A connection of its own: no peer's calls are in its way.
            health: upstream
                .zip(settings.health.clone())
                .map(|(upstream, service)| {
                    let pool = Pool::new(upstream, Other::Application, &node.0.proxy);
                    (Arc::new(pool), service)
                }),
            doors,
        })
    }

    /// Follows the application's health; without a question it is well, with one when it says so.
    pub(super) fn health(&mut self) -> watch::Receiver<bool> {
        let (well, follows) = watch::channel(self.health.is_none());
        if let Some((pool, service)) = self.health.take() {
            tokio::spawn(async move { health::watch(&pool, &service, well).await });
        }
        follows
    }

    /// What peers' calls are passed on to.
    pub(super) fn behind(&self) -> Arc<Spoken> {
        Arc::clone(&self.spoken)
    }

    /// The places where it listens for the application's calls to peers.
    pub(super) fn take_doors(&mut self) -> impl Iterator<Item = Door> + use<> {
        std::mem::take(&mut self.doors).into_iter()
    }
}
