//! The command line: one file a command, exit codes in [`Exit`].

mod admin;
pub mod ca;
mod check;
mod error;
mod exit;
mod given;
mod manual;
mod out;
mod output;
mod p2pfl;
mod report;
mod run;
mod sandbox;
pub mod spki_pin;
pub mod token;
mod unechoed;
mod unlock;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use tonic::service::Routes;

use crate::node::Node;
use crate::supervisor::child::Role;

pub use error::CommandError;
pub use exit::Exit;
pub use out::OutFault;
pub(crate) use output::Failure;

#[cfg(not(feature = "dangerous-unfiltered-bench"))]
const VERSION: &str = env!("CARGO_PKG_VERSION");
#[cfg(feature = "dangerous-unfiltered-bench")]
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " DANGEROUS: can leave out system call filters"
);

/// How long `run` waits, when it fails, for each few lines to be read.
const READING: Duration = Duration::from_secs(1);

/// A hardened node: mutual-TLS gRPC between peers, every private key inside a PKCS#11 token.
#[derive(Debug, Parser)]
#[command(
    name = "fastness",
    version = VERSION,
    propagate_version = true,
    arg_required_else_help = true,
    after_long_help = "\
First steps, the authority and then a node:
  fastness token init --module M --label ca --so-pin file:ca-so-pin --pin file:ca-pin
  fastness token keygen --module M --token 'pkcs11:token=ca' --pin file:ca-pin --label root --purpose ca
  fastness ca init --module M --key 'pkcs11:token=ca;object=root' --pin file:ca-pin --dir ca --name 'Mesh root'
  fastness token init --module M --label node-a --so-pin file:so-pin --pin file:user-pin
  and for `server`, then for `client`:
  fastness token keygen --module M --token 'pkcs11:token=node-a' --pin file:user-pin --label server --purpose server
  fastness token csr --module M --key 'pkcs11:token=node-a;object=server' --pin file:user-pin --out server.csr
  fastness ca issue --dir ca --pin file:ca-pin --csr server.csr --profile server --id spiffe://mesh.example/node/a --out server.pem
  with node.toml and peers.toml from the samples in policies/:
  fastness check --config node.toml
  fastness run --config node.toml

Exit codes: 0 done, 1 failed, 2 usage, 3 faults (printed), 4 PIN, 5 token, 6 no running node, 7 peer,
8 address in use or not there."
)]
struct Cli {
    /// For people, or one JSON value for programs.
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Human,
    /// One JSON value on standard output.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the node: supervisor, one keeper for each token, and the node that faces peers.
    ///
    /// Logs to standard error. SIGTERM or Ctrl-C drains and stops; SIGHUP reloads certificates, trust
    /// anchors and peer policy.
    #[command(after_help = "\
Examples:
  fastness run --config /etc/fastness/node.toml
  fastness run --config node.toml 3<user-pin      (with pin = \"fd:3\")")]
    Run(ConfigArgs),
    /// Verify everything that `run` would: configuration, module, token, PIN source, keys,
    /// certificates, policy, ports.
    ///
    /// All faults are printed at once, each with its key, line and mend. Exit code 0 only if `run` would start.
    /// The PIN is tried exactly once, though the token may say that few tries are left: `run` tries none then, so
    /// that nothing but an operator should start this. Prints the TCP ports that the node will be able to connect
    /// to; in JSON `landlock.connect_tcp`. A node is started up to its seal and serves nobody.
    #[command(after_help = "\
Examples:
  fastness check --config node.toml
  fastness check --config node.toml --format json | jq -r '.faults[] | \"\\(.key): \\(.problem)\"'")]
    Check(ConfigArgs),
    /// Show the running node: processes, keys, connections.
    #[command(after_help = "\
Examples:
  fastness status --config node.toml
  fastness status --admin /run/fastness/admin.sock --format json | jq .state")]
    Status(admin::SocketArgs),
    /// Show the peers of the policy in force, the connections to them and what they may call.
    #[command(after_help = "\
Example:
  fastness peers --config node.toml")]
    Peers(admin::SocketArgs),
    /// Print what the running node counts and measures, in the Prometheus text format.
    ///
    /// The same is at `GET /metrics` on the loopback port that `metrics` in the configuration names.
    #[command(after_help = "\
Example:
  fastness metrics --config node.toml | grep handshakes")]
    Metrics(admin::SocketArgs),
    /// Make a round trip to a peer and show how it sees us.
    #[command(after_help = "\
Examples:
  fastness ping b --config node.toml
  fastness ping spiffe://mesh.example/node/b --transfer 64MiB")]
    Ping(admin::PingArgs),
    /// Let the running node read certificates, trust anchors and peer policy again.
    ///
    /// On any fault the old ones stay in force and the fault is printed. Live connections of peers, pins
    /// and addresses that the new policy does not have are closed, and its `methods` hold for the next
    /// call. A policy with a TCP port that the sealed node may not connect to is refused: restart for it,
    /// or list ports in advance (`dial_ports` in [sandbox]).
    #[command(after_help = "\
Example:
  fastness reload --config node.toml      (or send the supervisor SIGHUP)")]
    Reload(admin::SocketArgs),
    /// Let running calls end, then stop the node.
    #[command(after_help = "\
