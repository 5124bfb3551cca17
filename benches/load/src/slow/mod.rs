//! A slow HSM: what handshakes get of it, and what established calls notice.

mod bed;
mod calls;
mod figures;
mod load;
mod peers;
mod strangers;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use crate::report;
use bed::{Bed, Token};
use calls::Calls;
use figures::{Row, Strangers, Times};
use load::Outcome;
use peers::{Peers, Shaken};

/// What this benchmark needs.
#[derive(Debug, Clone, clap::Args)]
pub struct Slow {
    /// Keys, certificates, tokens.
    #[arg(long)]
    dir: PathBuf,
    /// The product, built in release.
    #[arg(long)]
    fastness: PathBuf,
    /// PKCS#11 module.
    #[arg(long)]
    module: PathBuf,
    /// Folder of the built fault module and its fault-ctl.
    #[arg(long)]
    fault_module: PathBuf,
    #[arg(long)]
    json: Option<PathBuf>,
    /// How long a case is measured.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Only these kinds.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<Kind>,
}

/// What is done to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Listed peers dial it.
    Incoming,
    /// It dials its peers.
    Outgoing,
    /// 700 listed peers dial it at once.
    Burst,
    /// Listed peers dial it and force a HelloRetryRequest.
    HelloRetry,
    /// 10 000 strangers stay half-open while a listed peer connects.
    Strangers,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Incoming => "incoming",
            Self::Outgoing => "outgoing",
            Self::Burst => "burst",
            Self::HelloRetry => "hello-retry",
            Self::Strangers => "strangers",
        }
    }

    /// Whether there is always work for the token, so that it is what limits handshakes.
    fn is_paced_by_the_token(self) -> bool {
        matches!(self, Self::Incoming | Self::Outgoing)
    }
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    token: Token,
    clients: usize,
    kind: Kind,
}

const fn case(latency_ms: u32, sessions: u32, clients: usize, kind: Kind) -> Case {
    Case { token: Token { latency_ms, sessions }, clients, kind }
}

const CASES: [Case; 9] = [
    case(20, 8, 64, Kind::Incoming),
    case(20, 8, 64, Kind::Outgoing),
    case(20, 8, 700, Kind::Burst),
    case(20, 8, 64, Kind::HelloRetry),
    case(20, 8, 1, Kind::Strangers),
    case(5, 8, 64, Kind::Incoming),
    case(5, 8, 64, Kind::Outgoing),
    case(20, 32, 64, Kind::Incoming),
    case(20, 32, 64, Kind::Outgoing),
];

/// Before a load is measured: its queue must have filled.
const WARM_UP: Duration = Duration::from_secs(3);
/// Strangers' half-open connections.
const STRANGERS: u32 = 10_000;
/// What the node grants strangers, `limits.stranger_signatures_per_second`: the default.
const STRANGER_SIGNATURES: u64 = 200;
/// The node's threads beside its workers and the token's sessions.
const OTHER_THREADS: usize = 6;

pub async fn run(slow: &Slow) -> anyhow::Result<()> {
    let chosen = CASES.into_iter().filter(|case| slow.cases.is_empty() || slow.cases.contains(&case.kind));
    let chosen: Vec<Case> = chosen.collect();
    let most = chosen.iter().map(|case| case.clients).max().unwrap_or(1);
    let (shaken, mut dialled) = unbounded_channel();
    let peers = Peers::start(most.min(64), peers::certificate(&slow.dir.join("node.client.pem"))?, shaken).await?;
    let mut rows: Vec<(Case, Row)> = Vec::new();
    let mut bed: Option<(Token, Bed)> = None;
    for case in chosen {
        if bed.as_ref().is_none_or(|(token, _)| *token != case.token) {
            // The old node ends first.
            drop(bed.take());
            bed = Some((case.token, Bed::start(slow, case.token, &peers).await?));
        }
        let Some((_, bed)) = &mut bed else { continue };
        let row = measure(bed, case, &peers, &mut dialled, slow.seconds).await?;
        eprintln!("  {} ms × {} {}: {row:?}", case.token.latency_ms, case.token.sessions, row.kind);
        rows.push((case, row));
    }
    let met = figures::print(&rows, slow.seconds);
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    report::json(slow.json.as_deref(), &rows)?;
    report::judge(met)
}

