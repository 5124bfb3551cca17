//! A certificate chain and the token key behind it.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::sign::CertifiedKey;

use super::signing::{SignatureRecord, TokenSigningKey};
use crate::keeper::ask::{AskError, Asker};
use crate::keeper::message::KeyIndex;
use crate::keeper::purpose;
use crate::policy::{EndEntity, Reason};
use crate::role::TlsRole;
use crate::token::KeyKind;

/// Most certificates in a chain: an end entity and more intermediates than anyone uses. A peer
/// pays for each of them in every handshake.
const LONGEST_CHAIN: usize = 8;

/// A private key inside a token, as seen from the process that may only ask for its signatures.
#[derive(Clone)]
pub struct TokenKey {
    /// Which of the keeper's keys it is.
    pub index: KeyIndex,
    /// What kind of key it is.
    pub kind: KeyKind,
    /// Its public key as the token tells it: a DER `SubjectPublicKeyInfo`.
    pub spki: Vec<u8>,
    /// Label of its token.
    pub token: Arc<str>,
    /// Whom to ask for signatures.
    pub asker: Arc<Asker>,
}

impl TokenKey {
    /// Has the token make a signature that nobody waits for, as the key of `role`. Blocks: call it from
    /// the lane.
    pub(super) fn prove(&self, role: TlsRole) -> Result<(), AskError> {
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce)
            .expect("the system's random numbers never fail after boot");
        let (scheme, input) = (self.kind.schemes()[0], purpose::probe(role, nonce));
        self.asker
            .sign(self.index, &self.spki, scheme, &input)
            .map(drop)
    }
}

/// What one side of a handshake presents: a certificate chain that belongs to a token key.
#[derive(Clone)]
pub struct Credential {
    role: TlsRole,
    chain: Arc<[CertificateDer<'static>]>,
    end_entity: EndEntity,
    /// The key, in each token that holds it, in the order of preference.
    pub(super) keys: Arc<[TokenKey]>,
}

/// Why a chain and a key are no [`Credential`].
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The text is not PEM (RFC 7468).
    #[error("the certificate chain is not PEM")]
    NotPem(#[source] pem::Error),
    /// No certificate in the text, or more than eight.
    #[error("the chain has {0} certificates instead of 1 to {LONGEST_CHAIN}")]
    Length(usize),
    /// The first certificate is not an end entity certificate of our profile.
    #[error("the first certificate of the chain cannot serve")]
    EndEntity(#[source] Reason),
    /// The extended key usage is that of the other role.
    #[error("the certificate is for the {certified} role and not for the {wanted} role")]
    OtherRole {
        /// What its extended key usage says.
        certified: TlsRole,
        /// What it was configured for.
        wanted: TlsRole,
    },
    /// The certificate's public key is not the token's.
    #[error("the certificate does not belong to the token's key")]
    OtherKey(#[source] rustls::Error),
}

impl Credential {
    /// A credential of the PEM text `chain` (end entity first, RFC 8446 §4.4.2) and `key`.
    ///
    /// # Errors
    /// [`CredentialError`]: chain and key must belong together and to `role`.
    pub fn new(role: TlsRole, chain: &str, key: TokenKey) -> Result<Self, CredentialError> {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(CredentialError::NotPem)?;
        let Some(first) = chain.first().filter(|_| chain.len() <= LONGEST_CHAIN) else {
            return Err(CredentialError::Length(chain.len()));
        };
        let end_entity = EndEntity::read(first).map_err(CredentialError::EndEntity)?;
        if end_entity.role() != role {
            let certified = end_entity.role();
            return Err(CredentialError::OtherRole {
                certified,
                wanted: role,
            });
        }
        let credential = Self {
            role,
            chain: chain.into(),
            end_entity,
            keys: [key].into(),
        };
        // `CertifiedKey::new` compares nothing; "unknown" is an error of this call too.
        let certified = credential.certified(SignatureRecord::unused());
        certified.keys_match().map_err(CredentialError::OtherKey)?;
        Ok(credential)
    }

    /// The same credential with `key` as a further place of its key; `None` when that is another
    /// key.
    #[must_use]
    pub fn with_replica(&self, key: TokenKey) -> Option<Self> {
        let same = self
            .keys
            .iter()
            .all(|known| known.spki == key.spki && known.kind == key.kind);
        same.then(|| Self {
            keys: self.keys.iter().cloned().chain([key]).collect(),
            ..self.clone()
        })
    }

    /// Whether one of its tokens signs.
    pub fn is_usable(&self) -> bool {
        self.keys.iter().any(|key| key.asker.is_usable())
    }

    /// Whether none of its tokens can be asked.
    pub fn is_gone(&self) -> bool {
        self.keys.iter().all(|key| key.asker.is_gone())
    }

    /// The role that it is for.
    pub fn role(&self) -> TlsRole {
        self.role
    }

    /// Its end entity certificate: our own identity, pin and end of validity.
    pub fn end_entity(&self) -> &EndEntity {
        &self.end_entity
    }

    /// What rustls wants, for one handshake: the signature is noted in `record`.
    pub(super) fn certified(&self, record: Arc<SignatureRecord>) -> CertifiedKey {
        let key = TokenSigningKey::new(self.keys.clone(), record);
        CertifiedKey::new(self.chain.to_vec(), Arc::new(key))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Credential({} as {}, {})",
            self.end_entity.id(),
            self.role,
            self.keys[0].kind
        )
    }
}
