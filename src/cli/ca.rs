//! `fastness ca`: a certificate authority whose key is in a token of its own.

mod crl;
mod init;
mod issue;
mod revoke;

use std::path::Path;
use std::time::SystemTime;

use super::{CommandError, Format};
use crate::pki::{Authority, Moment, PkiError, Serial, StoreError};
use crate::secret::{PinSource, UserPin};
use crate::token::{KeyUri, TokenKey};

/// The certificate authority's commands.
#[derive(Debug, clap::Subcommand)]
pub enum CaCommand {
    /// Make an authority: a root certificate for a key that is in a token
    Init(init::InitArgs),
    /// Issue a certificate to a node, for one role, from its certificate request
    Issue(issue::IssueArgs),
    /// Record that a certificate is revoked; the next list carries it
    Revoke(revoke::RevokeArgs),
    /// Sign the list of revoked certificates
    Crl(crl::CrlArgs),
}

/// Runs a command and prints its result on standard output.
///
/// # Errors
/// [`CommandError`], by whose move it is.
pub fn run(command: CaCommand, format: Format) -> Result<(), CommandError> {
    match command {
        CaCommand::Init(args) => init::run(args, format),
        CaCommand::Issue(args) => issue::run(args, format),
        CaCommand::Revoke(args) => revoke::run(args, format),
        CaCommand::Crl(args) => crl::run(args, format),
    }
}

/// The authority's key, logged in and proved. The PIN is asked for only here, after everything that
/// can be refused without it.
fn key_of(authority: &Authority, pin: &PinSource) -> Result<TokenKey, CommandError> {
    let settings = authority.settings();
    open_key(&settings.module, &settings.key, pin)
}

pub(super) fn open_key(
    module: &Path,
    key: &KeyUri,
    pin: &PinSource,
) -> Result<TokenKey, CommandError> {
    let token = key.token();
    let token = token
        .as_ref()
        .and_then(|token| token.label().or(token.serial()));
    let pin = UserPin::read(pin.open()?, pin.kind(token.unwrap_or("the token")))?;
    Ok(TokenKey::open(module, key, pin)?)
}

fn now() -> Result<Moment, CommandError> {
    Moment::try_from(SystemTime::now()).map_err(|error| PkiError::from(error).into())
}

fn fresh_serial() -> Result<Serial, CommandError> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(CommandError::Random)?;
    Ok(Serial::from_random(random))
}

/// Refuses a file that is in the way before anyone types a PIN for nothing.
fn refuse_existing(path: &Path) -> Result<(), CommandError> {
    match path.symlink_metadata() {
        Ok(_) => Err(PkiError::from(StoreError::Exists(path.to_owned())).into()),
        Err(_) => Ok(()),
    }
}
