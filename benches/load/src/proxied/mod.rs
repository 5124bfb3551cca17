//! One application, and who may stand in front of it: what a call, a GiB and an idle connection cost each
//! of them.

mod upstream;

use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::util::MapRequest;

use crate::Bench;
use crate::cases::{self, Case, Running};
use crate::client::Client;
use crate::memory;
use crate::peer::peer_client::PeerClient;
use crate::peer::{PingRequest, TransferRequest};
use crate::report::{self, micros, min_and_median, ratio};

/// One row of the JSON.
#[derive(Serialize)]
struct Row {
    case: &'static str,
    /// Server CPU of a unary call, µs.
    cpu_us_min: f64,
    cpu_us_median: f64,
    /// Over the same calls without anybody in between, µs.
    added_p50_us: f64,
    added_p99_us: f64,
    calls_per_second: f64,
    up_mb_per_second: f64,
    up_cpu_s_per_gib: f64,
    down_mb_per_second: f64,
    down_cpu_s_per_gib: f64,
    kib_per_connection: f64,
}

type Caller = PeerClient<MapRequest<Channel, fn(http::Request<tonic::body::Body>) -> http::Request<tonic::body::Body>>>;

/// Somebody in front of the application, or nobody.
struct Measured {
    running: Option<Running>,
    caller: Caller,
    cpu: Vec<f64>,
    per_second: Vec<f64>,
    latencies: Vec<Duration>,
    up: Vec<Bulk>,
    down: Vec<Bulk>,
    kib_per_connection: f64,
}

/// One transfer.
struct Bulk {
    mb_per_second: f64,
    cpu_s_per_gib: f64,
}

const CALLS: usize = 20_000;
const WARM_UP: usize = 3_000;
/// Calls one after the other, for their latency.
const ALONE: usize = 2_000;
const BLOCK: usize = 256 << 10;
const SENT_BACK: u32 = 256 << 10;
const ROUNDS: usize = 5;
const BLOCKS: usize = 2048;
const IN_FLIGHT: usize = 16;
const CONNECTIONS: usize = 500;

pub async fn run(bench: &Bench) -> anyhow::Result<()> {
    let socket = bench.dir.join("app.sock");
    tokio::spawn({
        let socket = socket.clone();
        async move { upstream::serve(&socket).await.inspect_err(|error| eprintln!("application: {error:#}")) }
    });
    while UnixStream::connect(&socket).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let direct = tuned(Endpoint::from_static("http://bench.invalid"));
    let direct = direct.connect_with_connector(tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }));
    let mut all = vec![measured(None, direct.await?)];
    for case in bench.chosen(&[Case::FastnessProxy, Case::Envoy, Case::NginxProxy]) {
        let mut running = cases::start(case, bench).await?;
        let kib = memory::per_connection(&mut running, CONNECTIONS, bench.concurrency).await?;
        let channel = channel(running.client.clone()).await?;
        let mut measured = measured(Some(running), channel);
        measured.kib_per_connection = kib;
        all.push(measured);
    }
    for measured in &mut all {
        load(&measured.caller, WARM_UP, bench.concurrency).await?;
        measured.bulk(true, BLOCKS / 8).await?;
    }
    let count = bench.count.unwrap_or(CALLS);
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    for round in 1..=rounds {
        for measured in &mut all {
            measured.round(count, bench.concurrency).await?;
            eprintln!("round {round}/{rounds}  {}", measured.last());
        }
    }
    let rows = rows(&all);
    print(&rows);
    report::json(bench.json.as_deref(), &rows)
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20).max_frame_size(256 << 10)
}

async fn channel(client: Client) -> anyhow::Result<Channel> {
    let connector = tower::service_fn(move |_: Uri| {
        let client = client.clone();
        async move { client.connect().await.map(TokioIo::new).map_err(std::io::Error::other) }
    });
    Ok(tuned(Endpoint::from_static("http://bench.invalid")).connect_with_connector(connector).await?)
}

