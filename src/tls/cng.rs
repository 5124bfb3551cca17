//! Credentials on Windows: the key stays in one of the system's key storage providers (CNG), which
//! signs for whoever may use the key. What is true of a token's key on Linux is asked of it too: one
//! place, no way out, the certificate's own, TLS 1.3 alone. The only user of rustls-cng.
//!
//! There is no keeper of ours in front of it: the provider signs anything for any process of the
//! key's users, and how well it guards the key is its own affair (a TPM or a smart card better than
//! the software provider). Nothing is confined either, so there is no node on Windows: these are
//! rustls' configurations for a program that listens and dials by itself. A handshake waits for the
//! provider on the thread that runs it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::{fmt, slice};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, InvalidSignature};
use rustls::server::ParsedCertificate;
use rustls::sign::{Signer, SigningKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig, SignatureAlgorithm, SignatureScheme};
use rustls_cng::signer::CngSigningKey;
use rustls_cng::store::{CertStore, CertStoreType};
use spki::SubjectPublicKeyInfoRef;
use spki::der::Decode;

use super::generation::Generation;
use super::inside::Inside;
use super::own_chain::{CredentialError, OwnChain};
use super::provider::provider;
use super::verifier::Dialled;
use crate::policy::{EndEntity, PeerId};
use crate::role::TlsRole;

/// All that a key may sign with, the preferred ones first: those of TLS 1.3 (RFC 8446 §4.2.3) that
/// CNG has. rustls-cng also offers PKCS#1 v1.5, whose signatures do not say what they are for.
const SCHEMES: [SignatureScheme; 5] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

/// Where Windows keeps a certificate and the name of its key. `My` is the personal store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateStore {
    /// Of the user that runs this.
    User(String),
    /// Of the machine.
    Machine(String),
}

/// What one side of a handshake presents: a certificate chain, and its key in a key storage provider.
#[derive(Clone)]
pub struct Credential {
    own: OwnChain,
    presented: Arc<SingleCertAndKey>,
}

/// Why there is no [`Credential`].
#[derive(Debug, thiserror::Error)]
pub enum CngError {
    /// The chain cannot serve.
    #[error(transparent)]
    Chain(#[from] CredentialError),
    /// There is no such store, or not for us.
    #[error("the certificate store {0} cannot be read")]
    Store(CertificateStore, #[source] rustls_cng::error::CngError),
    /// The chain's first certificate must be in the store exactly once.
    #[error(
        "the store {store} has the certificate {found} times instead of once: take it in with `certreq \
         -accept`, which joins it to its key"
    )]
    NotOne {
        /// The store.
        store: CertificateStore,
        /// How often it is in there.
        found: usize,
    },
    /// The store names no key for the certificate, or none that we may use without a prompt.
    #[error("the certificate has no key in a key storage provider that this user may use silently")]
    NoKey(#[source] rustls_cng::error::CngError),
    /// The provider does not say whether the key can leave it.
    #[error("the key storage provider does not tell the key's export policy")]
    ExportPolicy(#[source] io::Error),
    /// The key can be read.
    #[error(
        "the key can be exported (policy {0:#x}): make another one that cannot, in `certreq -new` with \
         `Exportable = FALSE`, and certify that"
    )]
    Exportable(u32),
    /// It is no key for TLS 1.3.
    #[error("the key is neither ECDSA on P-256 or P-384 nor RSA")]
    NoScheme,
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random(rustls::crypto::GetRandomFailed),
    /// The provider did not sign a nonce.
    #[error("the key does not sign with {0:?}")]
    Signing(SignatureScheme, #[source] rustls::Error),
    /// The certificate cannot be read.
    #[error("the certificate's public key cannot be read")]
    PublicKey(#[source] rustls::Error),
    /// A signature of the key does not verify with the certificate.
    #[error("the key's signature with {0:?} is not one of the certificate's key")]
    OtherKey(SignatureScheme, InvalidSignature),
}

impl Credential {
    /// A credential of the PEM text `chain` (end entity first, RFC 8446 §4.4.2), whose key is the one
    /// that `store` names for exactly this certificate, compared byte by byte.
    ///
    /// # Errors
    /// [`CngError`]: the key must not be exportable, and must have signed a fresh nonce, with each
    /// scheme that a handshake may ask for, so that the certificate verifies it.
    pub fn open(role: TlsRole, chain: &str, store: &CertificateStore) -> Result<Self, CngError> {
        let own = OwnChain::read(role, chain)?;
        let end_entity = &own.certificates[0];
        let key = StoredKey::find(end_entity, store)?;
        key.prove(end_entity)?;
        let presented = Arc::new(own.with_key(Arc::new(key)).into());
        Ok(Self { own, presented })
    }

    /// The role that it is for.
    pub fn role(&self) -> TlsRole {
        self.own.role
    }

    /// Its end entity certificate: our own identity, pin and end of validity.
    pub fn end_entity(&self) -> &EndEntity {
        &self.own.end_entity
    }

    /// Always: only a handshake shows that a provider has stopped to sign.
    pub(super) fn is_usable(&self) -> bool {
        true
    }

    /// Never, for the same reason.
    pub(super) fn is_gone(&self) -> bool {
        false
    }

    fn present(&self) -> Arc<SingleCertAndKey> {
        self.presented.clone()
    }
}

impl Generation {
    /// rustls' configuration for those who dial us: TLS 1.3 and HTTP/2 alone, WebPKI and then the
    /// policy about their certificate. `None` without a server credential. Whom a finished handshake
    /// was with, `policy().decide()` tells of the certificate that it left.
    pub fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.accepting(Credential::present, Inside::H2)
    }

    /// rustls' configuration for one dial of `peer` at `address`: the same about its certificate,
    /// which must be that peer's. `None` without a client credential.
    pub fn client_config(&self, peer: &PeerId, address: SocketAddr) -> Option<Arc<ClientConfig>> {
        let dialled = Dialled {
            peer: peer.clone(),
            address,
        };
        self.dialling(dialled, Credential::present, Inside::H2)
    }
}

/// A key in a provider, which cannot leave it.
#[derive(Debug)]
struct StoredKey(CngSigningKey);

impl StoredKey {
    fn find(certificate: &CertificateDer<'_>, store: &CertificateStore) -> Result<Self, CngError> {
        let unread = |error| CngError::Store(store.clone(), error);
        let found: Vec<_> = store
            .open()
            .and_then(|store| store.find_all())
            .map_err(unread)?
            .into_iter()
            .filter(|candidate| candidate.as_der() == certificate.as_ref())
            .collect();
        let [found] = found.as_slice() else {
            return Err(CngError::NotOne {
                store: store.clone(),
                found: found.len(),
            });
        };
        let silent = true;
        let key = found.acquire_key(silent).map_err(CngError::NoKey)?;
        match fastness_export_policy::export_policy(&key).map_err(CngError::ExportPolicy)? {
            0 => {}
            policy => return Err(CngError::Exportable(policy)),
        }
        CngSigningKey::new(key).map(Self).map_err(CngError::NoKey)
    }

