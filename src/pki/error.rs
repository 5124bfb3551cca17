//! What goes wrong in this room, by whose fault it is.

use der::pem;

use super::moment::{Moment, MomentError};
use super::names::NameError;
use super::public_key::KeyError;
use super::serial::{Serial, SerialError};
use super::signer::SignerError;
use super::store::StoreError;
use crate::ownership::Exposed;
use crate::policy::PeerId;
use crate::role::TlsRole;

/// Why a certificate, a request or a revocation list was not made or not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A name that the operator gave.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A time or a number of days that cannot be written.
    #[error(transparent)]
    Moment(#[from] MomentError),
    /// A file larger than any certificate or request.
    #[error("the file is larger than {most} bytes: it is not a certificate or a request")]
    TooLarge {
        /// Bytes.
        most: usize,
    },
    /// Damaged PEM (RFC 7468).
    #[error("the PEM text is damaged: make the file again")]
    Pem(#[source] pem::Error),
    /// A private key, which has no place in a file.
    #[error("the file holds a private key: keys are generated in a token and stay there")]
    PrivateKey,
    /// None of the objects we know.
    #[error("the file holds no certificate, certificate request or public key in PEM or DER")]
    UnknownContent,
    /// The object is another one than is wanted here.
    #[error("the file does not hold a {wanted}")]
    OtherContent {
        /// What is wanted.
        wanted: &'static str,
    },
    /// The object's DER is malformed.
    #[error("the {what} is malformed")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// Where it breaks.
        source: der::Error,
    },
    /// A certificate whose serial number is out of range.
    #[error("the certificate's serial number is zero or too long")]
    Serial(#[from] SerialError),
    /// The key is not certified here, or did not sign the request.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The authority's rules say no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The token did not sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// Others may change the authority's folder, and so what it certifies and which module it loads.
    #[error("others may change the authority's folder")]
    Exposed(Vec<Exposed>),
    /// A file could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A signature that was just made does not verify with the issuer's key: a fault in the token
    /// or its module. Nothing was written.
    #[error("the token's signature does not verify, nothing was written: check token and module")]
    SelfCheck(#[source] KeyError),
    /// What was built does not read back as ordered: a bug. Nothing was written.
    #[error(
        "a bug in fastness: the result does not read back as ordered ({0}), nothing was written"
    )]
    ReadBack(&'static str),
    /// DER could not be written.
    #[error("a bug in fastness: encoding failed")]
    Encoding(#[source] der::Error),
}

/// A rule of the authority that stands against a command.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The key is already certified for the other side of the handshake.
    #[error(
        "this key already has a {role} certificate ({serial}): a server and a client key are \
         separate objects, generate another key for the other role"
    )]
    OtherRole {
        /// The role that the key is certified for.
        role: TlsRole,
        /// The certificate that says so.
        serial: Serial,
    },
    /// The key is already certified for another node.
    #[error(
        "this key already has a certificate for {id} ({serial}): a node has keys of its own, generate \
         another key"
    )]
    OtherIdentity {
        /// Whose key it is.
        id: PeerId,
        /// The certificate that says so.
        serial: Serial,
    },
    /// A certificate for this key was revoked because the key was compromised.
    #[error("this key was revoked as compromised ({serial}): generate a new one")]
    Compromised {
        /// The revoked certificate.
        serial: Serial,
    },
    /// The request is for the authority's own key.
    #[error("the request holds the authority's own key: a node needs a key of its own")]
    AuthorityKey,
    /// The key that is to be the authority's is a node's.
    #[error(
        "the key's label says that it is a node's {role} key: an authority needs a key of its own, made \
         with 'fastness token keygen --purpose ca'"
    )]
    NodesKey {
        /// What it is for.
        role: TlsRole,
    },
    /// The authority's certificate has expired.
    #[error("the authority's certificate expired at {not_after}: make a new authority")]
    AuthorityExpired {
        /// Its end.
        not_after: Moment,
    },
    /// The token's key is not the one in `ca.pem`.
    #[error(
        "the key in the token is not the authority's: its public key differs from ca.pem; check \
         the token and the key URI in authority.toml"
    )]
    OtherSigner,
    /// The certificate to revoke was not signed by this authority.
    #[error("the certificate was not issued by this authority")]
    OtherIssuer,
    /// The certificate to revoke is the authority's own.
    #[error(
        "an authority cannot revoke its own certificate: take ca.pem out of the peers' trust anchors"
    )]
    OwnCertificate,
    /// No certificate with this serial number was issued.
    #[error("no certificate with serial number {serial} was issued by this authority")]
    UnknownSerial {
        /// The number.
        serial: Serial,
    },
    /// The certificate is revoked already.
    #[error("certificate {serial} is already revoked, since {since}")]
    AlreadyRevoked {
        /// The number.
        serial: Serial,
        /// Since when.
        since: Moment,
    },
    /// There is an authority in the folder.
    #[error("there is already an authority in {dir}: choose another folder")]
    AuthorityExists {
        /// The folder.
        dir: String,
    },
    /// The same serial number again, which 126 random bits do not give.
    #[error("the random serial number {serial} was used before: check the random source")]
    SerialUsed {
        /// The number.
        serial: Serial,
    },
}

impl PkiError {
    pub(super) fn malformed(what: &'static str) -> impl FnOnce(der::Error) -> Self {
        move |source| Self::Malformed { what, source }
    }
}
