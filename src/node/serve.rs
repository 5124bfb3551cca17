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
use crate::proxy::{
    Caller, Code, Direction, Inspect, Look, Other, Pool, Refusal, Session, Target, Upstream, Web,
    tunnel,
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
    /// HTTP/2, whatever it carries.
    Http2 {
        upstream: Upstream,
        pools: PerPeer<Pool>,
    },
    /// HTTP/1.1.
    Http1 {
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
                // Boxed here, as an idle connection should hold it once.
                Some(Ok(stream)) => Box::new(stream),
                Some(Err(_)) => continue,
                None => break,
            },
            Some(_) = sessions.join_next() => continue,
        };
        let connection = stream.connection().clone();
        let (node, routes) = (node.clone(), routes.clone());
        let (application, draining) = (Arc::clone(&application), draining.clone());
        sessions.spawn(async move {
            let served = serve_one(&node, routes, &application, stream, draining).await;
            if let Err(error) = served
                && let Some(unlogged) = node.0.refusal_lines.take(Instant::now())
            {
                let facts = connection.facts();
                let (peer, address) = (facts.peer.name(), facts.remote);
                tracing::warn!(peer, %address, error, unlogged, "a peer's connection was closed");
            }
        });
    }
    while sessions.join_next().await.is_some() {}
}

/// Serves one peer's connection. What it speaks decides about the memory that it holds while it idles.
async fn serve_one(
    node: &Node,
    routes: Routes,
    application: &Spoken,
    stream: Box<Stream>,
    draining: watch::Receiver<bool>,
) -> Result<(), String> {
    let connection = stream.connection().clone();
    let (inside, settings) = (connection.facts().inside, &node.0.proxy);
    if let (Spoken::Tcp(upstream), Inside::Bytes) = (application, inside) {
        if connection.is_listing() {
            return Err("its methods are listed, and what it speaks has none".to_owned());
        }
        let joined = tunnel::join(stream, upstream.connect(), settings, Direction::Ingress);
        return Box::pin(joined).await;
    }
    let Some(route) = Route::new(node, routes, application, connection) else {
        return Ok(());
    };
    let session = Session {
        settings: Arc::clone(settings),
        direction: Direction::Ingress,
        route: move |head: &mut Parts| route.target(head),
    };
    match inside {
        Inside::Http1 => Box::pin(session.serve_http1(stream, draining)).await,
        _ => {
            let served = Box::pin(session.serve(stream, draining)).await;
            served.map_err(|error| error.to_string())
        }
    }
}

/// Where the calls of one peer's connection go.
struct Route {
    node: Node,
    connection: PeerConnection,
    caller: Caller,
    /// Calls to the node itself.
    routes: Routes,
    others: Others,
}

/// Where its other calls go.
enum Others {
    Grpc(Arc<Pool>, Option<Arc<dyn Inspect>>),
    Http2(Arc<Pool>),
    Http1(Arc<Web>),
    /// The application speaks neither.
    Nowhere,
    /// To the node itself too.
    Ours,
}

impl Route {
    /// None for a peer whose name can stand in no header.
    fn new(
        node: &Node,
        routes: Routes,
        application: &Spoken,
        connection: PeerConnection,
    ) -> Option<Self> {
        let peer = &connection.facts().peer;
        let (id, label) = (peer.id().to_string(), peer.label().to_string());
        let caller = Caller::new(peer.name(), &id, &label)?;
        let pool_to = |upstream: &Upstream| {
            let upstream = upstream.clone();
            || Pool::new(upstream, Other::Application, &node.0.proxy)
        };
        let others = match application {
            Spoken::Grpc {
                upstream,
                pools,
                inspect,
            } => {
                let pool = pool_to(upstream);
                Others::Grpc(pools.of(peer.id(), pool), inspect.clone())
            }
            Spoken::Http2 { upstream, pools } => {
                Others::Http2(pools.of(peer.id(), pool_to(upstream)))
            }
            Spoken::Http1 {
                upstream,
                webs,
                all,
            } => {
                let web = || Web::new(upstream.clone(), &node.0.proxy, Arc::clone(all));
                Others::Http1(webs.of(peer.id(), web))
            }
            Spoken::Tcp(_) => Others::Nowhere,
            Spoken::Nothing => Others::Ours,
        };
        Some(Self {
            node: node.clone(),
            connection,
            caller,
            routes,
            others,
        })
    }

    fn target(&self, head: &mut Parts) -> Target {
        let path = match &self.others {
            // There may be a query beside it.
            Others::Http1(_) | Others::Http2(_) => head.uri.path(),
            _ => methods::path(&head.uri),
        };
        if self.node.may_call(&self.connection, path).is_err() {
            return Target::Refuse(methods::refusal());
        }
        let to_us = path.starts_with(OURS);
        match &self.others {
            _ if to_us => self.ours(head),
            Others::Ours => self.ours(head),
            Others::Grpc(pool, inspect) => match self.look(inspect.as_ref(), head) {
                Ok(look) => {
                    self.caller.stamp(&mut head.headers);
                    Target::Pool(Arc::clone(pool), look)
                }
                Err(refusal) => Target::Refuse(refusal),
            },
            Others::Http2(pool) => {
                self.caller.stamp(&mut head.headers);
                Target::Pool(Arc::clone(pool), None)
            }
            Others::Http1(web) => {
                self.caller.stamp(&mut head.headers);
                Target::Web(Arc::clone(web))
            }
            Others::Nowhere => Target::Refuse(Refusal {
                code: Code::Unimplemented,
                message: "the application behind this node does not speak HTTP/2".into(),
            }),
        }
    }

    fn ours(&self, head: &mut Parts) -> Target {
        head.extensions.insert(self.connection.clone());
        Target::Local(self.routes.clone())
    }

    /// What looks at the call, if anything does, once it has seen its head.
    fn look(
        &self,
        inspect: Option<&Arc<dyn Inspect>>,
        head: &Parts,
    ) -> Result<Option<Box<dyn Look>>, Refusal> {
        let Some(inspect) = inspect else {
            return Ok(None);
        };
        let generation = self.node.generation();
        let peer = generation.policy().peer(self.connection.facts().peer.id());
        let peer = peer.ok_or_else(|| Refusal {
            code: Code::PermissionDenied,
            message: "no longer a listed peer".into(),
        })?;
        Arc::clone(inspect).begin(&self.caller, peer.addresses(), head)
    }
}
