//! Printing: results to standard output, progress to standard error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::TokenCommandError;
use crate::cli::{Format, output};

/// Prints `json` or `human`, whichever was asked for.
pub(super) fn result(
    format: Format,
    json: &impl Serialize,
    human: impl FnOnce() -> String,
) -> Result<(), TokenCommandError> {
    let text = match format {
        Format::Human => human(),
        Format::Json => serde_json::to_string(json).map_err(io::Error::from)?,
    };
    Ok(output::write(&text)?)
}

/// A word on what takes so long, if someone is watching.
pub(super) fn progress(what: &str) {
    if io::stderr().is_terminal() {
        // Not worth failing for.
        let _ = writeln!(io::stderr(), "{what} …");
    }
}
