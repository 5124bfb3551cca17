//! Unary calls on one established connection.

use std::time::Instant;

use hyper_util::rt::TokioIo;
use serde::Serialize;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::Bench;
use crate::cases::{self, Case, Running};
use crate::client::Client;
use crate::peer::PingRequest;
use crate::peer::peer_client::PeerClient;
use crate::report::{self, micros, min_and_median, ratio, verdict};

/// One row of the JSON. Ratios above 1 are better than software.
#[derive(Serialize)]
struct Row {
    case: &'static str,
    cpu_us_min: f64,
    cpu_us_median: f64,
    calls_per_second: f64,
    /// CPU of software divided by ours.
    cpu_to_software: f64,
    /// Our best throughput divided by software's.
    throughput_to_software: f64,
}

struct Measured {
    running: Running,
    channel: Channel,
    cpu: Vec<f64>,
    per_second: Vec<f64>,
}

const CALLS: usize = 40_000;
const WARM_UP: usize = 5_000;
/// Share of software's figures that is the goal.
const GOAL: f64 = 0.95;

pub async fn run(bench: &Bench) -> anyhow::Result<()> {
    let count = bench.count.unwrap_or(CALLS);
    let mut servers = Vec::new();
    for case in bench.chosen(&[Case::Software, Case::Fastness]) {
        let running = cases::start(case, bench).await?;
        let channel = channel(running.client.clone()).await?;
        load(&channel, WARM_UP, bench.concurrency).await?;
        servers.push(Measured { running, channel, cpu: Vec::new(), per_second: Vec::new() });
    }
    for round in 1..=bench.rounds() {
        for server in &mut servers {
            server.running.server.alive()?;
            let (before, since) = (server.running.server.cpu()?, Instant::now());
            load(&server.channel, count, bench.concurrency).await?;
            #[expect(clippy::cast_precision_loss, reason = "counts are small")]
            let rate = count as f64 / since.elapsed().as_secs_f64();
            let cpu = micros(server.running.server.cpu()?.since(&before)?, count);
            eprintln!("round {round}/{}  {:<9} {cpu:5.1} µs CPU  {rate:7.0}/s", bench.rounds(), server.running.case.name());
            server.cpu.push(cpu);
            server.per_second.push(rate);
        }
    }
    let rows = rows(&servers);
    print(&rows, count, bench);
    report::json(bench.json.as_deref(), &rows)
}

/// A gRPC channel over one connection of `client`.
pub async fn channel(client: Client) -> anyhow::Result<Channel> {
    let connector = tower::service_fn(move |_: Uri| {
        let client = client.clone();
        async move { client.connect().await.map(TokioIo::new).map_err(std::io::Error::other) }
    });
    Ok(Endpoint::from_static("http://bench.invalid").connect_with_connector(connector).await?)
}

/// `count` calls, `concurrency` at once.
pub async fn load(channel: &Channel, count: usize, concurrency: usize) -> anyhow::Result<()> {
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..concurrency {
        let mut client = PeerClient::new(channel.clone());
        let share = count / concurrency + usize::from(caller < count % concurrency);
        callers.spawn(async move {
            for nonce in 0..share as u64 {
                let answer = client.ping(PingRequest { nonce }).await?;
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

fn rows(servers: &[Measured]) -> Vec<Row> {
    let figures = |server: &Measured| {
        let (cpu_min, cpu_median) = min_and_median(&server.cpu);
        let best = server.per_second.iter().copied().fold(0.0, f64::max);
        (cpu_min, cpu_median, best.round())
    };
    let software = servers.iter().find(|server| server.running.case == Case::Software).map(figures);
    let (software_cpu, _, software_rate) = software.unwrap_or((f64::NAN, f64::NAN, f64::NAN));
    servers
        .iter()
        .map(|server| {
            let (cpu_us_min, cpu_us_median, calls_per_second) = figures(server);
            Row {
                case: server.running.case.name(),
                cpu_us_min,
                cpu_us_median,
                calls_per_second,
                cpu_to_software: ratio(software_cpu, cpu_us_min),
                throughput_to_software: ratio(calls_per_second, software_rate),
            }
        })
        .collect()
}

fn print(rows: &[Row], count: usize, bench: &Bench) {
    println!(
        "\nUnary calls on one connection, {} at once; {} rounds of {count}; server on one core",
        bench.concurrency, bench.rounds()
    );
    println!("{:<10} {:>12} {:>8} {:>12} {:>16} {:>18}", "case", "CPU µs min", "median", "calls/s", "CPU to software", "calls/s to software");
    for row in rows {
        println!(
            "{:<10} {:>12.1} {:>8.1} {:>12.0} {:>16.2} {:>18.2}",
            row.case, row.cpu_us_min, row.cpu_us_median, row.calls_per_second, row.cpu_to_software, row.throughput_to_software
        );
    }
    if let Some(fastness) = rows.iter().find(|row| row.case == Case::Fastness.name()) {
        let least = fastness.cpu_to_software.min(fastness.throughput_to_software);
        println!("goal: fastness ≥ {GOAL} of software, CPU and throughput: {} ({least:.2})", verdict(least >= GOAL));
    }
}
