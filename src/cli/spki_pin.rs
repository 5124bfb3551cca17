//! `fastness spki-pin`

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

use super::ca::open_key;
use super::unechoed::unechoed;
use super::{CommandError, Format, report};
use crate::pki::pin::{self, Source};
use crate::pki::{LARGEST, PkiError, read_at_most};
use crate::policy::SpkiPin;
use crate::secret::PinSource;
use crate::token::KeyUri;
use crate::token::uri::UriError;

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
    #[arg(value_name = "FILE|URI", value_parser = unechoed::<Of>())]
    of: Of,
    /// PKCS#11 module of the token (absolute path); for a URI
    #[arg(long)]
    module: Option<PathBuf>,
    /// Where the token's PIN comes from: prompt, file:PATH, fd:N or credential:NAME; for a URI
    /// [default: prompt]
    #[arg(long, value_name = "SOURCE", value_parser = unechoed::<PinSource>())]
    pin: Option<PinSource>,
}

/// What to show the pin of.
#[derive(Clone, Debug)]
enum Of {
    Key(KeyUri),
    File(PathBuf),
}

/// Why an argument is neither. It is not repeated: it may hold a PIN.
#[derive(Debug, thiserror::Error)]
enum OfFault {
    #[error(transparent)]
    Uri(UriError),
    #[error("a PIN is not taken here; give its source with --pin")]
    HoldsPin,
}

impl FromStr for Of {
    type Err = OfFault;

    fn from_str(text: &str) -> Result<Self, OfFault> {
        let plain = text.trim().to_ascii_lowercase();
        if plain.starts_with("pkcs11:") {
            text.trim().parse().map(Self::Key).map_err(OfFault::Uri)
        } else if plain.contains("pin-value") {
            Err(OfFault::HoldsPin)
        } else {
            Ok(Self::File(text.into()))
        }
    }
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
    let (source, pin) = match args.of {
        Of::Key(key) => {
            let needs = || CommandError::Usage("a PKCS#11 URI needs --module PATH".to_owned());
            let module = args.module.ok_or_else(needs)?;
            let key = open_key(&module, &key, args.pin.unwrap_or(PinSource::Prompt))?;
            ("token", SpkiPin::of_spki(key.spki_der()))
        }
        Of::File(_) if args.module.is_some() || args.pin.is_some() => {
            return Err(CommandError::Usage(
                "--module and --pin are for a key in a token: name it by its PKCS#11 URI"
                    .to_owned(),
            ));
        }
        Of::File(file) => {
            let bytes = read_at_most(&file, LARGEST).map_err(PkiError::from)?;
            let (source, pin) = pin::of_bytes(&bytes)?;
            (name(source), pin)
        }
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
