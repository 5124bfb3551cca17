//! Server CPU of a full mutual-TLS handshake.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use tokio::task::LocalSet;

use crate::Bench;
use crate::cases::{self, Case, Running};
use crate::client::Client;
use crate::process::name_of;
use crate::report::{self, micros, min_and_median, ratio, verdict};

/// One row of the JSON.
#[derive(Serialize)]
struct Row {
    case: &'static str,
    cpu_us_min: f64,
    cpu_us_median: f64,
    to_software: f64,
}

/// What the rounds of one case gave.
#[derive(Default)]
pub struct Figures {
    pub cpu: Vec<f64>,
    per_second: Vec<f64>,
    /// Of the last round, by process.
    split: Vec<(String, f64)>,
}

const HANDSHAKES: usize = 2000;
/// Not measured: caches, allocator and the branch predictor of each server.
const WARM_UP: usize = 200;

/// Goals.
const TO_SOFTWARE: f64 = 1.5;
const TO_NGINX: f64 = 0.6;

pub async fn run(bench: &Bench) -> anyhow::Result<()> {
    let count = bench.count.unwrap_or(HANDSHAKES);
    let mut servers = Vec::new();
    for case in bench.chosen(&[Case::Software, Case::Fastness, Case::NginxPkcs11]) {
        let mut running = cases::start(case, bench).await?;
        if bench.x25519 {
            running.client = running.client.with_x25519()?;
            eprintln!("  {}: {}", case.name(), running.client.handshake().await?.group);
        }
        servers.push((running, Figures::default()));
    }
    for (running, _) in &mut servers {
        load(&running.client, WARM_UP, bench.concurrency).await?;
    }
    if bench.hold {
        hold(&servers)?;
    }
    for round in 1..=bench.rounds() {
        for (running, figures) in &mut servers {
            measure(running, figures, count, bench.concurrency).await?;
            let (cpu, rate) = (figures.cpu.last().unwrap_or(&0.0), figures.per_second.last().unwrap_or(&0.0));
            eprintln!("round {round}/{}  {:<13} {cpu:6.1} µs CPU  {rate:6.0}/s", bench.rounds(), running.case.name());
        }
    }
    print(&servers, count, bench.rounds());
    report::json(bench.json.as_deref(), &rows(&servers))
}

/// `count` handshakes, `concurrency` at once: the next begins when one is done.
pub async fn load(client: &Client, count: usize, concurrency: usize) -> anyhow::Result<()> {
    let left = Rc::new(Cell::new(count));
    let tasks = LocalSet::new();
    let running: Vec<_> = (0..concurrency)
        .map(|_| {
            let (client, left) = (client.clone(), Rc::clone(&left));
            tasks.spawn_local(async move {
                while let Some(less) = left.get().checked_sub(1) {
                    left.set(less);
                    client.handshake().await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    tasks.await;
    for task in running {
        task.await?.context("a handshake failed")?;
    }
    Ok(())
}

pub async fn measure(running: &mut Running, figures: &mut Figures, count: usize, concurrency: usize) -> anyhow::Result<()> {
    running.server.alive()?;
    let (before, since) = (running.server.cpu()?, Instant::now());
    load(&running.client, count, concurrency).await?;
    let took = since.elapsed();
    // What the server does after the last connection's end.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let after = running.server.cpu()?;
    figures.cpu.push(micros(after.since(&before)?, count));
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    figures.per_second.push(count as f64 / took.as_secs_f64());
    figures.split.clear();
    for (pid, used) in after.each_since(&before) {
        figures.split.push((name_of(pid)?, micros(used, count)));
    }
    Ok(())
}

fn hold(servers: &[(Running, Figures)]) -> anyhow::Result<()> {
    for (running, _) in servers {
        for pid in running.server.tree()? {
            eprintln!("pid {pid} {} {}", running.case.name(), name_of(pid)?);
        }
    }
    Ok(())
}

fn rows(servers: &[(Running, Figures)]) -> Vec<Row> {
    let software = servers
        .iter()
        .find(|(running, _)| running.case == Case::Software)
        .map_or(f64::NAN, |(_, figures)| min_and_median(&figures.cpu).0);
    servers
        .iter()
        .map(|(running, figures)| {
            let (cpu_us_min, cpu_us_median) = min_and_median(&figures.cpu);
            let to_software = ratio(cpu_us_min, software);
            Row { case: running.case.name(), cpu_us_min, cpu_us_median, to_software }
        })
        .collect()
}

fn print(servers: &[(Running, Figures)], count: usize, rounds: usize) {
    let rows = rows(servers);
    println!("\nServer CPU of a full mutual-TLS 1.3 handshake, µs; {rounds} rounds of {count}, one core, P-256");
    println!("{:<14} {:>7} {:>8} {:>12} {:>13}   by process", "case", "min", "median", "to software", "handshakes/s");
    for (row, (_, figures)) in rows.iter().zip(servers) {
        let (_, rate) = min_and_median(&figures.per_second);
        let split: Vec<String> = figures.split.iter().map(|(name, micros)| format!("{name} {micros}")).collect();
        println!(
            "{:<14} {:>7.1} {:>8.1} {:>12.2} {:>13.0}   {}",
            row.case, row.cpu_us_min, row.cpu_us_median, row.to_software, rate, split.join(", ")
        );
    }
    let of = |case: Case| rows.iter().find(|row| row.case == case.name());
    if let (Some(fastness), Some(_)) = (of(Case::Fastness), of(Case::Software)) {
        let met = fastness.to_software <= TO_SOFTWARE;
        println!("goal: fastness ≤ {TO_SOFTWARE} × software: {} ({:.2})", verdict(met), fastness.to_software);
    }
    if let (Some(fastness), Some(nginx)) = (of(Case::Fastness), of(Case::NginxPkcs11)) {
        let to_nginx = ratio(fastness.cpu_us_min, nginx.cpu_us_min);
        println!("goal: fastness ≤ {TO_NGINX} × nginx-pkcs11: {} ({to_nginx:.2})", verdict(to_nginx <= TO_NGINX));
    }
}
