//! `fastness ca revoke`

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::now;
use crate::cli::{CommandError, Format, report};
use crate::pki::crl::Reason;
use crate::pki::{Authority, LARGEST, PkiError, Serial, read_at_most};

const EXAMPLE: &str = "\
Example:
  fastness ca revoke --dir ca --certificate node-a.server.pem --reason key-compromise
  fastness ca crl --dir ca --pin file:ca.pin --out ca.crl --force

Only records the revocation, so it needs no PIN; peers learn of it by the next list
(fastness ca crl). A key that is revoked as compromised is never certified again. A
certificate that is revoked for another reason can be revoked as compromised later.";

/// Arguments of `fastness ca revoke`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct RevokeArgs {
    /// The authority's folder
    #[arg(long)]
    dir: PathBuf,
    #[command(flatten)]
    which: Which,
    /// Why: key-compromise, superseded, cessation-of-operation, affiliation-changed or unspecified
    #[arg(long, default_value = "unspecified")]
    reason: Reason,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The certificate to revoke (PEM or DER)
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Its serial number, in hexadecimal digits
    #[arg(long, value_name = "HEX")]
    serial: Option<Serial>,
}

#[derive(Serialize)]
struct Report {
    serial: Serial,
    /// `None`: the records do not know the certificate, but the authority's key signed it.
    id: Option<String>,
    reason: Reason,
    recorded: bool,
}

pub(super) fn run(args: RevokeArgs, format: Format) -> Result<(), CommandError> {
    let authority = Authority::open(&args.dir)?;
    let now = now()?;
    let (serial, issued) = match (args.which.certificate, args.which.serial) {
        (Some(file), _) => {
            let bytes = read_at_most(&file, LARGEST).map_err(PkiError::from)?;
            authority
                .lock()?
                .revoke_certificate(&bytes, args.reason, now)?
        }
        (None, Some(serial)) => {
            let issued = authority
                .lock()?
                .revoke_serial(serial.clone(), args.reason, now)?;
            (serial, Some(issued))
        }
        (None, None) => {
            return Err(CommandError::Usage(
                "give --certificate or --serial".to_owned(),
            ));
        }
    };
    let recorded = issued.is_some();
    let id = issued.map(|issued| issued.id.to_string());
    report::show(
        format,
        &Report {
            serial,
            id,
            reason: args.reason,
            recorded,
        },
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Certificate revoked: {} ({})", self.serial, self.reason)?;
        match &self.id {
            Some(id) => writeln!(f, "  identity     {id}")?,
            None => writeln!(
                f,
                "  WARNING      this authority's key signed it, but issued.jsonl does not know it: \
                 the records are older\n               than the certificate, or somebody else used \
                 the key"
            )?,
        }
        write!(f, "Sign and distribute a new list now: fastness ca crl")
    }
}