fn measured(running: Option<Running>, channel: Channel) -> Measured {
    let rename: fn(_) -> _ = upstream::outgoing;
    Measured {
        running,
        caller: PeerClient::new(MapRequest::new(channel, rename)).max_decoding_message_size(4 << 20),
        cpu: Vec::new(),
        per_second: Vec::new(),
        latencies: Vec::new(),
        up: Vec::new(),
        down: Vec::new(),
        kib_per_connection: 0.0,
    }
}

impl Measured {
    fn name(&self) -> &'static str {
        self.running.as_ref().map_or("direct", |running| running.case.name())
    }

    fn last(&self) -> String {
        let last = |figures: &[f64]| figures.last().copied().unwrap_or(f64::NAN);
        let mb = |bulk: &[Bulk]| bulk.last().map_or(f64::NAN, |bulk| bulk.mb_per_second);
        format!(
            "{:<9} {:5.1} µs CPU  {:7.0}/s  {:6.0} MB/s up  {:6.0} MB/s down",
            self.name(),
            last(&self.cpu),
            last(&self.per_second),
            mb(&self.up),
            mb(&self.down)
        )
    }

    fn cpu(&self) -> anyhow::Result<Option<crate::process::Cpu>> {
        self.running.as_ref().map(|running| running.server.cpu()).transpose()
    }

    /// CPU time of the server since `before`.
    fn used(&self, before: Option<&crate::process::Cpu>) -> anyhow::Result<Duration> {
        match (self.cpu()?, before) {
            (Some(now), Some(before)) => now.since(before),
            _ => Ok(Duration::ZERO),
        }
    }

    async fn round(&mut self, count: usize, concurrency: usize) -> anyhow::Result<()> {
        if let Some(running) = &mut self.running {
            running.server.alive()?;
        }
        let (before, since) = (self.cpu()?, Instant::now());
        load(&self.caller, count, concurrency).await?;
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        self.per_second.push(count as f64 / since.elapsed().as_secs_f64());
        self.cpu.push(micros(self.used(before.as_ref())?, count));
        let mut caller = self.caller.clone();
        for nonce in 0..ALONE as u64 {
            let since = Instant::now();
            caller.ping(PingRequest { nonce }).await?;
            self.latencies.push(since.elapsed());
        }
        let up = self.bulk(true, BLOCKS).await?;
        let down = self.bulk(false, BLOCKS).await?;
        self.up.push(up);
        self.down.push(down);
        Ok(())
    }

    /// Half a GiB in one direction of one stream.
    async fn bulk(&mut self, up: bool, blocks: usize) -> anyhow::Result<Bulk> {
        let (before, since) = (self.cpu()?, Instant::now());
        let (asks, asked) = tokio::sync::mpsc::channel(1);
        let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(IN_FLIGHT));
        let more = std::sync::Arc::clone(&permits);
        tokio::spawn(async move {
            for _ in 0..blocks {
                let Ok(permit) = more.acquire().await else { return };
                permit.forget();
                let request = match up {
                    true => TransferRequest { block: vec![0; BLOCK], send_back: 0 },
                    false => TransferRequest { block: Vec::new(), send_back: SENT_BACK },
                };
                if asks.send(request).await.is_err() {
                    return;
                }
            }
        });
        let requests = tokio_stream::wrappers::ReceiverStream::new(asked);
        let mut answers = self.caller.clone().transfer(requests).await?.into_inner();
        let mut got = 0;
        while let Some(answer) = answers.message().await? {
            got += if up { BLOCK } else { answer.block.len() };
            permits.add_permits(1);
        }
        anyhow::ensure!(got == blocks * BLOCK, "{got} bytes came, not {}", blocks * BLOCK);
        let seconds = since.elapsed().as_secs_f64();
        let cpu = self.used(before.as_ref())?.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        let bytes = got as f64;
        Ok(Bulk { mb_per_second: bytes / 1e6 / seconds, cpu_s_per_gib: cpu / (bytes / f64::from(1 << 30)) })
    }
}

