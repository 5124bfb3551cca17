//! rustls' signing key, which has no key: it asks the keeper and notes who answered.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::ResolvesClientCert;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{OtherError, SignatureAlgorithm, SignatureScheme};

use super::credential::{Credential, TokenKey};
use crate::admission::Class;
use crate::keeper::ask::AskError;
use crate::telemetry::metrics::Counter;
use crate::token::{KeyKind, Scheme};

/// Who made our signature in a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBy {
    /// Process id of the keeper.
    pub keeper: u32,
    /// Label of the token that holds the key.
    pub token: Arc<str>,
}

/// How many signatures were made for each class of handshakes.
#[derive(Debug, Default)]
pub struct SignaturesMade([Counter; 3]);

impl SignaturesMade {
    /// How many for this class.
    pub fn count(&self, class: Class) -> u64 {
        self.0[class.index()].value()
    }
}

/// Who made the signature of one handshake. A TLS 1.3 handshake has exactly one CertificateVerify
/// of ours (RFC 8446 §4.4.3), so it is written once.
#[derive(Debug)]
pub(super) struct SignatureRecord {
    signed_by: OnceLock<SignedBy>,
    class: Class,
    made: Arc<SignaturesMade>,
}

impl SignatureRecord {
    /// The record of a handshake of this class, counted in `made`.
    pub(super) fn new(class: Class, made: &Arc<SignaturesMade>) -> Arc<Self> {
        Arc::new(Self {
            signed_by: OnceLock::new(),
            class,
            made: made.clone(),
        })
    }

    /// The record of a key that is only looked at.
    pub(super) fn unused() -> Arc<Self> {
        Self::new(Class::Own, &Arc::default())
    }

    /// Who signed; `None` as long as nobody has.
    pub(super) fn signed_by(&self) -> Option<&SignedBy> {
        self.signed_by.get()
    }

    fn note(&self, signed_by: SignedBy) {
        self.made.0[self.class.index()].count();
        self.signed_by.get_or_init(|| signed_by);
    }
}

/// The keeper's refusal on its way through rustls to the log.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct SigningFailed(pub(super) Arc<AskError>);

/// The credential of one handshake.
#[derive(Debug)]
pub(super) struct Presenting {
    credential: Credential,
    record: Arc<SignatureRecord>,
}

impl Presenting {
    pub(super) fn new(credential: &Credential, record: &Arc<SignatureRecord>) -> Arc<Self> {
        Arc::new(Self {
            credential: credential.clone(),
            record: record.clone(),
        })
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        Arc::new(self.credential.certified(self.record.clone()))
    }
}

impl ResolvesServerCert for Presenting {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl ResolvesClientCert for Presenting {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A token key in rustls' words, for one handshake.
pub(super) struct TokenSigningKey {
    /// One key, in one or more tokens.
    keys: Arc<[TokenKey]>,
    record: Arc<SignatureRecord>,
}

impl TokenSigningKey {
    pub(super) fn new(keys: Arc<[TokenKey]>, record: Arc<SignatureRecord>) -> Self {
        Self { keys, record }
    }
}

impl SigningKey for TokenSigningKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let ours = self.keys[0].kind.schemes().iter();
        let scheme = ours
            .copied()
            .find(|scheme| offered.contains(&SignatureScheme::from(scheme.code())))?;
        Some(Box::new(TokenSigner {
            keys: self.keys.clone(),
            record: self.record.clone(),
            scheme,
        }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.keys[0].spki.as_slice().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.keys[0].kind {
            KeyKind::P256 | KeyKind::P384 => SignatureAlgorithm::ECDSA,
            KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => SignatureAlgorithm::RSA,
            KeyKind::Ed25519 => SignatureAlgorithm::ED25519,
        }
    }
}

/// Makes one signature, in the lane: it blocks until the keeper has answered.
struct TokenSigner {
    keys: Arc<[TokenKey]>,
    record: Arc<SignatureRecord>,
    scheme: Scheme,
}

impl Signer for TokenSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let (usable, others): (Vec<_>, Vec<_>) =
            self.keys.iter().partition(|key| key.asker.is_usable());
        let mut failure = None;
        for key in usable.into_iter().chain(others) {
            match key.asker.sign(key.index, &key.spki, self.scheme, message) {
                Ok(signed) => {
                    self.record.note(SignedBy {
                        keeper: signed.keeper,
                        token: key.token.clone(),
                    });
                    return Ok(signed.signature);
                }
                // Of several the last one that was really asked.
                Err(AskError::Gone) if failure.is_some() => {}
                Err(error) => failure = Some(error),
            }
        }
        let error = failure.expect("a credential has at least one key");
        let failed = SigningFailed(Arc::new(error));
        Err(rustls::Error::Other(OtherError(Arc::new(failed))))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::from(self.scheme.code())
    }
}

impl fmt::Debug for TokenSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenSigningKey({})", self.keys[0].kind)
    }
}

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenSigner({:?})", self.scheme)
    }
}
