//! The application beside us, joined to the network: peers' calls to it, and its calls to peers.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::service::Routes;

use super::Node;
use super::live::Stream;
use crate::config::{Application as Settings, Kind, Place};
use crate::p2pfl::Front;
use crate::policy::PeerId;
use crate::proxy::{
    Asked, ByteStream, Caller, Code, Direction, Inspect, Pool, Refusal, Session, Target, Upstream,
    asked, clean, health,
};

/// Connections of the application to us, at once.
pub(super) const CONNECTIONS: usize = 1024;
/// Calls to these are answered by the node itself.
const OURS: &str = "/fastness.";

/// What the node was given of the application; the default is none.
#[derive(Default)]
pub(super) struct Application {
    upstream: Option<Arc<Pool>>,
    /// The service whose health the application tells us.
    health: Option<String>,
    /// What looks at peers' calls before the application does.
    inspect: Option<Arc<dyn Inspect>>,
    doors: Vec<Door>,
}

/// A place where the application calls us.
pub(super) struct Door {
    listener: Listener,
    at: String,
    /// User id that may call; it is not known of a loopback address.
    user: u32,
    /// Connections at once: the kernel's queue holds more of them back.
    most: usize,
    /// Whom it stands for; an HTTP CONNECT proxy stands for all.
    peer: Option<String>,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
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
            // A connection within this host does not vanish silently.
            Arc::new(Pool::new(upstream, node.0.proxy.client(), None))
        });
        let inspect = settings.kind.map(|kind| match kind {
            Kind::P2pfl => Arc::new(Front::new(settings, &node.0.limits)) as Arc<dyn Inspect>,
        });
        Ok(Self {
            upstream,
            health: settings.health.clone(),
            inspect,
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
        if let (Some(upstream), Some(service)) = (self.upstream.clone(), self.health.clone()) {
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
                upstream: Arc::clone(upstream),
                inspect: self.inspect.clone(),
            };
            sessions.spawn(peer_session(node, stream, behind, draining));
        }
        while sessions.join_next().await.is_some() {}
    }

    /// The places where it listens for the application's calls to peers.
    pub(super) fn take_doors(&mut self) -> impl Iterator<Item = Door> + use<> {
        std::mem::take(&mut self.doors).into_iter()
    }
}

/// Who answers a peer's calls.
struct Behind {
    /// Calls to the node itself.
    routes: Routes,
    /// All others.
    upstream: Arc<Pool>,
    inspect: Option<Arc<dyn Inspect>>,
}

impl Behind {
    /// Where a call goes that is for the application.
    fn target(&self, node: &Node, id: &PeerId, caller: &Caller, head: &mut Parts) -> Target {
        let look = match &self.inspect {
            Some(inspect) => {
                let generation = node.generation();
                let Some(peer) = generation.policy().peer(id) else {
                    return Target::Refuse(Refusal {
                        code: Code::PermissionDenied,
                        message: "no longer a listed peer".into(),
                    });
                };
                match Arc::clone(inspect).begin(caller, peer.addresses(), head) {
                    Ok(look) => look,
                    Err(refusal) => return Target::Refuse(refusal),
                }
            }
            None => None,
        };
        caller.stamp(&mut head.headers);
        Target::Pool(Arc::clone(&self.upstream), look)
    }
}

async fn peer_session(node: Node, stream: Stream, behind: Behind, draining: watch::Receiver<bool>) {
    let connection = stream.connection().clone();
    let peer = &connection.0.peer;
    let Some(caller) = Caller::new(
        peer.name(),
        &peer.id().to_string(),
        &peer.label().to_string(),
    ) else {
        return;
    };
    let (name, address) = (peer.name().to_owned(), connection.0.remote);
    let unlogged = node.clone();
    let session = Session {
        settings: Arc::clone(&node.0.proxy),
        direction: Direction::Ingress,
        route: move |head: &mut Parts| {
            if head.uri.path().starts_with(OURS) {
                head.extensions.insert(connection.clone());
                return Target::Local(behind.routes.clone());
            }
            behind.target(&node, connection.0.peer.id(), &caller, head)
        },
    };
    if let Err(error) = session.serve(stream, draining).await
        && let Some(unlogged) = unlogged.0.refusal_lines.take(Instant::now())
    {
        tracing::warn!(peer = name, %address, %error, unlogged, "a peer's connection was closed");
    }
}