    /// Signs a nonce with every scheme that a handshake may ask for, and verifies it as a peer will.
    /// That the key is the certificate's follows.
    fn prove(&self, certificate: &CertificateDer<'_>) -> Result<(), CngError> {
        let provider = provider();
        let mut nonce = [0; 32];
        let random = provider.secure_random.fill(&mut nonce);
        random.map_err(CngError::Random)?;
        let signers = SCHEMES.iter().map(slice::from_ref);
        let mut signers = signers
            .filter_map(|scheme| self.choose_scheme(scheme))
            .peekable();
        if signers.peek().is_none() {
            return Err(CngError::NoScheme);
        }
        for signer in signers {
            let scheme = signer.scheme();
            let signature = signer.sign(&nonce);
            let signature = signature.map_err(|error| CngError::Signing(scheme, error))?;
            let algorithms = provider.signature_verification_algorithms;
            verify(certificate, scheme, &nonce, &signature, &algorithms)?;
        }
        Ok(())
    }
}

fn verify(
    certificate: &CertificateDer<'_>,
    scheme: SignatureScheme,
    message: &[u8],
    signature: &[u8],
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), CngError> {
    let certificate = ParsedCertificate::try_from(certificate).map_err(CngError::PublicKey)?;
    let spki = certificate.subject_public_key_info();
    let unreadable =
        |error: spki::der::Error| CngError::PublicKey(rustls::Error::General(error.to_string()));
    let spki = SubjectPublicKeyInfoRef::from_der(&spki).map_err(unreadable)?;
    let of_scheme = |(known, _): &&(SignatureScheme, _)| *known == scheme;
    // In TLS 1.3 the first algorithm of a scheme is the only one.
    let algorithm = algorithms.mapping.iter().find(of_scheme);
    let algorithm = algorithm.and_then(|(_, algorithms)| algorithms.first());
    let wrong = |error| CngError::OtherKey(scheme, error);
    algorithm
        .ok_or(InvalidSignature)
        .and_then(|algorithm| {
            let key = spki.subject_public_key.raw_bytes();
            algorithm.verify_signature(key, message, signature)
        })
        .map_err(wrong)
}

impl SigningKey for StoredKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let ours = SCHEMES.into_iter().filter(|ours| offered.contains(ours));
        self.0.choose_scheme(&ours.collect::<Vec<_>>())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl CertificateStore {
    fn open(&self) -> Result<CertStore, rustls_cng::error::CngError> {
        match self {
            Self::User(name) => CertStore::open(CertStoreType::CurrentUser, name),
            Self::Machine(name) => CertStore::open(CertStoreType::LocalMachine, name),
        }
    }
}

/// As PowerShell's certificate provider writes it.
impl fmt::Display for CertificateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "Cert:\\CurrentUser\\{name}"),
            Self::Machine(name) => write!(f, "Cert:\\LocalMachine\\{name}"),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = &self.own;
        write!(f, "Credential({} as {})", own.end_entity.id(), own.role)
    }
}
