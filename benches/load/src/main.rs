//! Load and comparison for `benches/run`: see there. Bench only; keys here are software keys.

mod cases;
mod client;
mod filters;
mod handshakes;
mod memory;
mod peer;
mod pinning;
mod process;
mod proxied;
mod report;
mod rpc;
mod slow;
mod software;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use cases::Case;

#[derive(Debug, Parser)]
#[command(name = "fastness-load")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve as the comparison: plain tonic and rustls with a key file.
    Software {
        #[arg(long)]
        dir: PathBuf,
    },
    /// CPU of full mutual-TLS handshakes.
    Handshakes(Bench),
    /// CPU and throughput of unary calls.
    Rpc(Bench),
    /// In front of an application, against other proxies.
    Proxy(Bench),
    /// Memory, idle and with idle connections.
    Memory(Bench),
    /// Handshakes and calls of a node whose token is slow.
    SlowHsm(slow::Slow),
    /// CPU with and without the system call filters.
    Filters(Bench),
}

/// What every benchmark needs.
#[derive(Debug, Clone, clap::Args)]
struct Bench {
    /// Keys, certificates, configurations, tokens.
    #[arg(long)]
    dir: PathBuf,
    /// The product, built in release.
    #[arg(long)]
    fastness: PathBuf,
    /// The same, built without filters.
    #[arg(long)]
    unfiltered: Option<PathBuf>,
    /// PKCS#11 module.
    #[arg(long)]
    module: PathBuf,
    #[arg(long)]
    json: Option<PathBuf>,
    #[arg(long)]
    rounds: Option<usize>,
    /// Handshakes, calls or connections in a round.
    #[arg(long)]
    count: Option<usize>,
    /// Handshakes or calls under way at once.
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Only these cases.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<Case>,
    /// Handshakes: all agree on plain X25519, not each on what it prefers.
    #[arg(long)]
    x25519: bool,
    /// Keep the servers until interrupted, and say their process ids: for a profiler.
    #[arg(long)]
    hold: bool,
}

impl Bench {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(9)
    }

    /// The cases to run, of `all`.
    fn chosen(&self, all: &[Case]) -> Vec<Case> {
        all.iter().copied().filter(|case| self.cases.is_empty() || self.cases.contains(case)).collect()
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let done = match Cli::parse().command {
        Command::Software { dir } => software::serve(&dir),
        Command::Handshakes(bench) => measure(handshakes::run(&bench)),
        Command::Rpc(bench) => measure(rpc::run(&bench)),
        Command::Proxy(bench) => measure(proxied::run(&bench)),
        Command::Memory(bench) => measure(memory::run(&bench)),
        Command::SlowHsm(slow) => spread(slow::run(&slow)),
        Command::Filters(bench) => measure(filters::run(&bench)),
    };
    match done {
        Err(error) if error.is::<report::Missed>() => {
            eprintln!("fastness-load: {error}");
            Ok(ExitCode::from(MISSED))
        }
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

/// Exit code when a goal was missed.
const MISSED: u8 = 2;
/// nice(2) of a load that must not be in the way of the calls that are measured.
const NICE: i32 = 10;

/// Runs a benchmark on all cores, its handshakes at lower priority than its calls.
fn spread(benchmark: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    pinning::raise_open_files()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(|| {
            // On Linux the priority belongs to the calling thread (setpriority(2)). Without it the figures
            // are worse, never better.
            let _ = rustix::process::setpriority_process(None, NICE);
        })
        .build()?;
    runtime.block_on(until_interrupted(benchmark))
}

/// Runs a benchmark on the load's own core. The servers are ended however it ends.
fn measure(benchmark: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    pinning::take_load_core()?;
    pinning::raise_open_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(until_interrupted(benchmark))
}

async fn until_interrupted(benchmark: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        done = benchmark => done,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("cannot listen for Ctrl-C")?;
            anyhow::bail!("interrupted")
        }
        _ = terminated.recv() => anyhow::bail!("terminated"),
    }
}