async fn measure(
    bed: &mut Bed,
    case: Case,
    peers: &Peers,
    dialled: &mut UnboundedReceiver<Shaken>,
    seconds: u64,
) -> anyhow::Result<Row> {
    let time = Duration::from_secs(seconds);
    let calls = Calls::start(bed.client.clone());
    tokio::time::sleep(Duration::from_secs(1)).await;
    calls.take()?;
    tokio::time::sleep(time).await;
    let idle = calls.take()?;

    let (signatures, since) = (bed.signatures()?, Instant::now());
    let (outcomes, mut heard) = unbounded_channel();
    let opened = Arc::new(AtomicU64::new(0));
    let _load: JoinSet<()> = match case.kind {
        Kind::Incoming | Kind::Burst | Kind::Strangers => load::incoming(&bed.client, case.clients, &outcomes),
        Kind::HelloRetry => load::incoming(&bed.client.forcing_a_retry()?, case.clients, &outcomes),
        Kind::Outgoing => load::outgoing(&bed.dir, peers, case.clients, &outcomes).await?,
    };
    let _strangers = match case.kind {
        Kind::Strangers => Some(strangers::start(bed.client.address, STRANGERS, WARM_UP + time, &opened)?),
        _ => None,
    };
    tokio::time::sleep(WARM_UP).await;
    calls.take()?;
    let begin = Instant::now();
    let mut threads = 0;
    while begin.elapsed() < time {
        threads = threads.max(bed.node_threads()?);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let end = Instant::now();
    let loaded = calls.take()?;
    bed.alive()?;

    let mut counted = Counted::default();
    while let Ok(outcome) = heard.try_recv() {
        counted.add(outcome, begin, end);
    }
    while let Ok(shaken) = dialled.try_recv() {
        counted.add(Ok(shaken), begin, end);
    }
    if let Some(error) = &counted.error {
        eprintln!("  a handshake failed: {error}");
    }
    let strangers = match case.kind {
        Kind::Strangers => {
            // What the module made, less the listed peer's and the health probe's, two in five seconds.
            let took = since.elapsed().as_secs();
            let all = bed.signatures()? - signatures;
            Some(Strangers {
                connections: opened.load(Ordering::Relaxed),
                signatures: all.saturating_sub(counted.all),
                signatures_allowed: STRANGER_SIGNATURES * (took + 2) + 2 * (took / 5 + 1),
                listed_connected: ratio(counted.all - counted.failed_ever, counted.all),
            })
        }
        _ => None,
    };
    Ok(counted.row(case, end - begin, &idle, &loaded, threads, strangers))
}

/// The outcomes of handshakes.
#[derive(Default)]
struct Counted {
    times: Times,
    /// Within the time that is measured.
    failed: u64,
    /// From the load's beginning.
    failed_ever: u64,
    all: u64,
    error: Option<String>,
}

impl Counted {
    fn add(&mut self, outcome: Outcome, begin: Instant, end: Instant) {
        self.all += 1;
        match outcome {
            Ok(shaken) if (begin..end).contains(&shaken.done) => self.times.push(shaken.done - shaken.began),
            Ok(_) => {}
            Err(error) => {
                self.failed += 1;
                self.failed_ever += 1;
                self.error.get_or_insert(error);
            }
        }
    }

    fn row(self, case: Case, took: Duration, idle: &Times, loaded: &Times, threads: usize, strangers: Option<Strangers>) -> Row {
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        let rate = self.times.len() as f64 / took.as_secs_f64();
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Row {
            latency_ms: case.token.latency_ms,
            sessions: case.token.sessions,
            clients: case.clients,
            kind: case.kind.name(),
            handshakes_share: thousandths(rate / case.token.capacity()),
            handshake_p50_ms: thousandths(self.times.percentile_ms(50)),
            handshake_p99_over_p50: thousandths(self.times.percentile_ms(99) / self.times.percentile_ms(50)),
            handshakes_failed: self.failed,
            rpc_idle_p99_ms: thousandths(idle.percentile_ms(99)),
            rpc_p99_over_idle: thousandths(loaded.percentile_ms(99) / idle.percentile_ms(99)),
            threads,
            threads_allowed: workers + case.token.sessions as usize + OTHER_THREADS,
            strangers,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are small")]
fn ratio(part: u64, all: u64) -> f64 {
    part as f64 / all as f64
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
