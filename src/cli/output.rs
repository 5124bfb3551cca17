//! What a command says when it fails: for people on standard error, for programs as JSON on standard
//! output, and always an exit code.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::{Exit, Format};
use crate::fault::Fault;
use crate::{plain, telemetry, toml_faults};

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// One line for people.
    pub(crate) message: String,
    pub(crate) faults: Vec<Fault>,
}

impl Failure {
    /// A failure that one line explains.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            faults: Vec::new(),
        }
    }

    /// Faults in what the operator gave us.
    pub(crate) fn faults(message: impl Into<String>, faults: Vec<Fault>) -> Self {
        Self {
            exit: Exit::Faults,
            message: message.into(),
            faults,
        }
    }

    /// The same failure, each fault about a key of the configuration in `file` with its line there.
    pub(super) fn placed_in(mut self, file: &Path) -> Self {
        // Whoever cannot read it has said so already.
        if let Ok(text) = std::fs::read_to_string(file) {
            let shown = file.display().to_string();
            self.faults = self
                .faults
                .into_iter()
                .map(|fault| toml_faults::placed(fault, &text, &shown))
                .collect();
        }
        self
    }

    /// Prints it, waiting for a slow reader no longer than `patience` at a time. What cannot be written is
    /// lost: the exit code is the answer.
    pub(crate) fn print(&self, format: Format, patience: Option<Duration>) {
        let _ = match (format, patience) {
            (Format::Json, None) => io::stdout().write_all(self.as_json().as_bytes()),
            (Format::Human, None) => io::stderr().write_all(self.for_people().as_bytes()),
            (Format::Json, Some(patience)) => {
                telemetry::write_within(io::stdout(), self.as_json().as_bytes(), patience)
            }
            (Format::Human, Some(patience)) => {
                telemetry::write_within(io::stderr(), self.for_people().as_bytes(), patience)
            }
        };
    }

    fn as_json(&self) -> String {
        let value = serde_json::json!({
            "ok": false,
            "exit": self.exit as u8,
            "message": self.message,
            "faults": self.faults,
        });
        format!("{value}\n")
    }

    fn for_people(&self) -> String {
        let faults = self.faults.iter().map(|fault| format!("{fault}\n"));
        let (faults, message) = (faults.collect::<String>(), &self.message);
        plain::lines(&format!("{faults}fastness: {message}\n"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}

/// Prints `value` as one line of JSON.
pub(super) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    text(&serde_json::to_string(value).map_err(io::Error::from)?)
}

/// Prints `text`.
pub(super) fn text(text: &str) -> Result<(), Failure> {
    Ok(write(text)?)
}

/// Writes `text` and a line end to standard output. Whoever stopped reading (`| head`) has seen enough: that
/// is no failure.
pub(super) fn write(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    match writeln!(output, "{}", plain::lines(text.trim_end())).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
