//! What is wrong with something an operator gave us, said so that it can be mended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What may be otherwise the next time, without anybody having changed a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Passing {
    /// The token, or what leads to it.
    Token,
    /// An address to listen on: in use, or not there yet.
    Address,
    /// What the system gives: memory, processes.
    System,
}

/// One fault in a configuration, a policy, a certificate, a token or a key.
///
/// Faults are collected and reported together, so that an operator mends all of them in one go.
/// No field ever holds the value of a secret-bearing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The file it stands in, when it stands in one.
    pub file: Option<String>,
    /// Line in that file, counted from 1.
    pub line: Option<usize>,
    /// The key in the file (`token[0].server.key`) or the object it is about (a PKCS#11 URI).
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub mend: String,
    /// Whether trying again may help, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<Passing>,
}

impl Fault {
    /// A fault about `key`; place and line are added by whoever knows the file.
    pub fn new(
        key: impl Into<String>,
        problem: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            file: None,
            line: None,
            key: key.into(),
            problem: problem.into(),
            mend: mend.into(),
            passing: None,
        }
    }

    /// The same fault, which may pass by itself.
    #[must_use]
    pub fn that_may_pass(mut self, passing: Passing) -> Self {
        self.passing = Some(passing);
        self
    }

    /// The same fault, placed in `file` unless it already has a place.
    #[must_use]
    pub fn in_file(mut self, file: impl Into<String>) -> Self {
        self.file.get_or_insert_with(|| file.into());
        self
    }

    /// The same fault, placed at `line` (counted from 1).
    #[must_use]
    pub fn at_line(mut self, line: usize) -> Self {
        self.line = Some(line);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: ")?,
            (Some(file), None) => write!(f, "{file}: ")?,
            (None, _) => {}
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.problem)?;
        if !self.mend.is_empty() {
            write!(f, "\n    mend: {}", self.mend)?;
        }
        Ok(())
    }
}

/// An error with the causes behind it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
