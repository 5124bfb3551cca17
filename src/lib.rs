//! Fastness: a hardened node runtime. Mutual-TLS gRPC between peers, every private key inside a
//! PKCS#11 token, and the process that faces the network holds neither key, PIN nor module.
//!
//! `fastness run` is a supervisor that starts itself again as one keeper for each token and as the
//! node that faces peers. [`run`] is the same for a binary with gRPC services of its own.
//!
//! On Windows nothing confines a process: of the rooms below there are the policy, the TLS behind it
//! with keys in Windows' key storage, and a [`run`] that refuses.
//!
//! In reading order:

#[cfg(unix)]
pub mod admission; // Who waits for a handshake, who goes first, who is refused before it costs anything.
#[cfg(unix)]
pub mod cli; // The command line, one file a command.
#[cfg(unix)]
pub mod config; // node.toml: a spec becomes a Config, valid by construction.
#[cfg(unix)]
mod control; // What the supervisor and its roles say to each other.
pub mod fault; // One thing wrong, with its place and its mend.
#[cfg(unix)]
pub mod keeper; // The boundary around the token: the message, what may be signed, serving, asking.
#[cfg(unix)]
pub mod node; // The network process.
#[cfg(windows)]
mod other; // In the place of the processes: refuses to start.
#[cfg(unix)]
mod ownership; // Who else may change a file that we go by.
#[cfg(unix)]
pub mod p2pfl; // What is special about P2PFL peers: their messages, bound to their certificates.
#[cfg(unix)]
pub mod pki; // Certificate authority whose key is in a token.
#[cfg(unix)]
mod plain; // Text that somebody else wrote, made fit to be shown.
pub mod policy; // Who may speak to us: a pure decision over bytes.
#[cfg(unix)]
mod proxy; // The application's side: peers' calls to it, its calls to peers.
#[cfg(unix)]
mod resolver; // The process that asks nameservers.
pub mod role; // Server or client: which side of a handshake something is for.
#[cfg(unix)]
pub mod rpc; // Generated from proto/.
#[cfg(unix)]
mod sandbox; // What a role gives up before it serves.
#[cfg(unix)]
pub mod secret; // The user PIN and where it comes from.
#[cfg(unix)]
mod sockets; // Sockets of processes, as /proc has them.
#[cfg(unix)]
mod supervisor; // The first process: binds, reads, starts, watches, restarts.
#[cfg(unix)]
pub mod telemetry; // Metrics, and the log.
pub mod tls; // The token key, the verifier and the handshakes. The only user of rustls.
#[cfg(unix)]
pub mod token; // PKCS#11. The only user of cryptoki.
pub mod toml_faults; // TOML files, with every fault placed.

use std::process::ExitCode;

use tonic::service::Routes;

#[cfg(unix)]
pub use node::{Node, PeerConnection, UnknownPeer};
#[cfg(windows)]
use other as cli;
#[cfg(windows)]
pub use other::Node;

/// The whole of a `main`: the command line of `fastness`, with your gRPC services behind its mutual
/// TLS, its token keys and its peer policy.
///
/// `services` is called once, in the node's process, and may keep the [`Node`] to call peers. That
/// process is sealed before the first call comes in: your code has no files (from the moment `services`
/// is called), starts no threads or programs, resolves no names, opens TCP connections and nothing else,
/// those only to the ports of the peers' addresses and of `dial_ports` in `[sandbox]` of the configuration
/// (any other is `EACCES`), and `spawn_blocking` has four threads that exist from the start. A panic ends
/// the process, and the supervisor starts another.
///
/// A peer calls your methods as far as `methods` in the peer policy lets it; no other call reaches you.
/// Bound what each service reads with [`Node::message_bytes`].
///
/// ```no_run
/// # use tonic::service::Routes;
/// fn main() -> std::process::ExitCode {
///     fastness::run(|_node| Routes::default()) // add your services here
/// }
/// ```
pub fn run(services: impl FnOnce(&Node) -> Routes) -> ExitCode {
    cli::main(services)
}
