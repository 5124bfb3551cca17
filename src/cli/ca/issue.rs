//! `fastness ca issue`

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;

use super::{fresh_serial, key_of, now};
use crate::cli::unechoed::unechoed;
use crate::cli::{CommandError, Format, out, report};
use crate::pki::certificate::LeafOrder;
use crate::pki::request::Request;
use crate::pki::{Authority, DnsName, Issued, LARGEST, PkiError, read_at_most, write_new};
use crate::policy::PeerId;
use crate::role::TlsRole;
use crate::secret::PinSource;

const EXAMPLE: &str = "\
Example:
  fastness ca issue --dir ca --pin file:ca.pin --csr node-a.server.csr --profile server \\
      --id spiffe://mesh.example/node/a --ip 192.0.2.7 --out node-a.server.pem

The request proves that the node has the key; names in it are ignored. What the
certificate says is what stands on this command line. A key gets certificates for
one profile and one identity only: a server and a client key are separate objects,
and every node has its own.";

/// Arguments of `fastness ca issue`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct IssueArgs {
    /// The authority's folder
    #[arg(long)]
    dir: PathBuf,
    /// Where the PIN of the authority's token comes from: prompt, file:PATH, fd:N or
    /// credential:NAME
    #[arg(long, value_name = "SOURCE", default_value = "prompt", value_parser = unechoed::<PinSource>())]
    pin: PinSource,
    /// The node's certificate request (PKCS#10, PEM or DER)
    #[arg(long, value_name = "FILE")]
    csr: PathBuf,
    /// The one role that the certificate is for
    #[arg(long, value_enum)]
    profile: Profile,
    /// The node's identity (SPIFFE id)
    #[arg(long, value_name = "spiffe://…")]
    id: PeerId,
    /// A host name of the node; may be given again
    #[arg(long, value_name = "NAME")]
    dns: Vec<DnsName>,
    /// An address of the node; may be given again
    #[arg(long, value_name = "ADDR")]
    ip: Vec<IpAddr>,
    /// Days that the certificate is valid; at most until the authority's own ends
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// File for the certificate (PEM); must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Profile {
    /// Extended key usage serverAuth: the side that is dialled
    Server,
    /// Extended key usage clientAuth: the side that dials
    Client,
}

#[derive(Serialize)]
struct Report {
    certificate: PathBuf,
    #[serde(flatten)]
    issued: Issued,
}

pub(super) fn run(args: IssueArgs, format: Format) -> Result<(), CommandError> {
    out::check(&args.out, None)?;
    let authority = Authority::open(&args.dir)?;
    let request = read_at_most(&args.csr, LARGEST).map_err(PkiError::from)?;
    let request = Request::from_bytes(&request)?;
    let signer = key_of(&authority, args.pin)?;
    let order = LeafOrder {
        role: args.profile.into(),
        id: args.id,
        dns: args.dns,
        ip: args.ip,
        serial: fresh_serial()?,
        now: now()?,
        days: args.days,
    };
    let (issued, built) = authority.lock()?.issue(&signer, &request, &order)?;
    write_new(&args.out, built.pem.as_bytes()).map_err(|cause| CommandError::NotHandedOut {
        serial: issued.serial.clone(),
        cause: cause.into(),
    })?;
    report::show(
        format,
        &Report {
            certificate: args.out,
            issued,
        },
    )
}

impl From<Profile> for TlsRole {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Server => Self::Server,
            Profile::Client => Self::Client,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issued = &self.issued;
        writeln!(f, "Certificate issued: {}", self.certificate.display())?;
        writeln!(f, "  identity     {}", issued.id)?;
        writeln!(f, "  profile      {}", issued.profile)?;
        let names: Vec<String> = issued
            .dns
            .iter()
            .cloned()
            .chain(issued.ip.iter().map(ToString::to_string))
            .collect();
        if !names.is_empty() {
            writeln!(f, "  names        {}", names.join(", "))?;
        }
        writeln!(f, "  serial       {}", issued.serial)?;
        writeln!(f, "  SPKI pin     {}", issued.spki_pin)?;
        write!(f, "  valid until  {}", issued.not_after)
    }
}