Example:
  fastness drain --config node.toml")]
    Drain(admin::SocketArgs),
    /// Log a token of the running node in again, after a PIN failure or a restart of its keeper.
    ///
    /// A keeper whose PIN was refused does not try again by itself: that could lock the PIN. Nor does one, at a
    /// start neither, whose token says that few tries are left. One whose PIN was typed, or came through a pipe,
    /// cannot. All of them wait for this command, and so does one whose PIN's source is gone. Where no node
    /// runs, `fastness check` is the try.
    #[command(after_help = "\
Examples:
  fastness unlock --config node.toml
  fastness unlock --config node.toml --token node-a --pin prompt")]
    Unlock(unlock::UnlockArgs),
    /// Tokens and their keys: init, keygen, list, csr, destroy.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// What each role of a node may do once it is sealed: show, learn.
    #[command(subcommand)]
    Sandbox(sandbox::SandboxCommand),
    /// What is special about P2PFL: doctor.
    #[command(subcommand)]
    P2pfl(p2pfl::P2pflCommand),
    /// A certificate authority whose key is in a token.
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Print the pin of a certificate, a request or a token key.
    SpkiPin(spki_pin::SpkiPinArgs),
    /// Print a completion script for a shell.
    ///
    /// For bash: fastness completions bash > ~/.local/share/bash-completion/completions/fastness
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff: `fastness man | man -l -`.
    Man,
}

impl Command {
    /// Whether this very process may hold a PIN, or what opens one. (A supervisor starts itself anew first.)
    fn takes_a_pin(&self) -> bool {
        match self {
            Self::Token(_)
            | Self::Ca(_)
            | Self::SpkiPin(_)
            | Self::Unlock(_)
            | Self::Sandbox(_) => true,
            Self::Run(_)
            | Self::Check(_)
            | Self::Status(_)
            | Self::Peers(_)
            | Self::Metrics(_)
            | Self::Ping(_)
            | Self::Reload(_)
            | Self::Drain(_)
            | Self::P2pfl(_)
            | Self::Completions { .. }
            | Self::Man => false,
        }
    }
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// The configuration file.
    #[arg(long, short, default_value = "node.toml", value_name = "FILE")]
    config: PathBuf,
}

/// Whether a command line that cannot be parsed asks for JSON.
fn wants_json() -> bool {
    let arguments: Vec<_> = std::env::args_os().collect();
    let apart = arguments.windows(2).any(|two| two == ["--format", "json"]);
    apart || arguments.iter().any(|one| one == "--format=json")
}

/// Runs the command line of this process; `services` are the gRPC services that the node serves
/// beside its own, built in the node's process only.
pub(crate) fn main(services: impl FnOnce(&Node) -> Routes) -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(role) if role == Role::Keeper.argument() => return crate::keeper::role::main(),
        Some(role) if role == Role::Node.argument() => return crate::node::role::main(services),
        Some(role) if role == Role::Resolver.argument() => return crate::resolver::main(),
        Some(role) if role == crate::keeper::learn::ARGUMENT => {
            return crate::keeper::learn::main();
        }
        _ => {}
    }
    #[cfg(feature = "dangerous-unfiltered-bench")]
    crate::telemetry::write_or_drop(
        format!("fastness: {}\n", crate::sandbox::UNFILTERED).into_bytes(),
    );
    let cli = match Cli::try_parse().map_err(unechoed::without_strays) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && wants_json() => {
            Failure::new(Exit::Usage, error.to_string().trim_end()).print(Format::Json, None);
            return Exit::Usage.into();
        }
        Err(error) => error.exit(),
    };
    // A service must end though nobody reads its log: its exit code says whether it may be started again.
    let patience = matches!(cli.command, Command::Run(_)).then_some(READING);
    match dispatch(cli.command, cli.format) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            failure.print(cli.format, patience);
            failure.exit.into()
        }
    }
}

fn dispatch(command: Command, format: Format) -> Result<(), Failure> {
    if command.takes_a_pin() {
        crate::sandbox::hide().map_err(|error| {
            Failure::faults("nothing was done", vec![crate::fault::Fault::from(error)])
        })?;
    }
    match command {
        Command::Run(args) => run::run(&args.config),
        Command::Check(args) => check::run(&args.config, format),
        Command::Status(args) => admin::status(&args, format),
        Command::Peers(args) => admin::peers(&args, format),
        Command::Metrics(args) => admin::metrics(&args, format),
        Command::Ping(args) => admin::ping(&args, format),
        Command::Reload(args) => admin::reload(&args, format),
        Command::Drain(args) => admin::drain(&args, format),
        Command::Unlock(args) => unlock::run(args, format),
        Command::Token(command) => Ok(token::run(command, format)?),
        Command::Ca(command) => Ok(ca::run(command, format)?),
        Command::Sandbox(command) => sandbox::run(&command, format),
        Command::P2pfl(command) => p2pfl::run(command, format),
        Command::SpkiPin(args) => Ok(spki_pin::run(args, format)?),
        Command::Completions { shell } => {
            // It panics where it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fastness", &mut script);
            output::text(&String::from_utf8_lossy(&script))
        }
        Command::Man => manual::print(),
    }
}
