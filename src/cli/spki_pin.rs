//! `fastness spki-pin`

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ca::open_key;
use super::unechoed::unechoed;
use super::{CommandError, Format, report};
use crate::pki::pin::{self, Source};
use crate::pki::{LARGEST, PkiError, read_at_most};
use crate::policy::SpkiPin;
use crate::secret::PinSource;
use crate::token::KeyUri;

const EXAMPLE: &str = "\
Examples:
  fastness spki-pin node-a.server.pem
  fastness spki-pin 'pkcs11:token=node-a;object=server' \\
      --module /usr/lib/softhsm/libsofthsm2.so --pin file:node-a.pin

Prints sha256/ and the base64 of the SHA-256 of the public key (RFC 7469), as peer
policies list it. It is the same for the key, for every request and for every
certificate of that key.";

/// Arguments of `fastness spki-pin`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct SpkiPinArgs {
    /// A certificate (the first in a PEM), a certificate request or a public key, PEM or DER; or the
    /// PKCS#11 URI of a key in a token
    #[arg(value_name = "FILE|URI")]
    of: String,
    /// PKCS#11 module of the token (absolute path); for a URI
    #[arg(long)]
    module: Option<PathBuf>,
    /// Where the token's PIN comes from: prompt, file:PATH, fd:N or credential:NAME; for a URI
    #[arg(long, value_name = "SOURCE", default_value = "prompt", value_parser = unechoed::<PinSource>())]
    pin: PinSource,
}

#[derive(Serialize)]
struct Report {
    source: &'static str,
    spki_pin: String,
}

/// Prints the pin on standard output.
///
/// # Errors
/// [`CommandError`], by whose move it is.
pub fn run(args: SpkiPinArgs, format: Format) -> Result<(), CommandError> {
    let (source, pin) = if args.of.starts_with("pkcs11:") {
        let key: KeyUri = args.of.parse().map_err(CommandError::KeyUri)?;
        let module = args
            .module
            .ok_or_else(|| CommandError::Usage("a PKCS#11 URI needs --module PATH".to_owned()))?;
        let key = open_key(&module, &key, args.pin)?;
        ("token", SpkiPin::of_spki(key.spki_der()))
    } else {
        let bytes = read_at_most(Path::new(&args.of), LARGEST).map_err(PkiError::from)?;
        let (source, pin) = pin::of_bytes(&bytes)?;
        (name(source), pin)
    };
    report::show(
        format,
        &Report {
            source,
            spki_pin: pin.to_string(),
        },
    )
}

fn name(source: Source) -> &'static str {
    match source {
        Source::Certificate => "certificate",
        Source::Request => "request",
        Source::PublicKey => "public-key",
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spki_pin)
    }
}
