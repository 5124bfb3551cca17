//! Peers' calls to the application.

use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt;

use super::super::live::PeerConnection;
use super::super::{Node, methods};
use crate::policy::PeerId;
use crate::proxy::{
    Answer, ByteStream, Caller, Code, Direction, Inspect, Pool, Refusal, Session, Target, Upstream,
    Web, tunnel, web,
};
use crate::tls::Inside;

/// Calls to these are answered by the node itself.
const OURS: &str = "/fastness.";

/// The application, by what it speaks.
#[derive(Clone)]
pub(super) enum Spoken {
    /// gRPC, and what looks at it before the application does.
    Grpc(Arc<Pool>, Option<Arc<dyn Inspect>>),
    /// HTTP/1.1.
    Http(Box<Web>),
    /// Any bytes.
    Tcp(Upstream),
}

/// Who answers a peer's calls.
#[derive(Clone)]
pub(super) struct Behind {
    /// Calls to the node itself.
    pub(super) routes: Routes,
    /// All others.
    pub(super) application: Spoken,
}

impl Behind {
    /// Serves one peer's connection. What it speaks decides about the memory that it holds while it idles.
    pub(super) async fn serve(
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
        let ended = match (self.application.clone(), facts.inside) {
            (Spoken::Tcp(_), Inside::Bytes) if connection.is_listing() => {
                Err("its methods are listed, and what it speaks has none".to_owned())
            }
            (Spoken::Tcp(upstream), Inside::Bytes) => match upstream.connect().await {
                Ok(application) => Box::pin(tunnel::join(stream, application, node.0.proxy.age()))
                    .await
                    .map_err(|error| error.to_string()),
                Err(error) => Err(error),
            },
            (Spoken::Http(web), _) => {
                let at = AtHttp {
                    node: node.clone(),
                    web: *web,
                    routes: self.routes,
                    caller,
                    connection: connection.clone(),
                };
                let ask = move |request| at.clone().ask(request);
                Box::pin(web::serve(&node.0.proxy, stream, draining, ask)).await
            }
            _ => {
                let session = Session {
                    settings: Arc::clone(&node.0.proxy),
                    direction: Direction::Ingress,
                    route: {
                        let (node, connection) = (node.clone(), connection.clone());
                        move |head: &mut Parts| {
                            let path = methods::path(&head.uri);
                            if node.may_call(&connection, path).is_err() {
                                return Target::Refuse(methods::refusal());
                            }
                            if head.uri.path().starts_with(OURS) {
                                head.extensions.insert(connection.clone());
                                return Target::Local(self.routes.clone());
                            }
                            self.target(&node, connection.facts().peer.id(), &caller, head)
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

    /// Where a call goes that is for the application.
    fn target(&self, node: &Node, id: &PeerId, caller: &Caller, head: &mut Parts) -> Target {
        let Spoken::Grpc(pool, inspect) = &self.application else {
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
}

/// One peer's connection to an application that speaks HTTP/1.1.
#[derive(Clone)]
struct AtHttp {
    node: Node,
    web: Web,
    routes: Routes,
    caller: Caller,
    connection: PeerConnection,
}

impl AtHttp {
    async fn ask(self, mut request: http::Request<Body>) -> Answer {
        // Beside the path there may be a query here.
        let path = request.uri().path();
        if self.node.may_call(&self.connection, path).is_err() {
            return Ok(methods::response(&request));
        }
        if request.uri().path().starts_with(OURS) {
            request.extensions_mut().insert(self.connection);
            return match self.routes.oneshot(request).await {
                Ok(response) => Ok(response),
                Err(never) => match never {},
            };
        }
        self.caller.stamp(request.headers_mut());
        self.web.ask(request).await
    }
}
