//! Metrics in the Prometheus text format, version 0.0.4: counters and histograms that cost one or two
//! atomic additions, and the text of them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What the text of [`Text`] is, for HTTP.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How often something happened since the process started.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many by now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of a histogram's buckets in seconds, from a software token to an HSM that hangs; a
/// last bucket without a bound takes the rest.
const BOUNDS: [f64; 17] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];

/// How long things took.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Histogram {
    /// Something took `time`.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .sum()
    }
}

/// Counters by one or two names, for what happens too seldom to matter or in too many kinds.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

impl Tally {
    /// One more of this kind.
    pub(crate) fn count(&self, kind: &'static str, code: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((kind, code)).or_default() += 1;
    }

    /// All of them now.
    pub(crate) fn snapshot(&self) -> Vec<((&'static str, &'static str), u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(kind, count)| (*kind, *count)).collect()
    }
}

/// What a family of metrics is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows, but for restarts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets of durations.
    Histogram,
}

/// The labels of one sample.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A text that families of metrics are written to, each family whole.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

/// One family while it is written.
pub(crate) struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

impl Text {
    /// Begins a family. Names and help texts are ours and need no escapes.
    pub(crate) fn family<'a>(&'a mut self, name: &'a str, kind: Kind, help: &str) -> Family<'a> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.add(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family {
            text: &mut self.0,
            name,
        }
    }

    /// The text.
    pub(crate) fn into_string(self) -> String {
        self.0
    }

    fn add(&mut self, arguments: std::fmt::Arguments<'_>) {
        write(&mut self.0, arguments);
    }
}

impl Family<'_> {
    /// One sample.
    pub(crate) fn sample(&mut self, labels: Labels<'_>, value: u64) -> &mut Self {
        self.line("", labels, None, format_args!("{value}"));
        self
    }

    /// One histogram. Its count is that of the buckets, so the three agree whatever happens meanwhile.
    pub(crate) fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) -> &mut Self {
        let mut count = 0;
        let bounds = BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bucket, bound) in histogram.buckets.iter().zip(bounds) {
            count += bucket.load(Ordering::Relaxed);
            self.line("_bucket", labels, Some(&bound), format_args!("{count}"));
        }
        let sum = Duration::from_nanos(histogram.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        self.line("_sum", labels, None, format_args!("{sum}"));
        self.line("_count", labels, None, format_args!("{count}"));
        self
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: Labels<'_>,
        le: Option<&str>,
        value: std::fmt::Arguments<'_>,
    ) {
        write(self.text, format_args!("{}{suffix}", self.name));
        let mut opening = '{';
        for (name, value) in labels.iter().copied().chain(le.map(|bound| ("le", bound))) {
            write(
                self.text,
                format_args!("{opening}{name}=\"{}\"", escaped(value)),
            );
            opening = ',';
        }
        let closing = if opening == ',' { "}" } else { "" };
        write(self.text, format_args!("{closing} {value}\n"));
    }
}

/// A label's value: a token's label is whatever its maker wrote.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn write(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to memory cannot fail.
    let _ = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_as_prometheus_reads_it() {
        let mut text = Text::default();
        text.family("x_total", Kind::Counter, "How many.")
            .sample(&[], 7)
            .sample(&[("token", "a\"b\\c\nd"), ("code", "e")], 8);
        assert_eq!(
            text.into_string(),
            "# HELP x_total How many.\n# TYPE x_total counter\nx_total 7\nx_total{token=\"a\\\"b\\\\c\\nd\",code=\"e\"} 8\n"
        );
    }

    #[test]
    fn a_histogram_s_buckets_hold_all_below_their_bound() {
        let histogram = Histogram::default();
        for time in [0, 100, 101, 1_000, 60_000_000] {
            histogram.observe(Duration::from_micros(time));
        }
        let mut text = Text::default();
        text.family("x", Kind::Histogram, "Time.")
            .histogram(&[("class", "own")], &histogram);
        let text = text.into_string();
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().to_owned()
        };
        assert_eq!(value("x_bucket{class=\"own\",le=\"0.0001\"}"), "2");
        assert_eq!(value("x_bucket{class=\"own\",le=\"0.001\"}"), "4");
        assert_eq!(value("x_bucket{class=\"own\",le=\"30\"}"), "4");
        assert_eq!(value("x_bucket{class=\"own\",le=\"+Inf\"}"), "5");
        assert_eq!(value("x_count{class=\"own\"}"), "5");
        assert_eq!(value("x_sum{class=\"own\"}"), "60.001201");
    }
}
