//! The commands that speak to a running node: status, peers, ping, reload, drain.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::{Exit, Failure, Format, output};
use crate::config::Config;
use crate::rpc::admin::{
    Connection, DrainRequest, MetricsRequest, PeersRequest, PingRequest, PingResponse,
    ReloadRequest, StatusRequest, StatusResponse, admin_client::AdminClient,
};

/// Where the running node listens for its administrator.
#[derive(Debug, clap::Args)]
pub(super) struct SocketArgs {
    /// The admin socket; taken from the configuration when not given.
    #[arg(long, value_name = "PATH")]
    admin: Option<PathBuf>,
    /// The configuration of the running node.
    #[arg(long, short, default_value = "node.toml", value_name = "FILE")]
    config: PathBuf,
}

/// `fastness ping`
#[derive(Debug, clap::Args)]
pub(super) struct PingArgs {
    /// Name or SPIFFE id of a peer, as the peer policy lists it.
    peer: String,
    /// Stream so many bytes each way as well: 1024, 64KiB, 64MiB, 1GiB.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "0")]
    transfer: u64,
    #[command(flatten)]
    socket: SocketArgs,
}

impl SocketArgs {
    /// The socket that `config` names.
    pub(super) fn of(config: &Path) -> Self {
        Self {
            admin: None,
            config: config.to_owned(),
        }
    }

    /// The socket's path: as given, else as the configuration says.
    pub(super) fn path(&self) -> Result<PathBuf, Failure> {
        match &self.admin {
            Some(path) => Ok(path.clone()),
            None => Config::admin_socket(&self.config).map_err(|faults| {
                Failure::faults("cannot find the admin socket: name it with --admin", faults)
            }),
        }
    }
}

type Client = AdminClient<Channel>;

/// How long a supervisor may take to answer. One that reads names and files and gives them to a node takes longest.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a transfer that are asked for at once: one that is interrupted ends with the piece.
const PIECE: u64 = 64 << 20;

/// Runs `call` with a client of the node behind `socket`, which has [`PATIENCE`] to answer.
fn with_node<T>(
    socket: &SocketArgs,
    call: impl AsyncFnOnce(Client) -> Result<T, Status>,
) -> Result<T, Failure> {
    with_node_within(socket, PATIENCE, call)
}

fn with_node_within<T>(
    socket: &SocketArgs,
    patience: Duration,
    call: impl AsyncFnOnce(Client) -> Result<T, Status>,
) -> Result<T, Failure> {
    let path = socket.path()?;
    let silent = |error: &dyn std::fmt::Display| {
        let path = path.display();
        Failure::new(
            Exit::NoNode,
            format!("no node answers at {path}: {error}; is `fastness run` running, as this user?"),
        )
    };
    super::run::runtime()?.block_on(async {
        let connecting = tokio::time::timeout(PATIENCE, connect(&path));
        let connected = connecting.await.map_err(|late| silent(&late))?;
        let channel = connected.map_err(|error| silent(&error))?;
        let called = tokio::time::timeout(patience, call(AdminClient::new(channel)));
        let answered = called.await.map_err(|late| silent(&late))?;
        answered.map_err(|status| {
            let exit = match status.code() {
                Code::NotFound => Exit::Usage,
                Code::FailedPrecondition => Exit::Peer,
                Code::Unavailable => Exit::NoNode,
                _ => Exit::Failed,
            };
            Failure::new(exit, status.message())
        })
    })
}

async fn connect(path: &Path) -> Result<Channel, std::io::Error> {
    let stream = UnixStream::connect(path).await?;
    let mut stream = Some(TokioIo::new(stream));
    Endpoint::from_static("http://admin.invalid")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let stream = stream
                .take()
                .ok_or_else(|| std::io::Error::other("the node closed the admin socket"));
            std::future::ready(stream)
        }))
        .await
        .map_err(std::io::Error::other)
}

