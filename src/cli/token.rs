//! `fastness token`: make a token, make keys in it, show them, request certificates, destroy keys.

mod csr;
mod destroy;
mod init;
mod keygen;
mod list;
mod say;

use std::io;
use std::path::PathBuf;

use clap::{Args, Subcommand};

pub(super) use keygen::Purpose;

use super::unechoed::unechoed;
use super::{Exit, Failure, Format, OutFault};
use crate::fault::chain;
use crate::pki::PkiError;
use crate::secret::{PinError, PinKind, PinSource, UserPin};
use crate::token::uri::UriError;
use crate::token::{KeyUri, Module, Token, TokenError, TokenUri};

/// What to do with a token. Keys are made inside it and never leave it; PINs come from a file, an
/// inherited descriptor, a systemd credential or a prompt, never from the command line.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Initialise a free token: set its label, its SO PIN and its user PIN.
    ///
    /// Takes a token that is not initialised yet (SoftHSM always has one) and never overwrites
    /// another. SoftHSM finds its folder through SOFTHSM2_CONF.
    #[command(after_help = "\
Example:
  fastness token init --module /usr/lib/softhsm/libsofthsm2.so --label node-a \\
      --so-pin file:so-pin --pin file:user-pin")]
    Init(init::InitArgs),
    /// Generate a key pair inside the token, check it and have it sign once.
    ///
    /// The private key is made with every protection that PKCS#11 knows; then its attributes are
    /// read back, reading and wrapping it are tried and must be refused, and one signature is made
    /// and verified. A key that does not pass is destroyed again. The label says what the key is
    /// for; without --label it is the purpose.
    #[command(after_help = "\
Examples:
  fastness token keygen --module /usr/lib/softhsm/libsofthsm2.so --token 'pkcs11:token=node-a' \\
      --pin file:user-pin --purpose server
  fastness token keygen --module /usr/lib/softhsm/libsofthsm2.so --token 'pkcs11:token=ca' \\
      --pin prompt --purpose ca --label root-2026 --kind p384")]
    Keygen(keygen::KeygenArgs),
    /// Show the module's tokens and, with --token, that token's keys.
    ///
    /// Each key is shown with its SPKI pin and with what the key gate finds: what the module says of
    /// it, and how reading and wrapping it were refused.
    #[command(after_help = "\
Examples:
  fastness token list --module /usr/lib/softhsm/libsofthsm2.so
  fastness token list --module /usr/lib/softhsm/libsofthsm2.so --token 'pkcs11:token=node-a' --pin prompt")]
    List(list::ListArgs),
    /// Write a certificate request (PKCS#10, PEM) that the token signs.
    ///
    /// The names in the certificate are chosen by the authority's operator; the subject here is a
    /// hint for people. RSA keys sign with RSASSA-PSS.
    #[command(after_help = "\
Example:
  fastness token csr --module /usr/lib/softhsm/libsofthsm2.so --key 'pkcs11:token=node-a;object=server' \\
      --pin file:user-pin --subject node-a --out server.csr
  openssl req -in server.csr -noout -verify -text")]
    Csr(csr::CsrArgs),
    /// Destroy a private key for good, and its public key and certificate in the token.
    ///
    /// Exactly one key must have the name. There is no way back: no copy of the key exists.
    #[command(after_help = "\
Example:
  fastness token destroy --module /usr/lib/softhsm/libsofthsm2.so --key 'pkcs11:token=node-a;object=server' \\
      --pin prompt --yes")]
    Destroy(destroy::DestroyArgs),
}

/// Which module, and whose PIN.
#[derive(Args, Debug)]
struct ModuleArgs {
    /// The PKCS#11 module: full path of the vendor's shared library.
    #[arg(long, value_name = "PATH")]
    module: PathBuf,
}

/// Where the user PIN comes from.
#[derive(Args, Debug)]
struct PinArgs {
    /// The user PIN's source: file:PATH (mode 600), fd:N, credential:NAME (systemd) or prompt.
    #[arg(long, value_name = "SOURCE", default_value = "prompt", value_parser = unechoed::<PinSource>())]
    pin: PinSource,
}

