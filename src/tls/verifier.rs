//! Whom we accept: WebPKI first, then the peer policy. WebPKI is wrapped and never replaced, so
//! the policy can only narrow.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, RootCertStore, SignatureScheme,
};

use crate::policy::{Decision, Grant, PeerId, PeerPolicy, Presented, Reason};
use crate::role::TlsRole;

/// Certificates of clients that are kept in mind, more than most policies have peers.
const REMEMBERED: usize = 256;

/// Everything that a certificate is judged by.
#[derive(Debug)]
pub(super) struct Judge {
    policy: PeerPolicy,
    roots: Arc<RootCertStore>,
    /// WebPKI for certificates of clients, over the same roots.
    clients: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
    /// What this policy granted to clients, by the bytes of their certificates: the next decision
    /// need not read them again.
    granted: Mutex<HashMap<Box<[u8]>, Grant>>,
}

/// What a peer presented, before anybody believes it.
#[derive(Clone, Copy)]
pub(super) struct Chain<'a> {
    pub(super) end_entity: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
    /// Whom we dialled; `None` when the peer dialled us.
    pub(super) dialled: Option<&'a Dialled>,
}

/// The peer that we mean to reach, and where.
#[derive(Clone, Debug)]
pub(super) struct Dialled {
    pub(super) peer: PeerId,
    pub(super) address: SocketAddr,
}

impl Judge {
    pub(super) fn new(
        policy: PeerPolicy,
        roots: Arc<RootCertStore>,
        clients: Arc<dyn ClientCertVerifier>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self {
            policy,
            roots,
            clients,
            algorithms,
            granted: Mutex::default(),
        }
    }

    /// The peer policy.
    pub(super) fn policy(&self) -> &PeerPolicy {
        &self.policy
    }

    /// WebPKI and policy.
    pub(super) fn judge(&self, chain: Chain<'_>, now: UnixTime) -> Result<Grant, Error> {
        let Chain {
            end_entity,
            intermediates,
            dialled,
        } = chain;
        if dialled.is_some() {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let all = self.algorithms.all;
            // No name is compared here: ours are SPIFFE IDs, and the policy compares them.
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.roots,
                intermediates,
                now,
                all,
            )?;
        } else {
            self.clients
                .verify_client_cert(end_entity, intermediates, now)?;
        }
        self.decide(chain).into_result().map_err(refused)
    }

    /// The policy alone.
    pub(super) fn decide(&self, chain: Chain<'_>) -> Decision {
        match chain.dialled {
            Some(dialled) => self.policy.decide(Presented {
                end_entity: chain.end_entity,
                role: TlsRole::Server,
                dialled: Some((&dialled.peer, dialled.address)),
            }),
            None => self.decide_about_client(chain.end_entity),
        }
    }

    /// A handshake asks twice, and a peer comes back with the same certificate: it is read once, and
    /// decided about every time.
    fn decide_about_client(&self, end_entity: &[u8]) -> Decision {
        let known = self.granted().get(end_entity).cloned();
        if let Some(grant) = known {
            return self.policy.decide_again(&grant);
        }
        let decision = self.policy.decide(Presented {
            end_entity,
            role: TlsRole::Client,
            dialled: None,
        });
        if let Decision::Allow(grant) = &decision {
            let mut granted = self.granted();
            // Each is of a peer whose key is pinned: nobody else can fill it.
            if granted.len() >= REMEMBERED {
                granted.clear();
            }
            granted.insert(end_entity.into(), grant.clone());
        }
        decision
    }

    fn granted(&self) -> std::sync::MutexGuard<'_, HashMap<Box<[u8]>, Grant>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A denial on its way through rustls to the log; the peer gets the alert `certificate_unknown`
/// (RFC 8446 §6.2) whatever the reason.
fn refused(reason: Reason) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
}

/// TLS 1.2 is not compiled in; its signatures do not say what they are for.
fn not_tls12() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)
}

/// Judges who dials us.
#[derive(Debug)]
pub(super) struct ClientJudge(pub(super) Arc<Judge>);

impl ClientCertVerifier for ClientJudge {
    /// Empty: which authorities we trust is nobody's business, and every client of ours has one
    /// certificate to offer. The extension is then left out (RFC 8446 §4.2.4).
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = Chain {
            end_entity,
            intermediates,
            dialled: None,
        };
        self.0
            .judge(chain, now)
            .map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(not_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

/// Judges whom we dialled.
#[derive(Debug)]
pub(super) struct ServerJudge {
    pub(super) judge: Arc<Judge>,
    pub(super) dialled: Dialled,
}

impl ServerCertVerifier for ServerJudge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = Chain {
            end_entity,
            intermediates,
            dialled: Some(&self.dialled),
        };
        self.judge
            .judge(chain, now)
            .map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(not_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.judge.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.algorithms.supported_schemes()
    }
}
