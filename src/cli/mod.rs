//! The command line: one file a command.

mod quiet;
pub mod token;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Human,
    /// One JSON value on standard output.
    Json,
}
