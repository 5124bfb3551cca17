//! The application's calls to peers.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;

use super::super::Node;
use super::room::Room;
use crate::config::Mode;
use crate::proxy::{Asked, ByteStream, Direction, Refusal, Session, Target, asked, clean, tunnel};
use crate::telemetry::Lines;

/// A place where the application calls us.
pub(in crate::node) struct Door {
    pub(super) listener: Listener,
    /// What is spoken there.
    pub(super) mode: Mode,
    pub(super) at: String,
    /// User id that may call; it is not known of a loopback address.
    pub(super) user: u32,
    /// For connections at once: the kernel's queue holds more of them back.
    pub(super) room: Room,
    /// Whom it stands for; an HTTP CONNECT proxy stands for all.
    pub(super) peer: Option<String>,
    pub(super) lines: Lines,
}

pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Door {
    /// Takes the application's connections in, from when the node is `attested` until it drains and all
    /// calls have ended.
    pub(in crate::node) async fn keep(
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
                accepted = self.accept() => accepted,
                Some(_) = sessions.join_next() => continue,
                () = &mut drained => break,
            };
            let (stream, held) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(at = self.at, %error, "cannot accept the application");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (node, stopping) = (node.clone(), stopping.clone());
            let (at, peer, mode) = (self.at.clone(), self.peer.clone(), self.mode);
            sessions.spawn(async move {
                let _held = held;
                if let Err(error) = application_session(&node, mode, stream, peer, stopping).await
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

    /// The next connection of the application, once there is room for it.
    async fn accept(&self) -> io::Result<(Box<dyn ByteStream>, OwnedSemaphorePermit)> {
        let held = self.room.take(|| self.full()).await;
        Ok((self.next().await?, held))
    }

    fn full(&self) {
        if let Some(unlogged) = self.lines.take(Instant::now()) {
            tracing::warn!(
                at = self.at,
                unlogged,
                "the application has as many connections here as it may; more of them wait"
            );
        }
    }

    async fn next(&self) -> io::Result<Box<dyn ByteStream>> {
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
                if let Some(unlogged) = self.lines.take(Instant::now()) {
                    tracing::warn!(
                        at = self.at,
                        user,
                        expected = self.user,
                        unlogged,
                        "somebody else than the application was turned away"
                    );
                }
            },
        }
    }
}

/// Serves one connection of the application to us.
async fn application_session(
    node: &Node,
    mode: Mode,
    stream: Box<dyn ByteStream>,
    peer: Option<String>,
    stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    match (peer, mode) {
        (Some(peer), Mode::Grpc) => call_peer(node, stream, &peer, stopping).await,
        (Some(peer), Mode::Http) => calls_to(node, &peer).serve_either(stream, stopping).await,
        (Some(peer), Mode::Tcp) => join_peer(node, stream, &peer).await,
        (None, _) => {
            let asked = asked(stream).await.map_err(|error| error.to_string())?;
            let asked = asked.ok_or("it does not ask for an address with HTTP CONNECT")?;
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

/// The application's calls to `peer`.
fn calls_to<'a>(node: &'a Node, peer: &'a str) -> Session<impl Fn(&mut Parts) -> Target + use<'a>> {
    let unlisted = format!("the peer {peer} is no longer in the policy");
    Session {
        settings: Arc::clone(&node.0.proxy),
        direction: Direction::Egress,
        // The policy in force decides, about each call.
        route: move |head: &mut Parts| {
            clean(&mut head.headers);
            match node.dialer(peer) {
                Ok(dialer) => Target::Pool(dialer.pool(), None),
                Err(_) => Target::Refuse(Refusal::unavailable(&*unlisted)),
            }
        },
    }
}

async fn call_peer(
    node: &Node,
    stream: impl ByteStream,
    peer: &str,
    stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    calls_to(node, peer)
        .serve(Box::new(stream), stopping)
        .await
        .map_err(|error| error.to_string())
}

/// Joins the application's connection with one to the peer that is for it alone.
async fn join_peer(node: &Node, stream: impl ByteStream, peer: &str) -> Result<(), String> {
    let unlisted = |_| format!("the peer {peer} is no longer in the policy");
    let dialer = node.dialer(peer).map_err(unlisted)?;
    let far = async { dialer.bytes().await.map_err(|error| error.to_string()) };
    tunnel::join(stream, far, &node.0.proxy, Direction::Egress).await
}
