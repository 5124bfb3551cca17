//! The application beside us, joined to the network: peers' calls to it, and its calls to peers.

mod door;
mod ingress;

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::service::Routes;

use super::Node;
use super::live::Stream;
use crate::config::{Application as Settings, Kind, Mode, Place};
use crate::p2pfl::Front;
use crate::proxy::{Inspect, Pool, Upstream, Web, health};
use crate::tls::Inside;
use door::{Door, Listener};
use ingress::{Behind, Spoken};

/// Connections of the application to us, at once.
const CONNECTIONS: usize = 1024;

/// As many, where there is one.
pub(crate) fn connections(settings: Option<&Settings>) -> usize {
    settings.map_or(0, |_| CONNECTIONS)
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
    upstream: Option<Spoken>,
    /// The service whose health the application tells us.
    health: Option<String>,
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
                    most: CONNECTIONS / settings.listens().count(),
                    peer,
                })
            })
            .collect::<io::Result<_>>()?;
        let patience = Duration::from_millis(node.0.limits.connect_ms);
        let upstream = settings.upstream.clone().map(|place| {
            let upstream = Upstream::new(place, settings.user, patience);
            match settings.mode {
                Mode::Grpc => {
                    let inspect = settings.kind.map(|kind| match kind {
                        Kind::P2pfl => {
                            Arc::new(Front::new(settings, &node.0.limits)) as Arc<dyn Inspect>
                        }
                    });
                    // A connection within this host does not vanish silently.
                    let pool = Pool::new(upstream, node.0.proxy.client(), None);
                    Spoken::Grpc(Arc::new(pool), inspect)
                }
                Mode::Http => Spoken::Http(Box::new(Web::new(upstream))),
                Mode::Tcp => Spoken::Tcp(upstream),
            }
        });
        Ok(Self {
            upstream,
            health: settings.health.clone(),
            doors,
        })
    }

    /// Whether peers' calls go to the application.
    pub(super) fn serves(&self) -> bool {
        self.upstream.is_some()
    }

    /// Follows the application's health; without a question it is well.
    pub(super) fn health(&self) -> watch::Receiver<bool> {
        let (well, follows) = watch::channel(true);
        if let (Some(Spoken::Grpc(upstream, _)), Some(service)) =
            (self.upstream.clone(), self.health.clone())
        {
            tokio::spawn(async move { health::watch(&upstream, &service, well).await });
        }
        follows
    }

    /// Serves established connections: calls to the node itself by `routes`, all others by the
    /// application. Comes to its end when the node drains and all calls have ended.
    pub(super) async fn ingress(
        &self,
        node: &Node,
        routes: &Routes,
        mut accepted: mpsc::Receiver<io::Result<Stream>>,
        draining: watch::Receiver<bool>,
    ) {
        let Some(upstream) = &self.upstream else {
            return;
        };
        let mut sessions = JoinSet::new();
        loop {
            let stream = tokio::select! {
                accepted = accepted.recv() => match accepted {
                    Some(Ok(stream)) => stream,
                    Some(Err(_)) => continue,
                    None => break,
                },
                Some(_) = sessions.join_next() => continue,
            };
            let (node, draining) = (node.clone(), draining.clone());
            let behind = Behind {
                routes: routes.clone(),
                application: upstream.clone(),
            };
            let connection = stream.connection().clone();
            sessions.spawn(behind.serve(node, connection, Box::new(stream), draining));
        }
        while sessions.join_next().await.is_some() {}
    }

    /// The places where it listens for the application's calls to peers.
    pub(super) fn take_doors(&mut self) -> impl Iterator<Item = Door> + use<> {
        std::mem::take(&mut self.doors).into_iter()
    }
}
