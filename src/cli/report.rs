//! Printing a result, for people or for programs.

use std::fmt::Display;

use serde::Serialize;

use super::{CommandError, Format, output};

/// Prints `report` on standard output: its `Display` for people, one line of JSON for programs.
pub(super) fn show(
    format: Format,
    report: &(impl Display + Serialize),
) -> Result<(), CommandError> {
    let line = match format {
        Format::Human => report.to_string(),
        Format::Json => {
            serde_json::to_string(report).map_err(|error| CommandError::Print(error.into()))?
        }
    };
    output::write(&line).map_err(CommandError::Print)
}
