//! Percentiles, rows and their goals.

use std::time::Duration;

use serde::Serialize;

use super::Case;

/// Durations of one kind.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// So many of a hundred are not longer; not a number when there are none.
    pub fn percentile_ms(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort();
        let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    }
}

/// One row of the JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub latency_ms: u32,
    pub sessions: u32,
    pub clients: usize,
    pub kind: &'static str,
    /// Handshakes a second divided by what the token can sign: sessions / latency.
    pub handshakes_share: f64,
    pub handshake_p50_ms: f64,
    pub handshake_p99_over_p50: f64,
    pub handshakes_failed: u64,
    pub rpc_idle_p99_ms: f64,
    pub rpc_p99_over_idle: f64,
    /// Of the node's process, the most that were seen.
    pub threads: usize,
    pub threads_allowed: usize,
    /// Only where strangers are: half-open connections they made, signatures the module made for them a
    /// second and at most, the share of the listed peer's tries that connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strangers: Option<Strangers>,
}

/// What strangers had, and what a listed peer had beside them.
#[derive(Clone, Debug, Serialize)]
pub struct Strangers {
    pub connections: u64,
    pub signatures: u64,
    pub signatures_allowed: u64,
    pub listed_connected: f64,
}

/// A goal, and whether it was met.
pub struct Goal {
    pub text: String,
    pub met: bool,
}

const SHARE: f64 = 0.93;
const SPREAD: f64 = 1.1;
const CALLS: f64 = 1.5;
const LISTED: f64 = 0.99;

impl Row {
    /// Every goal of this case.
    pub fn goals(&self, case: Case) -> Vec<Goal> {
        let mut goals = vec![
            goal("rpc p99 / idle", self.rpc_p99_over_idle, CALLS, self.rpc_p99_over_idle <= CALLS),
            Goal {
                text: format!("threads {} (≤ {})", self.threads, self.threads_allowed),
                met: self.threads <= self.threads_allowed,
            },
        ];
        if case.kind.is_paced_by_the_token() {
            goals.push(goal("share", self.handshakes_share, SHARE, self.handshakes_share >= SHARE));
            goals.push(goal("p99 / p50", self.handshake_p99_over_p50, SPREAD, self.handshake_p99_over_p50 <= SPREAD));
        }
        match &self.strangers {
            Some(strangers) => {
                let (connected, signed) = (strangers.listed_connected, strangers.signatures);
                goals.push(goal("listed peer connects", connected, LISTED, connected >= LISTED));
                goals.push(Goal {
                    text: format!("signatures for strangers {signed} (≤ {})", strangers.signatures_allowed),
                    met: signed <= strangers.signatures_allowed,
                });
            }
            None => goals.push(Goal {
                text: format!("{} handshakes failed", self.handshakes_failed),
                met: self.handshakes_failed == 0,
            }),
        }
        goals
    }
}

fn goal(what: &str, is: f64, should: f64, met: bool) -> Goal {
    Goal { text: format!("{what} {is:.3} ({should})"), met }
}

/// The table for people. False when a goal was missed.
pub fn print(rows: &[(Case, Row)], seconds: u64) -> bool {
    println!("\nA node whose token is slow; {seconds} s a case, 400 calls a second on established connections");
    println!(
        "{:>7} {:>8} {:>7} {:<12} {:>6} {:>8} {:>8} {:>7} {:>9} {:>8} {:>7}",
        "latency", "sessions", "clients", "kind", "share", "p50 ms", "p99/p50", "failed", "idle p99", "rpc/idle", "threads"
    );
    for (_, row) in rows {
        println!(
            "{:>4} ms {:>8} {:>7} {:<12} {:>6.3} {:>8.1} {:>8.3} {:>7} {:>6.2} ms {:>8.2} {:>7}",
            row.latency_ms,
            row.sessions,
            row.clients,
            row.kind,
            row.handshakes_share,
            row.handshake_p50_ms,
            row.handshake_p99_over_p50,
            row.handshakes_failed,
            row.rpc_idle_p99_ms,
            row.rpc_p99_over_idle,
            row.threads
        );
    }
    for (case, row) in rows {
        for goal in row.goals(*case) {
            if !goal.met {
                println!("NOT MET: {} ms × {} {}: {}", row.latency_ms, row.sessions, row.kind, goal.text);
            }
        }
    }
    let (all, met) = rows.iter().flat_map(|(case, row)| row.goals(*case)).fold((0, 0), |(all, met), goal| {
        (all + 1, met + usize::from(goal.met))
    });
    println!("goals met: {met} of {all}");
    met == all
}
