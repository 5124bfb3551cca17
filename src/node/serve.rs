//! gRPC over the accepted connections, with every bound stated.

use std::future::Future;
use std::io;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;

use super::Node;
use super::live::Stream;
use super::methods::Guarded;
use crate::config::size32;
use crate::proxy::Watched;

/// A stream that a peer opens and resets costs us work; after so many waiting resets the connection
/// is closed (CVE-2023-44487, rapid reset).
const PENDING_RESETS: usize = 20;

/// Serves `routes` until `stopped`, then lets running calls end.
pub(super) async fn serve(
    node: &Node,
    routes: Routes,
    accepted: mpsc::Receiver<io::Result<Stream>>,
    stopped: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let limits = &node.0.limits;
    let incoming = ReceiverStream::new(accepted).map_ok(|stream| Watched::server(stream).0);
    let keepalive = Duration::from_millis(limits.keepalive_ms);
    Server::builder()
        .initial_stream_window_size(size32(limits.stream_window_bytes))
        .initial_connection_window_size(size32(limits.connection_window_bytes))
        .max_concurrent_streams(size32(limits.streams))
        .max_frame_size(size32(limits.frame_bytes))
        .http2_max_header_list_size(size32(limits.header_list_bytes))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .http2_keepalive_interval(Some(keepalive))
        .http2_keepalive_timeout(Some(keepalive))
        .max_connection_age(Duration::from_millis(limits.connection_age_ms))
        .max_connection_age_grace(Duration::from_millis(limits.connection_age_ms / 10))
        .layer(tower::layer::layer_fn(|inner| Guarded {
            node: node.clone(),
            inner,
        }))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stopped)
        .await
}
