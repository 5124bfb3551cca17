//! The chain that we present ourselves, whatever holds its key.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::sign::{CertifiedKey, SigningKey};

use crate::policy::{EndEntity, Reason};
use crate::role::TlsRole;

/// Most certificates in a chain: an end entity and more intermediates than anyone uses. A peer
/// pays for each of them in every handshake.
const LONGEST_CHAIN: usize = 8;

/// A certificate chain, end entity first, that is good for `role`.
#[derive(Clone)]
pub(super) struct OwnChain {
    pub(super) role: TlsRole,
    pub(super) certificates: Arc<[CertificateDer<'static>]>,
    pub(super) end_entity: EndEntity,
}

/// Why a chain and a key are no [`Credential`](super::Credential).
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

impl OwnChain {
    /// Reads the PEM text `chain` (end entity first, RFC 8446 §4.4.2).
    pub(super) fn read(role: TlsRole, chain: &str) -> Result<Self, CredentialError> {
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
        Ok(Self {
            role,
            certificates: chain.into(),
            end_entity,
        })
    }

    /// What rustls wants. It compares nothing.
    pub(super) fn with_key(&self, key: Arc<dyn SigningKey>) -> CertifiedKey {
        CertifiedKey::new(self.certificates.to_vec(), key)
    }
}
