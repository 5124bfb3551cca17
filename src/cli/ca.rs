//! `fastness ca`: a certificate authority whose key is in a token of its own.

mod crl;
mod init;
mod issue;
mod revoke;

use std::path::Path;
use std::time::SystemTime;

use super::{CommandError, Format};
use crate::pki::{Authority, Moment, PkiError, Serial};
use crate::secret::{PinSource, UserPin};
use crate::token::uri::UriError;
use crate::token::{KeyUri, Module, TokenError, TokenKey};

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
fn key_of(authority: &Authority, pin: PinSource) -> Result<TokenKey, CommandError> {
    let settings = authority.settings();
    open_key(&settings.module, &settings.key, pin)
}

/// Finds the token, reads the PIN, logs in: in this order, so that nobody is asked for a PIN in vain.
pub(super) fn open_key(
    module: &Path,
    key: &KeyUri,
    pin: PinSource,
) -> Result<TokenKey, CommandError> {
    let token = key.token().ok_or(CommandError::KeyUri(UriError::NoToken))?;
    let token = Module::load(module)?.token(&token)?;
    let label = token.info().label.clone();
    if let Some(refusal) = token.info().login_refusal() {
        return Err(CommandError::Login(TokenError::Login {
            token: label,
            refusal,
        }));
    }
    token.login(UserPin::read(pin.open()?, pin.kind(&label))?)?;
    Ok(TokenKey::within(token, key)?)
}

fn now() -> Result<Moment, CommandError> {
    Moment::try_from(SystemTime::now()).map_err(|error| PkiError::from(error).into())
}

fn fresh_serial() -> Result<Serial, CommandError> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(CommandError::Random)?;
    let serial = Serial::from_random(random).ok();
    serial.ok_or(CommandError::Random(aws_lc_rs::error::Unspecified))
}