/// Why a token command failed, by whose fault it is.
#[derive(Debug, thiserror::Error)]
pub enum TokenCommandError {
    /// The command line.
    #[error("{0}")]
    Usage(String),
    /// The file that the result is to be written to.
    #[error(transparent)]
    Out(#[from] OutFault),
    /// The PIN could not be had.
    #[error("{0}; mend: {mend}", mend = .0.mend())]
    Pin(PinError),
    /// The two PINs that were typed differ.
    #[error("the two PINs that were typed differ; nothing was changed")]
    PinsDiffer,
    /// The user would be the security officer.
    #[error("the SO PIN and the user PIN are the same: give each its own; nothing was changed")]
    PinsEqual,
    /// The module, the token or the key.
    #[error("{0}; mend: {mend}", mend = .0.mend())]
    Token(TokenError),
    /// The request could not be built or written.
    #[error(transparent)]
    Request(#[from] PkiError),
    /// Standard output.
    #[error("cannot write the result: {0}")]
    Output(io::Error),
}

impl From<TokenCommandError> for Failure {
    fn from(error: TokenCommandError) -> Self {
        let exit = match error {
            TokenCommandError::Token(TokenError::KeyRefused { key, faults }) => {
                return Self::faults(format!("key {key} is refused"), faults);
            }
            _ if error.is_about_the_pin() => Exit::Pin,
            TokenCommandError::Usage(_) | TokenCommandError::Out(_) => Exit::Usage,
            TokenCommandError::Token(_) => Exit::Token,
            _ => Exit::Failed,
        };
        Self::new(exit, chain(&error))
    }
}

impl From<TokenError> for TokenCommandError {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl From<PinError> for TokenCommandError {
    fn from(error: PinError) -> Self {
        Self::Pin(error)
    }
}

impl From<io::Error> for TokenCommandError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl TokenCommandError {
    /// Whether the PIN is at fault: its source, its reading, or the token's verdict about it.
    pub fn is_about_the_pin(&self) -> bool {
        match self {
            Self::Pin(_) | Self::PinsDiffer | Self::PinsEqual => true,
            Self::Token(error) => error.is_pin_verdict(),
            _ => false,
        }
    }
}

/// Runs one command and prints its result on standard output; progress goes to standard error when
/// that is a terminal.
///
/// # Errors
/// [`TokenCommandError`]; a PIN was tried at most once.
pub fn run(command: TokenCommand, format: Format) -> Result<(), TokenCommandError> {
    match command {
        TokenCommand::Init(args) => init::run(args, format),
        TokenCommand::Keygen(args) => keygen::run(args, format),
        TokenCommand::List(args) => list::run(args, format),
        TokenCommand::Csr(args) => csr::run(args, format),
        TokenCommand::Destroy(args) => destroy::run(args, format),
    }
}

impl ModuleArgs {
    fn load(&self) -> Result<Module, TokenCommandError> {
        Ok(Module::load(&self.module)?)
    }
}

impl PinArgs {
    /// Reads the PIN for `token`.
    fn read(&self, token: &str) -> Result<UserPin, TokenCommandError> {
        Ok(UserPin::read(self.pin.open()?, self.pin.kind(token))?)
    }
}

/// The token that the key's name must say.
fn token_of(key: &KeyUri) -> Result<TokenUri, TokenCommandError> {
    let name = |error| TokenError::Name(key.to_string(), error);
    Ok(key.token().ok_or(UriError::NoToken).map_err(name)?)
}

/// Finds the token, reads the PIN, logs in: in this order, so that nobody is asked for a PIN in vain.
fn log_in(
    module: &ModuleArgs,
    token: &TokenUri,
    pin: &PinArgs,
) -> Result<Token, TokenCommandError> {
    let token = module.load()?.token(token)?;
    if let Some(refusal) = token.info().login_refusal() {
        return Err(TokenError::Login {
            token: token.info().label.clone(),
            refusal,
        }
        .into());
    }
    let pin = pin.read(&token.info().label)?;
    token.login(pin)?;
    Ok(token)
}

/// Reads a PIN that is being set: typed twice at a prompt.
fn read_new<P>(
    source: &PinSource,
    label: &str,
    read: impl Fn(&std::os::fd::OwnedFd, PinKind) -> Result<P, PinError>,
    same: impl Fn(&P, &P) -> bool,
) -> Result<P, TokenCommandError> {
    let fd = source.open()?;
    let pin = read(&fd, source.kind(label))?;
    if *source == PinSource::Prompt {
        let again = read(&fd, source.kind(&format!("{label}, again")))?;
        if !same(&pin, &again) {
            return Err(TokenCommandError::PinsDiffer);
        }
    }
    Ok(pin)
}
