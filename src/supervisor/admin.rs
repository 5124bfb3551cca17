//! The administrator's socket: gRPC over a unix socket, for root and for our own user only, and for none of
//! our roles, whoever they run as.

use std::path::Path;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{StreamExt, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status};

use super::Event;
use super::socket_file::SocketFile;
use crate::fault::Fault;
use crate::rpc::admin::{self, admin_server};
use crate::sandbox;

/// What an administrator asks of the main loop, and where the answer goes.
#[derive(Debug)]
pub(crate) enum Call {
    Status(oneshot::Sender<Result<admin::StatusResponse, Status>>),
    Peers(oneshot::Sender<Result<admin::PeersResponse, Status>>),
    Metrics(oneshot::Sender<Result<admin::MetricsResponse, Status>>),
    Ping(
        admin::PingRequest,
        oneshot::Sender<Result<admin::PingResponse, Status>>,
    ),
    Reload(oneshot::Sender<Result<admin::ReloadResponse, Status>>),
    Drain(oneshot::Sender<Result<admin::DrainResponse, Status>>),
}

/// The bound socket; its file goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    _file: SocketFile,
    listener: Option<UnixListener>,
}

impl Socket {
    /// Binds `path`, mode 0600.
    pub(super) fn bind(path: &Path) -> Result<Self, Fault> {
        let (file, listener) = SocketFile::bind(path, "admin", None)?;
        let listener = UnixListener::from_std(listener)
            .map_err(|error| Fault::new("admin", error.to_string(), "see the log"))?;
        Ok(Self {
            _file: file,
            listener: Some(listener),
        })
    }

    /// The listener, for whoever serves it in another way.
    pub(super) fn listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }

    /// Serves it until the process ends.
    pub(super) fn serve(&mut self, events: mpsc::Sender<Event>) {
        let Some(listener) = self.listener.take() else {
            return;
        };
        let incoming = UnixListenerStream::new(listener).filter(|stream| match stream {
            Ok(stream) => allowed(stream),
            Err(_) => true,
        });
        let service = admin_server::AdminServer::new(Service { events });
        tokio::spawn(
            tonic::transport::Server::builder()
                .concurrency_limit_per_connection(8)
                .add_service(service)
                .serve_with_incoming(incoming),
        );
    }
}

/// Root and our own user may administrate (unix(7), `SO_PEERCRED`), our own processes may not.
pub(super) fn allowed(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.pid().is_none_or(sandbox::may_be_below_us) => {
            tracing::error!(
                pid = peer.pid(),
                "admin connection refused: it came from a role, or from a process that is gone"
            );
            false
        }
        Ok(peer) if peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw() => true,
        Ok(peer) => {
            tracing::warn!(
                uid = peer.uid(),
                "admin connection refused: not root, not our user"
            );
            false
        }
        Err(error) => {
            tracing::warn!(%error, "admin connection refused: no peer credentials");
            false
        }
    }
}

struct Service {
    events: mpsc::Sender<Event>,
}

impl Service {
    async fn ask<T>(
        &self,
        call: impl FnOnce(oneshot::Sender<Result<T, Status>>) -> Call,
    ) -> Result<Response<T>, Status> {
        let (answer, receiver) = oneshot::channel();
        let gone = || Status::unavailable("the supervisor is stopping");
        if self.events.send(Event::Admin(call(answer))).await.is_err() {
            return Err(gone());
        }
        receiver
            .await
            .unwrap_or_else(|_| Err(gone()))
            .map(Response::new)
    }
}

#[tonic::async_trait]
impl admin_server::Admin for Service {
    async fn status(
        &self,
        _: Request<admin::StatusRequest>,
    ) -> Result<Response<admin::StatusResponse>, Status> {
        self.ask(Call::Status).await
    }

    async fn peers(
        &self,
        _: Request<admin::PeersRequest>,
    ) -> Result<Response<admin::PeersResponse>, Status> {
        self.ask(Call::Peers).await
    }

    async fn metrics(
        &self,
        _: Request<admin::MetricsRequest>,
    ) -> Result<Response<admin::MetricsResponse>, Status> {
        self.ask(Call::Metrics).await
    }

    async fn ping(
        &self,
        request: Request<admin::PingRequest>,
    ) -> Result<Response<admin::PingResponse>, Status> {
        self.ask(|answer| Call::Ping(request.into_inner(), answer))
            .await
    }

    async fn reload(
        &self,
        _: Request<admin::ReloadRequest>,
    ) -> Result<Response<admin::ReloadResponse>, Status> {
        self.ask(Call::Reload).await
    }

    async fn drain(
        &self,
        _: Request<admin::DrainRequest>,
    ) -> Result<Response<admin::DrainResponse>, Status> {
        self.ask(Call::Drain).await
    }
}