/// The running node's status.
pub(super) fn ask_status(socket: &SocketArgs) -> Result<StatusResponse, Failure> {
    Ok(with_node(socket, async |mut node| node.status(StatusRequest {}).await)?.into_inner())
}

/// `fastness status`
pub(super) fn status(socket: &SocketArgs, format: Format) -> Result<(), Failure> {
    let status = ask_status(socket)?;
    if format == Format::Json {
        return output::json(&status);
    }
    output::text(&describe_status(&status))
}

fn describe_status(status: &StatusResponse) -> String {
    // Ready while "degraded", where one of several tokens signs.
    let unready = match status.ready {
        true => "",
        false => ", not ready",
    };
    let mut lines = vec![format!("{}  {}{unready}", status.node_id, status.state)];
    if !status.reason.is_empty() {
        lines.push(format!("  {}", status.reason));
    }
    lines.push(format!("  listening on {}", status.listening.join(", ")));
    lines.extend(status.processes.iter().map(|process| {
        let pid = process.pid.map_or("none".into(), |pid| pid.to_string());
        format!(
            "  {:<10}  pid {pid:<8} started again {} times",
            process.role, process.restarts
        )
    }));
    lines.extend(status.keys.iter().map(|key| {
        format!(
            "  {} key  {} in token {} ({}), until {}\n              {}",
            key.role,
            key.kind,
            key.token_label,
            key.token_manufacturer,
            key.not_after,
            key.spki_pin
        )
    }));
    lines.extend(status.attestations.iter().map(|one| {
        let verdict = match one.mismatches.is_empty() {
            true => "confined as declared".to_owned(),
            false => format!("NOT CONFINED: {}", one.mismatches.join("; ")),
        };
        format!(
            "  {:<10}  pid {:<8} {verdict}: {} threads, uid {}, profile {} ({}), {}",
            one.role,
            one.pid,
            one.tasks,
            one.uid,
            one.profile,
            one.profile_sha256.get(..12).unwrap_or_default(),
            one.landlock
        )
    }));
    lines.push(format!("  {} connections", status.connections.len()));
    lines.extend(status.connections.iter().map(describe_connection));
    lines.join("\n")
}

fn describe_connection(connection: &Connection) -> String {
    format!(
        "    {} ({}) at {}: {} {} {}, {} pin, signed by pid {} in token {}, {} s old",
        connection.peer_id,
        connection.peer_role,
        connection.address,
        connection.tls_version,
        connection.group,
        connection.cipher_suite,
        connection.pin_label,
        connection.signed_by_pid,
        connection.signed_in_token,
        connection.age_seconds
    )
}

/// `fastness peers`
pub(super) fn peers(socket: &SocketArgs, format: Format) -> Result<(), Failure> {
    let peers = with_node(socket, async |mut node| node.peers(PeersRequest {}).await)?.into_inner();
    if format == Format::Json {
        return output::json(&peers);
    }
    let mut lines = Vec::new();
    for peer in &peers.peers {
        lines.push(format!(
            "{:<12} {:<10} {} in, {} out  {}  {}",
            peer.name,
            peer.dial_state,
            peer.connections_in,
            peer.connections_out,
            peer.id,
            peer.addresses.join(", ")
        ));
        if let Some(methods) = &peer.methods {
            let allowed = match methods.allowed.as_slice() {
                [] => "nothing".to_owned(),
                some => format!("only {}", some.join(", ")),
            };
            lines.push(format!("             may call {allowed}"));
        }
        if !peer.last_error.is_empty() {
            lines.push(format!("             {}", peer.last_error));
        }
    }
    output::text(&lines.join("\n"))
}

/// `fastness metrics`
pub(super) fn metrics(socket: &SocketArgs, format: Format) -> Result<(), Failure> {
    let metrics = with_node(socket, async |mut node| {
        node.metrics(MetricsRequest {}).await
    })?
    .into_inner();
    if format == Format::Json {
        return output::json(&metrics);
    }
    output::text(metrics.text.trim_end())
}