impl Door {
    /// Takes the application's connections in, from when the node is `attested` until it drains and all
    /// calls have ended.
    pub(super) async fn keep(
        self,
        node: Node,
        mut attested: watch::Receiver<bool>,
        mut draining: watch::Receiver<bool>,
    ) {
        if attested.wait_for(|attested| *attested).await.is_err() {
            return;
        }
        let mut sessions = JoinSet::new();
        let stopping = draining.clone();
        let drained = async move {
            let _ = draining.wait_for(|draining| *draining).await;
        };
        tokio::pin!(drained);
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(), if sessions.len() < self.most => accepted,
                Some(_) = sessions.join_next() => continue,
                () = &mut drained => break,
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(at = self.at, %error, "cannot accept the application");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (node, stopping) = (node.clone(), stopping.clone());
            let (at, peer) = (self.at.clone(), self.peer.clone());
            sessions.spawn(async move {
                if let Err(error) = application_session(&node, stream, peer, stopping).await
                    && let Some(unlogged) = node.0.refusal_lines.take(Instant::now())
                {
                    tracing::warn!(
                        at,
                        error,
                        unlogged,
                        "the application's connection was closed"
                    );
                }
            });
        }
        while sessions.join_next().await.is_some() {}
    }

    async fn accept(&self) -> io::Result<Box<dyn ByteStream>> {
        match &self.listener {
            Listener::Tcp(listener) => {
                let (tcp, _) = listener.accept().await?;
                tcp.set_nodelay(true)?;
                Ok(Box::new(tcp))
            }
            Listener::Unix(listener) => loop {
                let (unix, _) = listener.accept().await?;
                let user = unix.peer_cred()?.uid();
                if user == self.user {
                    return Ok(Box::new(unix));
                }
                tracing::warn!(
                    at = self.at,
                    user,
                    expected = self.user,
                    "somebody else than the application was turned away"
                );
            },
        }
    }
}

/// Serves one connection of the application to us.
async fn application_session(
    node: &Node,
    stream: Box<dyn ByteStream>,
    peer: Option<String>,
    stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    let said = |error: &dyn std::error::Error| error.to_string();
    match peer {
        Some(peer) => call_peer(node, stream, &peer, stopping).await,
        None => {
            let Some(asked) = asked(stream).await.map_err(|error| said(&error))? else {
                return Err("it does not ask for an address with HTTP CONNECT".into());
            };
            connect(node, asked, stopping).await
        }
    }
}

/// Answers an HTTP CONNECT.
async fn connect(
    node: &Node,
    asked: Asked<Box<dyn ByteStream>>,
    stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    let peer = node
        .generation()
        .policy()
        .at(&asked.authority)
        .map(|peer| peer.name().to_owned());
    let Some(peer) = peer else {
        let wanted = asked.authority.clone();
        asked.refuse("no listed peer has this address").await;
        return Err(format!("no listed peer has the address {wanted:?}"));
    };
    let stream = asked
        .established()
        .await
        .map_err(|error| error.to_string())?;
    call_peer(node, stream, &peer, stopping).await
}

async fn call_peer(
    node: &Node,
    stream: impl ByteStream,
    peer: &str,
    stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    let pool = node.dialer(peer).map(|dialer| dialer.pool());
    let unlisted = format!("the peer {peer} is no longer in the policy");
    let session = Session {
        settings: Arc::clone(&node.0.proxy),
        direction: Direction::Egress,
        route: move |head: &mut Parts| {
            clean(&mut head.headers);
            match &pool {
                Ok(pool) => Target::Pool(Arc::clone(pool), None),
                Err(_) => Target::Refuse(Refusal::unavailable(&*unlisted)),
            }
        },
    };
    session
        .serve(stream, stopping)
        .await
        .map_err(|error| error.to_string())
}
