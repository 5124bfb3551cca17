//! What this room needs from a key: its public half, its kind and a signature.

use std::error::Error;

use crate::token::{KeyKind, TokenKey};

/// A private key that signs certificates, requests or revocation lists without ever being seen.
///
/// In the product this is a key in a token; there is no software implementation outside of tests.
pub trait Signer {
    /// The public key as a DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    fn spki_der(&self) -> &[u8];

    /// What kind of key it is, which settles the signature algorithm (see
    /// [`identifier`](super::identifier)).
    fn kind(&self) -> KeyKind;

    /// Signs `message`, which is not hashed yet. ECDSA signatures are DER (RFC 3279 §2.2.3), RSA is
    /// RSASSA-PSS with SHA-256 and a salt of 32 bytes, Ed25519 is RFC 8032.
    ///
    /// # Errors
    /// [`SignerError`] with the token's reason.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError>;
}

/// The key did not sign; the source says why.
#[derive(Debug, thiserror::Error)]
#[error("the token did not sign")]
pub struct SignerError(#[source] Box<dyn Error + Send + Sync>);

impl SignerError {
    /// Wraps the reason.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

impl Signer for TokenKey {
    fn spki_der(&self) -> &[u8] {
        self.spki_der()
    }

    fn kind(&self) -> KeyKind {
        self.kind()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        self.sign(message).map_err(SignerError::new)
    }
}