/// `fastness ping`
pub(super) fn ping(args: &PingArgs, format: Format) -> Result<(), Failure> {
    // However long a transfer takes, one can end it.
    let moving = async |node| pieces(node, args, format).await;
    let pong = with_node_within(&args.socket, Duration::MAX, moving)?;
    if format == Format::Json {
        return output::json(&pong);
    }
    output::text(&describe_ping(&args.peer, &pong))
}

/// Pings, and moves what is to be moved piece by piece; says how far it is on a terminal.
async fn pieces(mut node: Client, args: &PingArgs, format: Format) -> Result<PingResponse, Status> {
    let mut left = args.transfer;
    let mut next = async || {
        let transfer_bytes = left.min(PIECE);
        left -= transfer_bytes;
        let request = PingRequest {
            peer: args.peer.clone(),
            transfer_bytes,
        };
        Ok::<_, Status>((node.ping(request).await?.into_inner(), left))
    };
    let (mut pong, mut left) = next().await?;
    let shown = format == Format::Human && std::io::stderr().is_terminal();
    while left > 0 {
        if shown {
            let (moved, all) = (pong.bytes_sent >> 20, args.transfer >> 20);
            // Progress that cannot be shown is none.
            let _ = write!(std::io::stderr(), "\r  {moved} of {all} MiB each way");
        }
        let more;
        (more, left) = next().await?;
        pong.bytes_sent += more.bytes_sent;
        pong.bytes_received += more.bytes_received;
        pong.transfer_nanos += more.transfer_nanos;
    }
    if shown && args.transfer > PIECE {
        let _ = writeln!(std::io::stderr());
    }
    Ok(pong)
}

fn describe_ping(peer: &str, pong: &PingResponse) -> String {
    let round_trip = Duration::from_nanos(pong.round_trip_nanos);
    let mut lines = vec![format!(
        "{peer} is {}: round trip {round_trip:?}",
        pong.peer_node_id
    )];
    if let Some(connection) = &pong.connection {
        lines.push("  our side:".into());
        lines.push(describe_connection(connection));
    }
    if let Some(seen) = &pong.seen_as {
        lines.push(format!(
            "  it sees us as {} at {}: {} {} {}, {} pin {}",
            seen.peer_id,
            seen.address,
            seen.tls_version,
            seen.group,
            seen.cipher_suite,
            seen.pin_label,
            seen.spki_pin
        ));
    }
    if pong.bytes_sent > 0 {
        let seconds = Duration::from_nanos(pong.transfer_nanos).as_secs_f64();
        lines.push(format!(
            "  {} bytes there, {} bytes back in {seconds:.3} s",
            pong.bytes_sent, pong.bytes_received
        ));
    }
    lines.join("\n")
}

/// `fastness reload`
pub(super) fn reload(socket: &SocketArgs, format: Format) -> Result<(), Failure> {
    let reloaded = with_node(socket, async |mut node| node.reload(ReloadRequest {}).await)
        .map_err(|failure| {
            if failure.exit == Exit::Peer {
                Failure {
                    exit: Exit::Faults,
                    ..failure
                }
            } else {
                failure
            }
        })?
        .into_inner();
    match format {
        Format::Json => output::json(&reloaded),
        Format::Human => output::text(&format!(
            "reloaded: generation {} is in force",
            reloaded.generation
        )),
    }
}

/// `fastness drain`
pub(super) fn drain(socket: &SocketArgs, format: Format) -> Result<(), Failure> {
    let drained =
        with_node(socket, async |mut node| node.drain(DrainRequest {}).await)?.into_inner();
    match format {
        Format::Json => output::json(&drained),
        Format::Human => output::text("the node lets its calls end and stops"),
    }
}

/// `1024`, `64KiB`, `64MiB`, `1GiB`, in bytes.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let factor: u64 = match &text[digits.len()..] {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("use a number, or one with KiB, MiB or GiB behind it".into()),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(factor).ok_or_else(|| "too large".into())
}
