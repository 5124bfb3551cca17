//! Memory: idle, and with connections that only idle.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use crate::Bench;
use crate::cases::{self, Case, Running};
use crate::client::Client;
use crate::process::Memory;
use crate::report::{self, verdict};

/// One row of the JSON.
#[derive(Serialize)]
struct Row {
    case: &'static str,
    /// Of all processes, before the first connection but one; shared pages counted once.
    idle_pss_kib: u64,
    /// The same, shared pages counted in every process.
    idle_rss_kib: u64,
    connections: usize,
    /// Growth of all processes divided by the connections.
    kib_per_connection: f64,
}

const CONNECTIONS: usize = 2000;
/// Goals, in KiB.
const IDLE: u64 = 30 << 10;
const CONNECTION: f64 = 32.0;
/// Until allocators and servers have come to rest.
const SETTLE: Duration = Duration::from_secs(2);

pub async fn run(bench: &Bench) -> anyhow::Result<()> {
    let count = bench.count.unwrap_or(CONNECTIONS);
    let mut rows = Vec::new();
    for case in bench.chosen(&[Case::Software, Case::Fastness]) {
        let mut running = cases::start(case, bench).await?;
        rows.push(measure(&mut running, count, bench.concurrency).await?);
    }
    print(&rows);
    report::json(bench.json.as_deref(), &rows)
}

/// KiB that each idle connection costs a server, all its processes together.
pub async fn per_connection(running: &mut Running, count: usize, concurrency: usize) -> anyhow::Result<f64> {
    Ok(measure(running, count, concurrency).await?.kib_per_connection)
}

async fn measure(running: &mut Running, count: usize, concurrency: usize) -> anyhow::Result<Row> {
    let case = running.case.name();
    tokio::time::sleep(SETTLE).await;
    let idle = running.server.memory()?;
    for process in &idle {
        eprintln!("  {case}: {:<11} {:>6} KiB PSS {:>6} KiB RSS", process.name, process.pss, process.rss);
    }
    eprintln!("opening {count} connections to {case} …");
    let held = open(&running.client, count, concurrency).await?;
    tokio::time::sleep(SETTLE).await;
    running.server.alive()?;
    let full = running.server.memory()?;
    anyhow::ensure!(held.iter().all(|driver| !driver.is_finished()), "the server closed some of the connections");
    for driver in &held {
        driver.abort();
    }
    let pss = |memory: &[Memory]| memory.iter().map(|process| process.pss).sum::<u64>();
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let growth = pss(&full).saturating_sub(pss(&idle)) as f64 / count as f64;
    Ok(Row {
        case,
        idle_pss_kib: pss(&idle),
        idle_rss_kib: idle.iter().map(|process| process.rss).sum(),
        connections: count,
        kib_per_connection: (growth * 10.0).round() / 10.0,
    })
}

/// Opens `count` HTTP/2 connections that answer the server's pings and do nothing else.
async fn open(client: &Client, count: usize, concurrency: usize) -> anyhow::Result<Vec<tokio::task::JoinHandle<()>>> {
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        let batch = concurrency.min(count - held.len());
        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..batch {
            let client = client.clone();
            opening.spawn(async move { client.connect().await });
        }
        while let Some(stream) = opening.join_next().await {
            let stream = stream?.context("a connection was refused")?;
            let (mut requests, mut connection) = h2::client::handshake(stream).await?;
            // Once there and back: the server has taken the connection.
            let mut ping = connection.ping_pong().context("h2 lends this once")?;
            let driver = tokio::spawn(async move {
                // Ends when the server ends it, which is looked at.
                let _ = connection.await;
            });
            ping.ping(h2::Ping::opaque()).await.context("the server took no connection")?;
            requests = requests.ready().await?;
            // The connection would close with its last handle.
            std::mem::forget(requests);
            held.push(driver);
        }
    }
    Ok(held)
}

fn print(rows: &[Row]) {
    println!("\nMemory, all processes of the server together");
    println!("{:<10} {:>14} {:>14} {:>13} {:>20}", "case", "idle PSS KiB", "idle RSS KiB", "connections", "KiB per connection");
    for row in rows {
        println!(
            "{:<10} {:>14} {:>14} {:>13} {:>20.1}",
            row.case, row.idle_pss_kib, row.idle_rss_kib, row.connections, row.kib_per_connection
        );
    }
    if let Some(fastness) = rows.iter().find(|row| row.case == Case::Fastness.name()) {
        println!("goal: idle ≤ 30 MiB (PSS: shared pages counted once): {} ({:.1} MiB)", verdict(fastness.idle_pss_kib <= IDLE), fastness.idle_pss_kib as f64 / 1024.0);
        println!("goal: ≤ {CONNECTION} KiB an idle connection: {} ({:.1})", verdict(fastness.kib_per_connection <= CONNECTION), fastness.kib_per_connection);
    }
}
