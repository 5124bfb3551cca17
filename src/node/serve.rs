//! Peers' calls: to the node itself, or to the application behind it.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tonic::service::Routes;

use super::live::{PeerConnection, Stream};
use super::per_peer::PerPeer;
use super::{Node, methods};
use crate::config::size;
use crate::policy::PeerId;
use crate::proxy::{
    ByteStream, Caller, Code, Direction, Inspect, Other, Pool, Refusal, Session, Target, Upstream,
    Web, tunnel,
};
use crate::tls::Inside;

/// Calls to these are answered by the node itself.
const OURS: &str = "/fastness.";

/// The application, by what it speaks. What one peer's calls stand on, no other's do: connections to the
/// application are shared by the calls of one peer alone.
#[derive(Default)]
pub(super) enum Spoken {
    /// gRPC, and what looks at it before the application does.
    Grpc {
        upstream: Upstream,
        pools: PerPeer<Pool>,
        inspect: Option<Arc<dyn Inspect>>,
    },
    /// HTTP/1.1.
    Http {
        upstream: Upstream,
        webs: PerPeer<Web>,
        /// Connections to the application, those for all peers together.
        all: Arc<Semaphore>,
    },
    /// Any bytes.
    Tcp(Upstream),
    /// None: the node answers all calls itself.
    #[default]
    Nothing,
}

/// Serves established connections: calls to the node itself by `routes`, all others by the application, if
/// there is one. Comes to its end when the node drains and all calls have ended.
pub(super) async fn serve(
    node: &Node,
    routes: &Routes,
    application: Arc<Spoken>,
    mut accepted: mpsc::Receiver<io::Result<Stream>>,
    draining: watch::Receiver<bool>,
) {
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
            application: Arc::clone(&application),
        };
        let connection = stream.connection().clone();
        sessions.spawn(behind.serve(node, connection, Box::new(stream), draining));
    }
    while sessions.join_next().await.is_some() {}
}

/// Who answers a peer's calls.
struct Behind {
    /// Calls to the node itself.
    routes: Routes,
    /// All others.
    application: Arc<Spoken>,
}

impl Behind {
    /// Serves one peer's connection. What it speaks decides about the memory that it holds while it idles.
    async fn serve(
        self,
        node: Node,
        connection: PeerConnection,
        stream: Box<dyn ByteStream>,
        draining: watch::Receiver<bool>,
    ) {
        let facts = connection.facts();
        let peer = &facts.peer;
        let (id, label) = (peer.id().to_string(), peer.label().to_string());
        let Some(caller) = Caller::new(peer.name(), &id, &label) else {
            return;
        };
        let settings = &node.0.proxy;
        let ended = match (&*self.application, facts.inside) {
            (Spoken::Tcp(_), Inside::Bytes) if connection.is_listing() => {
                Err("its methods are listed, and what it speaks has none".to_owned())
            }
            (Spoken::Tcp(upstream), Inside::Bytes) => {
                let joined = tunnel::join(stream, upstream.connect(), settings, Direction::Ingress);
                Box::pin(joined).await
            }
            (
                Spoken::Http {
                    upstream,
                    webs,
                    all,
                },
                inside,
            ) => {
                let most = size(node.0.limits.peer_connections);
                let web = || Web::new(upstream.clone(), most, Arc::clone(all));
                let session = Session {
                    settings: Arc::clone(settings),
                    direction: Direction::Ingress,
                    route: AtHttp {
                        node: node.clone(),
                        web: webs.of(peer.id(), web),
                        routes: self.routes,
                        caller,
                        connection: connection.clone(),
                    }
                    .route(),
                };
                match inside {
                    Inside::H2 => {
                        let served = Box::pin(session.serve(stream, draining)).await;
                        served.map_err(|error| error.to_string())
                    }
                    _ => Box::pin(session.serve_http1(stream, draining)).await,
                }
            }
            (application, _) => {
                let at = match application {
                    Spoken::Grpc {
                        upstream,
                        pools,
                        inspect,
                    } => {
                        let pool = || Pool::new(upstream.clone(), Other::Application, settings);
                        Some(AtGrpc {
                            pool: pools.of(peer.id(), pool),
                            inspect: inspect.clone(),
                        })
                    }
                    _ => None,
                };
                let alone = matches!(application, Spoken::Nothing);
                let session = Session {
                    settings: Arc::clone(settings),
                    direction: Direction::Ingress,
                    route: {
                        let (node, connection) = (node.clone(), connection.clone());
                        move |head: &mut Parts| {
                            let path = methods::path(&head.uri);
                            if node.may_call(&connection, path).is_err() {
                                return Target::Refuse(methods::refusal());
                            }
                            if alone || head.uri.path().starts_with(OURS) {
                                head.extensions.insert(connection.clone());
                                return Target::Local(self.routes.clone());
                            }
                            target(
                                at.as_ref(),
                                &node,
                                connection.facts().peer.id(),
                                &caller,
                                head,
                            )
                        }
                    },
                };
                let served = Box::pin(session.serve(stream, draining)).await;
                served.map_err(|error| error.to_string())
            }
        };
        if let Err(error) = ended
            && let Some(unlogged) = node.0.refusal_lines.take(Instant::now())
        {
            let (peer, address) = (facts.peer.name(), facts.remote);
            tracing::warn!(peer, %address, error, unlogged, "a peer's connection was closed");
        }
    }
}

/// Where a call goes that is for the application.
fn target(
    at: Option<&AtGrpc>,
    node: &Node,
    id: &PeerId,
    caller: &Caller,
    head: &mut Parts,
) -> Target {
    let Some(AtGrpc { pool, inspect }) = at else {
        return Target::Refuse(Refusal {
            code: Code::Unimplemented,
            message: "the application behind this node does not speak HTTP/2".into(),
        });
    };
    let look = match inspect {
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
    Target::Pool(Arc::clone(pool), look)
}

/// One peer's way to an application that speaks gRPC.
struct AtGrpc {
    pool: Arc<Pool>,
    inspect: Option<Arc<dyn Inspect>>,
}

/// One peer's connection to an application that speaks HTTP/1.1.
struct AtHttp {
    node: Node,
    web: Arc<Web>,
    routes: Routes,
    caller: Caller,
    connection: PeerConnection,
}

impl AtHttp {
    fn route(self) -> impl Fn(&mut Parts) -> Target {
        move |head| {
            // Beside the path there may be a query here.
            let path = head.uri.path();
            if self.node.may_call(&self.connection, path).is_err() {
                return Target::Refuse(methods::refusal());
            }
            if path.starts_with(OURS) {
                head.extensions.insert(self.connection.clone());
                return Target::Local(self.routes.clone());
            }
            self.caller.stamp(&mut head.headers);
            Target::Web(Arc::clone(&self.web))
        }
    }
}
