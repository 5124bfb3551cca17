//! `fastness ca init`

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::{fresh_serial, now, open_key};
use crate::cli::token::Purpose;
use crate::cli::unechoed::unechoed;
use crate::cli::{CommandError, Format, report};
use crate::pki::certificate::RootOrder;
use crate::pki::{Authority, AuthorityName, Moment, PkiError, Refusal, Serial, Settings};
use crate::policy::SpkiPin;
use crate::role::TlsRole;
use crate::secret::PinSource;
use crate::token::{KeyKind, KeyUri};

const EXAMPLE: &str = "\
Example:
  fastness ca init --dir ca --module /usr/lib/softhsm/libsofthsm2.so \\
      --key 'pkcs11:token=ca;object=root' --pin file:ca.pin --name 'Mesh root'

The key must be in the token already (fastness token keygen --purpose ca); one whose
label says that it is a node's server or client key is refused. The folder gets
ca.pem, which every peer takes as trust anchor, and the authority's records; no
secret. Back it up: what is not recorded cannot be revoked by its serial number.";

/// Arguments of `fastness ca init`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct InitArgs {
    /// Folder for the authority's certificate and records; made when missing
    #[arg(long)]
    dir: PathBuf,
    /// PKCS#11 module of the token (absolute path)
    #[arg(long)]
    module: PathBuf,
    /// PKCS#11 URI of the authority's private key (RFC 7512), with its token
    #[arg(long, value_name = "URI", value_parser = unechoed::<KeyUri>())]
    key: KeyUri,
    /// Where the token's PIN comes from: prompt, file:PATH, fd:N or credential:NAME
    #[arg(long, value_name = "SOURCE", default_value = "prompt", value_parser = unechoed::<PinSource>())]
    pin: PinSource,
    /// Common name in the root certificate: 1 to 64 characters, no '/'
    #[arg(long)]
    name: AuthorityName,
    /// Days that the root certificate is valid
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,
}

#[derive(Serialize)]
struct Report {
    name: AuthorityName,
    certificate: PathBuf,
    key: KeyUri,
    kind: KeyKind,
    serial: Serial,
    spki_pin: String,
    not_after: Moment,
}

pub(super) fn run(args: InitArgs, format: Format) -> Result<(), CommandError> {
    Authority::vacant(&args.dir)?;
    let key = args.key;
    // What the URI says is known before the PIN is.
    no_nodes_key(key.label().unwrap_or_default())?;
    let signer = open_key(&args.module, &key, args.pin)?;
    no_nodes_key(signer.key().label())?;
    let order = RootOrder {
        name: args.name.clone(),
        serial: fresh_serial()?,
        now: now()?,
        days: args.days,
    };
    let settings = Settings {
        name: args.name,
        module: args.module,
        key,
    };
    let (authority, root) = Authority::create(&args.dir, settings, &signer, &order)?;
    let settings = authority.settings();
    let made = Report {
        name: settings.name.clone(),
        certificate: authority.certificate(),
        key: settings.key.clone(),
        kind: signer.kind(),
        serial: order.serial,
        spki_pin: SpkiPin::of_spki(signer.spki_der()).to_string(),
        not_after: root.not_after,
    };
    report::show(format, &made)
}

/// Refuses a key whose label says that it signs handshakes: whoever may use it could make certificates.
fn no_nodes_key(label: &str) -> Result<(), PkiError> {
    let role = match Purpose::of_label(label) {
        Some(Purpose::Server) => TlsRole::Server,
        Some(Purpose::Client) => TlsRole::Client,
        Some(Purpose::Ca) | None => return Ok(()),
    };
    Err(Refusal::NodesKey { role }.into())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Authority '{}' made.", self.name)?;
        writeln!(f, "  certificate  {}", self.certificate.display())?;
        writeln!(f, "  key          {} ({})", self.key, self.kind)?;
        writeln!(f, "  serial       {}", self.serial)?;
        writeln!(f, "  SPKI pin     {}", self.spki_pin)?;
        writeln!(f, "  valid until  {}", self.not_after)?;
        write!(f, "Give the certificate to every peer as its trust anchor.")
    }
}
