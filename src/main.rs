//! `fastness`: arguments, command, exit code.

use std::process::ExitCode;

use clap::Parser;
use fastness::cli::{Format, token};

#[derive(Parser)]
struct Cli {
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Tokens and their keys.
    #[command(subcommand)]
    Token(token::TokenCommand),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let Command::Token(command) = cli.command;
    match token::run(command, cli.format) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("fastness: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text += &format!(": {cause}");
                source = cause.source();
            }
            eprintln!("{text}");
            match error {
                _ if error.is_about_the_pin() => ExitCode::from(4),
                token::TokenCommandError::Usage(_) | token::TokenCommandError::Uri(..) => ExitCode::from(2),
                token::TokenCommandError::Token(_) => ExitCode::from(5),
                _ => ExitCode::from(1),
            }
        }
    }
}
