//! Whom we accept: WebPKI first, then the peer policy. WebPKI is wrapped and never replaced, so
//! the policy can only narrow.

use std::net::SocketAddr;
use std::sync::Arc;

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

/// Everything that a certificate is judged by.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) policy: PeerPolicy,
    pub(super) roots: Arc<RootCertStore>,
    /// WebPKI for certificates of clients, over the same roots.
    pub(super) clients: Arc<dyn ClientCertVerifier>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
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
        let role = if chain.dialled.is_some() {
            TlsRole::Server
        } else {
            TlsRole::Client
        };
        self.policy.decide(Presented {
            end_entity: chain.end_entity,
            role,
            dialled: chain
                .dialled
                .map(|dialled| (&dialled.peer, dialled.address)),
        })
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