/// `count` calls, `concurrency` at once.
async fn load(caller: &Caller, count: usize, concurrency: usize) -> anyhow::Result<()> {
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..concurrency {
        let mut caller = caller.clone();
        let share = count / concurrency + usize::from(number < count % concurrency);
        callers.spawn(async move {
            for nonce in 0..share as u64 {
                let answer = caller.ping(PingRequest { nonce }).await?;
                anyhow::ensure!(answer.into_inner().nonce == nonce, "the answer belongs to another call");
            }
            Ok(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    Ok(())
}

fn rows(all: &[Measured]) -> Vec<Row> {
    let quantile = |measured: &Measured, share: f64| {
        let mut sorted = measured.latencies.clone();
        sorted.sort_unstable();
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are small")]
        let index = ((sorted.len() - 1) as f64 * share) as usize;
        micros(sorted[index], 1)
    };
    let direct = &all[0];
    let tenth = |value: f64| (value * 10.0).round() / 10.0;
    let best = |bulk: &[Bulk]| {
        let rate = bulk.iter().map(|bulk| bulk.mb_per_second).fold(0.0, f64::max);
        let cpu = bulk.iter().map(|bulk| bulk.cpu_s_per_gib).fold(f64::INFINITY, f64::min);
        (rate.round(), (cpu * 1000.0).round() / 1000.0)
    };
    all.iter()
        .map(|measured| {
            let (cpu_us_min, cpu_us_median) = min_and_median(&measured.cpu);
            let ((up_mb_per_second, up_cpu_s_per_gib), (down_mb_per_second, down_cpu_s_per_gib)) =
                (best(&measured.up), best(&measured.down));
            Row {
                case: measured.name(),
                cpu_us_min,
                cpu_us_median,
                added_p50_us: tenth(quantile(measured, 0.5) - quantile(direct, 0.5)),
                added_p99_us: tenth(quantile(measured, 0.99) - quantile(direct, 0.99)),
                calls_per_second: measured.per_second.iter().copied().fold(0.0, f64::max).round(),
                up_mb_per_second,
                up_cpu_s_per_gib,
                down_mb_per_second,
                down_cpu_s_per_gib,
                kib_per_connection: measured.kib_per_connection,
            }
        })
        .collect()
}

/// A column: its name, its figure, and whether less is better.
type Column = (&'static str, fn(&Row) -> f64, bool);

const COLUMNS: [Column; 9] = [
    ("CPU µs a call, min", |row| row.cpu_us_min, true),
    ("CPU µs a call, median", |row| row.cpu_us_median, true),
    ("added p50 µs", |row| row.added_p50_us, true),
    ("added p99 µs", |row| row.added_p99_us, true),
    ("MB/s up", |row| row.up_mb_per_second, false),
    ("CPU s a GiB up", |row| row.up_cpu_s_per_gib, true),
    ("MB/s down", |row| row.down_mb_per_second, false),
    ("CPU s a GiB down", |row| row.down_cpu_s_per_gib, true),
    ("KiB a connection", |row| row.kib_per_connection, true),
];

fn print(rows: &[Row]) {
    println!("\nIn front of one gRPC application at a unix socket; each server on one core, the others on another");
    print!("{:<24}", "");
    rows.iter().for_each(|row| print!("{:>16}", row.case));
    println!();
    for (name, figure, less) in COLUMNS {
        print!("{name:<24}");
        rows.iter().for_each(|row| print!("{:>16.2}", figure(row)));
        let ours = rows.iter().find(|row| row.case == Case::FastnessProxy.name()).map(figure);
        let others = rows.iter().filter(|row| ![Case::FastnessProxy.name(), "direct"].contains(&row.case)).map(figure);
        let best = if less { others.fold(f64::INFINITY, f64::min) } else { others.fold(0.0, f64::max) };
        match ours {
            Some(ours) if best.is_finite() && best > 0.0 => {
                let ahead = if less { ours <= best } else { ours >= best };
                println!("   {} ({:.2} of the best other)", if ahead { "ahead" } else { "BEHIND" }, ratio(ours, best));
            }
            _ => println!(),
        }
    }
}
