//! Our own chain, verified as a peer's WebPKI will verify it.

use std::time::SystemTime;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::WebPkiClientVerifier;

use super::generation::{GenerationError, TrustAnchors};
use super::provider::provider;
use crate::role::TlsRole;

/// Why a chain would be refused.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The trust anchors cannot be used.
    #[error(transparent)]
    Anchors(#[from] GenerationError),
    /// The text holds no certificate.
    #[error("no certificate in it")]
    Empty,
    /// WebPKI refuses it.
    #[error("{}", plainly(.0))]
    NotTrusted(#[from] rustls::Error),
    /// A bug: rustls refuses a verifier that is the same at every start.
    #[error("no verifier: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// WebPKI's own word where rustls wraps it in names of its types.
fn plainly(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(inner)) => {
            inner.to_string()
        }
        other => other.to_string(),
    }
}

impl ChainError {
    /// What to do about it.
    pub fn mend(&self) -> &'static str {
        use rustls::{CertificateError as Why, Error};
        match self {
            Self::NotTrusted(Error::InvalidCertificate(Why::UnknownIssuer)) => {
                "add the intermediates behind it, or mend `trust_anchors`"
            }
            Self::NotTrusted(_) | Self::Empty => {
                "have another certificate issued: peers refuse this one"
            }
            Self::Anchors(_) | Self::Verifier(_) => "mend `trust_anchors`",
        }
    }
}

impl TrustAnchors {
    /// Verifies the PEM text `chain`, end entity first, for `role` at `now` (RFC 5280 §6).
    ///
    /// # Errors
    /// [`ChainError`]
    pub fn verify(&self, chain: &str, role: TlsRole, now: SystemTime) -> Result<(), ChainError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .flatten()
            .collect();
        let (end_entity, intermediates) = chain.split_first().ok_or(ChainError::Empty)?;
        let since_epoch = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let now = UnixTime::since_unix_epoch(since_epoch);
        let provider = provider();
        match role {
            TlsRole::Server => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                self.roots(),
                intermediates,
                now,
                provider.signature_verification_algorithms.all,
            )?,
            TlsRole::Client => {
                let roots = std::sync::Arc::new(self.roots().clone());
                WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()?
                    .verify_client_cert(end_entity, intermediates, now)?;
            }
        }
        Ok(())
    }
}
