//! `fastness token csr`.

use std::path::PathBuf;

use serde::Serialize;

use super::{ModuleArgs, PinArgs, TokenCommandError, log_in, say, token_of};
use crate::cli::unechoed::unechoed;
use crate::cli::{Format, out};
use crate::pki::{CommonName, PkiError, replace, request, write_new};
use crate::policy::SpkiPin;
use crate::token::{KeyKind, KeyUri, TokenKey};

/// `fastness token csr`
#[derive(clap::Args, Debug)]
pub struct CsrArgs {
    #[command(flatten)]
    module: ModuleArgs,
    /// The key, as a PKCS#11 URI: 'pkcs11:token=node-a;object=server'.
    #[arg(long, value_name = "URI", value_parser = unechoed::<KeyUri>())]
    key: KeyUri,
    #[command(flatten)]
    pin: PinArgs,
    /// Common name in the request, 1 to 64 characters. The authority does not take names from it.
    #[arg(long, value_name = "NAME")]
    subject: Option<CommonName>,
    /// File to write the request to. It must not exist yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the file if it exists. What is no regular file is not replaced.
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Output {
    uri: KeyUri,
    kind: KeyKind,
    spki_pin: String,
    out: PathBuf,
}

pub(super) fn run(args: CsrArgs, format: Format) -> Result<(), TokenCommandError> {
    let token = token_of(&args.key)?;
    out::check(&args.out, Some(args.force))?;
    let key = TokenKey::within(log_in(&args.module, &token, &args.pin)?, &args.key)?;
    say::progress("Signing the request in the token");
    let pem = request::build(&key, args.subject.as_ref())?;
    let write = if args.force { replace } else { write_new };
    write(&args.out, pem.as_bytes()).map_err(PkiError::from)?;
    let output = Output {
        uri: key.key().uri().clone(),
        kind: key.kind(),
        spki_pin: SpkiPin::of_spki(key.spki_der()).to_string(),
        out: args.out,
    };
    say::result(format, &output, || {
        format!(
            "Certificate request written to {}.\n  {}\n  SPKI pin {}",
            output.out.display(),
            output.uri,
            output.spki_pin
        )
    })
}
