//! `fastness ca crl`

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::{key_of, now};
use crate::cli::unechoed::unechoed;
use crate::cli::{CommandError, Format, out, report};
use crate::pki::{Authority, Moment, PkiError, replace, write_new};
use crate::secret::PinSource;

const EXAMPLE: &str = "\
Example:
  fastness ca crl --dir ca --pin file:ca.pin --out ca.crl --force

Sign a new list after each revocation, and before the last one ends: a reader that
has no current list trusts nobody. Readers of the file see the old list or the new
one, never half of it.";

/// Arguments of `fastness ca crl`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct CrlArgs {
    /// The authority's folder
    #[arg(long)]
    dir: PathBuf,
    /// Where the PIN of the authority's token comes from: prompt, file:PATH, fd:N or
    /// credential:NAME
    #[arg(long, value_name = "SOURCE", default_value = "prompt", value_parser = unechoed::<PinSource>())]
    pin: PinSource,
    /// File for the list (PEM)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the file: a list is renewed under its name. What is no regular file is not replaced
    #[arg(long)]
    force: bool,
    /// Days until readers must have a newer list
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=366))]
    days: u32,
}

#[derive(Serialize)]
struct Report {
    list: PathBuf,
    number: u64,
    revoked: usize,
    this_update: Moment,
    next_update: Moment,
}

pub(super) fn run(args: CrlArgs, format: Format) -> Result<(), CommandError> {
    out::check(&args.out, Some(args.force))?;
    let authority = Authority::open(&args.dir)?;
    let signer = key_of(&authority, args.pin)?;
    let now = now()?;
    let mut books = authority.lock()?;
    let (number, list) = books.list(&signer, now, args.days)?;
    let write = if args.force { replace } else { write_new };
    // Under the lock: of two commands for one file, the later list stays.
    write(&args.out, list.pem.as_bytes()).map_err(PkiError::from)?;
    let made = Report {
        list: args.out,
        number,
        revoked: books.revoked(),
        this_update: now,
        next_update: list.next_update,
    };
    report::show(format, &made)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Revocation list {} signed: {}",
            self.number,
            self.list.display()
        )?;
        writeln!(f, "  revoked      {}", self.revoked)?;
        write!(f, "  renew before {}", self.next_update)
    }
}
