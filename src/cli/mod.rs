//! The command line: one file a command.

pub mod ca;
mod error;
mod report;
pub mod spki_pin;
mod unechoed;

pub use error::CommandError;

/// How a command prints its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Sentences and tables for people.
    Human,
    /// One JSON object for programs.
    Json,
}
