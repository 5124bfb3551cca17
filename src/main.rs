//! Arguments → command → exit code.

use std::process::ExitCode;

use clap::Parser;
use fastness::cli::{self, Format};

/// A hardened node runtime: mutual-TLS gRPC between peers, every private key inside a PKCS#11 token.
#[derive(Debug, clap::Parser)]
#[command(version)]
struct Arguments {
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value = "human")]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// A certificate authority whose key is in a token
    #[command(subcommand)]
    Ca(cli::ca::CaCommand),
    /// Tokens and their keys
    #[command(subcommand)]
    Token(cli::token::TokenCommand),
    /// The pin of a certificate, a request or a token key
    SpkiPin(cli::spki_pin::SpkiPinArgs),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let format = arguments.format;
    let outcome = match arguments.command {
        Command::Ca(command) => cli::ca::run(command, format).map_err(anyhow::Error::from),
        Command::Token(command) => cli::token::run(command, format).map_err(anyhow::Error::from),
        Command::SpkiPin(args) => cli::spki_pin::run(args, format).map_err(anyhow::Error::from),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fastness: {:#}", error);
            ExitCode::FAILURE
        }
    }
}
