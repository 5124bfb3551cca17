//! Why a command of the certificate authority's family failed, by whose move it is to mend it.

use std::io;

use super::{Exit, Failure, OutFault};
use crate::fault::{Fault, chain};
use crate::pki::{Exposed, PkiError, Serial, SignerError};
use crate::secret::PinError;
use crate::token::TokenError;
use crate::token::uri::UriError;

/// What stopped a command. Nothing was handed out; what was recorded stays recorded.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The command line: give it again, mended.
    #[error("{0}")]
    Usage(String),
    /// The file that the result is to be written to.
    #[error(transparent)]
    Out(#[from] OutFault),
    /// The name of a key on the command line.
    #[error("the key's URI: {0}")]
    KeyUri(UriError),
    /// A name or a time on the command line cannot stand in a certificate.
    #[error(transparent)]
    Name(PkiError),
    /// The PIN could not be read from its source.
    #[error("{0}; mend: {mend}", mend = .0.mend())]
    Pin(PinError),
    /// The token refused the login: the message says why. The PIN was tried once.
    #[error("{0}; mend: {mend}", mend = .0.mend())]
    Login(TokenError),
    /// The module, the token or the key.
    #[error("{0}; mend: {mend}", mend = .0.mend())]
    Token(TokenError),
    /// The token did not sign, or signed wrongly.
    #[error(transparent)]
    Signing(PkiError),
    /// A file that was handed in is not what it should be, or its key is not certified here.
    #[error(transparent)]
    Input(PkiError),
    /// A rule of the authority stands against it.
    #[error(transparent)]
    Refused(PkiError),
    /// Others may change the authority's folder.
    #[error("nothing was done: mend the faults above")]
    Exposed(Vec<Exposed>),
    /// A file could not be read or written, or is in the way.
    #[error(transparent)]
    Io(PkiError),
    /// The certificate is in the records, but its file could not be written.
    #[error(
        "certificate {serial} was issued and recorded, but its file was not written: issue another \
         one, and revoke this one with 'fastness ca revoke --serial {serial}'"
    )]
    NotHandedOut {
        /// Its serial number.
        serial: Serial,
        /// Why the file was not written.
        #[source]
        cause: PkiError,
    },
    /// The result could not be printed.
    #[error("cannot print the result")]
    Print(#[source] io::Error),
    /// No random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(aws_lc_rs::error::Unspecified),
    /// A bug in fastness.
    #[error(transparent)]
    Bug(PkiError),
}

impl From<PinError> for CommandError {
    fn from(error: PinError) -> Self {
        Self::Pin(error)
    }
}

impl From<TokenError> for CommandError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Login { .. } => Self::Login(error),
            _ => Self::Token(error),
        }
    }
}

impl From<PkiError> for CommandError {
    fn from(error: PkiError) -> Self {
        match error {
            PkiError::Name(_) | PkiError::Moment(_) => Self::Name(error),
            PkiError::TooLarge { .. }
            | PkiError::Pem(_)
            | PkiError::PrivateKey
            | PkiError::UnknownContent
            | PkiError::OtherContent { .. }
            | PkiError::Malformed { .. }
            | PkiError::Serial(_)
            | PkiError::Key(_) => Self::Input(error),
            PkiError::Refused(_) => Self::Refused(error),
            PkiError::Exposed(exposed) => Self::Exposed(exposed),
            PkiError::Signer(_) | PkiError::SelfCheck(_) => Self::Signing(error),
            PkiError::Store(_) => Self::Io(error),
            PkiError::ReadBack(_) | PkiError::Encoding(_) => Self::Bug(error),
        }
    }
}

impl From<SignerError> for CommandError {
    fn from(error: SignerError) -> Self {
        Self::Signing(error.into())
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        let exit = match &error {
            CommandError::Exposed(exposed) => {
                let fault = |it: &Exposed| Fault::new("--dir", it.to_string(), it.mend());
                return Self::faults(error.to_string(), exposed.iter().map(fault).collect());
            }
            CommandError::Usage(_)
            | CommandError::Out(_)
            | CommandError::KeyUri(_)
            | CommandError::Name(_) => Exit::Usage,
            CommandError::Pin(_) | CommandError::Login(_) => Exit::Pin,
            CommandError::Token(_) | CommandError::Signing(_) => Exit::Token,
            CommandError::Input(_) | CommandError::Refused(_) => Exit::Faults,
            CommandError::Io(_)
            | CommandError::NotHandedOut { .. }
            | CommandError::Print(_)
            | CommandError::Random(_)
            | CommandError::Bug(_) => Exit::Failed,
        };
        Self::new(exit, chain(&error))
    }
}
