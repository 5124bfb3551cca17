//! Figures to a table for people and to JSON for programs.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

/// Microseconds to one decimal.
pub fn micros(duration: Duration, count: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let each = duration.as_secs_f64() * 1e6 / count as f64;
    (each * 10.0).round() / 10.0
}

/// The smallest and the middle of `figures`.
pub fn min_and_median(figures: &[f64]) -> (f64, f64) {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted.first().copied().unwrap_or(f64::NAN), sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN))
}

/// To two decimals.
pub fn ratio(value: f64, of: f64) -> f64 {
    (value / of * 100.0).round() / 100.0
}

/// How a figure stands to its goal.
pub fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "NOT MET" }
}

/// A goal was missed: the figures are there all the same.
#[derive(Debug)]
pub struct Missed;

impl std::fmt::Display for Missed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a goal was missed")
    }
}

impl std::error::Error for Missed {}

/// An error when not all goals are `met`: the last word of a benchmark.
pub fn judge(met: bool) -> anyhow::Result<()> {
    if met { Ok(()) } else { Err(Missed.into()) }
}

/// Writes `rows` as an array.
pub fn json(file: Option<&Path>, rows: &[impl Serialize]) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(rows)? + "\n";
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("written: {}", file.display());
    Ok(())
}
