//! What the system call filters cost: the product as shipped against a build without them, in turn.

use serde::Serialize;
use tonic::transport::Channel;

use crate::Bench;
use crate::cases::{self, Case, Running};
use crate::handshakes::{self, Figures};
use crate::report::{self, micros, min_and_median, verdict};
use crate::rpc;

/// One row of the JSON.
#[derive(Serialize)]
struct Row {
    case: &'static str,
    filtered_us_min: f64,
    filtered_us_median: f64,
    unfiltered_us_min: f64,
    unfiltered_us_median: f64,
    /// The best round with filters divided by the best without.
    ratio_of_minima: f64,
    /// The middle of the rounds' own ratios: both measured within a second or so of each other.
    median_of_ratios: f64,
    rounds: usize,
}

impl Row {
    fn met(&self) -> bool {
        self.median_of_ratios <= GOAL
    }
}

/// What the rounds of one of the two servers gave.
#[derive(Default)]
struct Side {
    handshakes: Figures,
    calls: Vec<f64>,
}

/// Short rounds, and many: other work on the machine then hits both sides of most pairs alike.
const ROUNDS: usize = 35;
/// A process keeps the places in memory that it got by chance, and with them a few percent: both servers are
/// started again after so many rounds.
const ROUNDS_OF_A_START: usize = 5;
const HANDSHAKES: usize = 500;
const CALLS: usize = 10_000;
/// Most that the filters may cost.
const GOAL: f64 = 1.03;

pub async fn run(bench: &Bench) -> anyhow::Result<()> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    let (mut filtered, mut unfiltered) = (Side::default(), Side::default());
    let mut sides = [(Case::Fastness, &mut filtered), (Case::Unfiltered, &mut unfiltered)];
    for first in (0..rounds).step_by(ROUNDS_OF_A_START) {
        let mut servers = Vec::new();
        for (case, _) in &sides {
            servers.push(start(*case, bench).await?);
        }
        for round in first..rounds.min(first + ROUNDS_OF_A_START) {
            // Whoever is second finds warmer caches: they take turns in that too.
            sides.rotate_left(1);
            servers.rotate_left(1);
            for ((running, _), (_, side)) in servers.iter_mut().zip(&mut sides) {
                let count = bench.count.unwrap_or(HANDSHAKES);
                handshakes::measure(running, &mut side.handshakes, count, bench.concurrency).await?;
            }
            for ((running, channel), (_, side)) in servers.iter_mut().zip(&mut sides) {
                let before = running.server.cpu()?;
                rpc::load(channel, CALLS, bench.concurrency).await?;
                side.calls.push(micros_fine(running.server.cpu()?.since(&before)?));
            }
            eprintln!("round {}/{rounds}", round + 1);
        }
    }
    let rows = [
        row("rpc", &filtered.calls, &unfiltered.calls),
        row("handshake", &filtered.handshakes.cpu, &unfiltered.handshakes.cpu),
    ];
    print(&rows);
    report::json(bench.json.as_deref(), &rows)?;
    report::judge(rows.iter().all(Row::met))
}

async fn start(case: Case, bench: &Bench) -> anyhow::Result<(Running, Channel)> {
    let running = cases::start(case, bench).await?;
    let channel = rpc::channel(running.client.clone()).await?;
    rpc::load(&channel, CALLS, bench.concurrency).await?;
    handshakes::load(&running.client, HANDSHAKES, bench.concurrency).await?;
    Ok((running, channel))
}

/// Microseconds a call, to two decimals: a call takes few.
fn micros_fine(used: std::time::Duration) -> f64 {
    micros(used * 10, CALLS) / 10.0
}

fn row(case: &'static str, filtered: &[f64], unfiltered: &[f64]) -> Row {
    let (filtered_us_min, filtered_us_median) = min_and_median(filtered);
    let (unfiltered_us_min, unfiltered_us_median) = min_and_median(unfiltered);
    let ratios: Vec<f64> = filtered.iter().zip(unfiltered).map(|(with, without)| with / without).collect();
    Row {
        case,
        filtered_us_min,
        filtered_us_median,
        unfiltered_us_min,
        unfiltered_us_median,
        ratio_of_minima: thousandths(filtered_us_min / unfiltered_us_min),
        median_of_ratios: thousandths(min_and_median(&ratios).1),
        rounds: ratios.len(),
    }
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn print(rows: &[Row]) {
    println!("\nServer CPU with and without the system call filters, µs, in turn; server on one core");
    println!("{:<10} {:>14} {:>17} {:>15} {:>17}", "case", "filtered min", "unfiltered min", "ratio of minima", "median of ratios");
    for row in rows {
        println!(
            "{:<10} {:>14.2} {:>17.2} {:>15.3} {:>17.3}",
            row.case, row.filtered_us_min, row.unfiltered_us_min, row.ratio_of_minima, row.median_of_ratios
        );
    }
    for row in rows {
        println!("goal: {} ≤ {GOAL} × without filters, in the middle: {} ({:.3})", row.case, verdict(row.met()), row.median_of_ratios);
    }
}
