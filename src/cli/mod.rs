//! The command line: one file a command.

pub mod ca;
mod error;
mod quiet;
mod report;
pub mod spki_pin;
pub mod token;

pub use error::CommandError;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Human,
    /// One JSON value on standard output.
    Json,
}
