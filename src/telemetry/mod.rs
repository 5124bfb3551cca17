//! Metrics, and the log: one line an event on standard error, for people or as JSON.

mod lines;
pub mod metrics;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

pub(crate) use lines::Lines;

/// How to log; the same for every role of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSetup {
    /// What to write.
    pub level: LogLevel,
    /// How to write it.
    pub format: LogFormat,
}

impl Default for LogSetup {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Human,
        }
    }
}

/// The least severe event that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what needs mending.
    Error,
    /// And what is suspicious.
    Warn,
    /// And connections, refusals, restarts: the default.
    Info,
    /// And what helps to find a fault in Fastness.
    Debug,
}

/// Shape of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Starts logging in this process. Every line carries the role and the process id, so that the
/// lines of a node's processes can be told apart.
pub(crate) fn start(role: &str, setup: LogSetup) {
    let level = match setup.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let pid = std::process::id();
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        // It would say so on standard error, which may be what cannot be written to.
        .log_internal_errors(false)
        .with_target(false);
    // A second start in one process (a library user that logs already) keeps the first.
    let _ = match setup.format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_writer(LineWriter {
                instead_of_brace: true,
                prefix: format!("{{\"role\":\"{role}\",\"pid\":{pid},"),
            })
            .try_init(),
        LogFormat::Human => builder
            .with_writer(LineWriter {
                instead_of_brace: false,
                prefix: format!("{role}[{pid}] "),
            })
            .try_init(),
    };
}

/// poll(2) promises room for PIPE_BUF bytes, and a write of at most so many is atomic.
const PIPE_BUF: usize = 4096;

/// Writes to standard error, but drops a line that would block: a full log pipe must never stall a
/// role.
pub(crate) fn write_or_drop(mut line: Vec<u8>) {
    if line.len() > PIPE_BUF {
        line.truncate(PIPE_BUF - 1);
        line.push(b'\n');
    }
    let _ = write_within(rustix::stdio::stderr(), &line, Duration::ZERO);
}

/// Writes `text` to `output`, a piece at a time, as long as whoever reads it takes each within `patience`.
pub(crate) fn write_within(
    output: impl AsFd,
    mut text: &[u8],
    patience: Duration,
) -> io::Result<()> {
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    while !text.is_empty() {
        let mut ready = [PollFd::new(&output, PollFlags::OUT)];
        if poll(&mut ready, Some(&patience))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let piece = text.len().min(PIPE_BUF);
        let written = rustix::io::write(&output, &text[..piece])?;
        text = &text[written..];
    }
    Ok(())
}

/// Puts role and process before each line.
struct LineWriter {
    prefix: String,
    /// JSON: the prefix takes the place of the object's first brace.
    instead_of_brace: bool,
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = &'a LineWriter;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let rest = &line[usize::from(self.instead_of_brace && line.starts_with(b"{"))..];
        write_or_drop([self.prefix.as_bytes(), rest].concat());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
