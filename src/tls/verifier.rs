//! Whom we accept: WebPKI first, then the peer policy. WebPKI is wrapped and never replaced, so
//! the policy can only narrow.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, RootCertStore, SignatureScheme,
};

use super::anchors::{AnchorError, InDate, TrustAnchors};
use crate::policy::{Decision, EndEntity, Grant, PeerId, PeerPolicy, Presented, Reason};
use crate::role::TlsRole;

/// Certificates that are kept in mind: two each of more peers than most policies have.
const REMEMBERED: usize = 1024;

/// Everything that a certificate is judged by.
pub(super) struct Judge {
    policy: PeerPolicy,
    anchors: TrustAnchors,
    webpki: WebPki,
    algorithms: WebPkiSupportedAlgorithms,
    believed: RwLock<Option<Arc<Believed>>>,
}

/// Makes WebPKI for certificates of clients under these roots.
pub(super) type WebPki = Box<
    dyn Fn(Arc<RootCertStore>) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError>
        + Send
        + Sync,
>;

/// What we go by as long as the same trust anchors are in their validity.
struct Believed {
    anchors: InDate,
    clients: Arc<dyn ClientCertVerifier>,
    /// Certificates that an anchor itself signed and that the policy granted, by their bytes. Neither that
    /// signature nor what stands in the bytes can change while this lives: only a certificate's dates and the
    /// policy are asked again.
    granted: Mutex<HashMap<Box<[u8]>, Arc<EndEntity>>>,
}

impl Believed {
    fn granted(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Arc<EndEntity>>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the chain's certificate says, when it was granted in this role before.
    fn known(&self, chain: Chain<'_>) -> Option<Arc<EndEntity>> {
        if !chain.intermediates.is_empty() {
            return None;
        }
        let known = self.granted().get(chain.end_entity.as_ref()).cloned();
        known.filter(|end_entity| end_entity.role() == chain.role())
    }

    fn remember(&self, chain: Chain<'_>, grant: &Grant) {
        if !chain.intermediates.is_empty() {
            return;
        }
        let mut granted = self.granted();
        // Each is of a peer whose key is pinned: nobody can fill it with certificates of others.
        if granted.len() >= REMEMBERED {
            granted.clear();
        }
        granted.insert(
            chain.end_entity.as_ref().into(),
            Arc::clone(grant.end_entity()),
        );
    }
}

/// What a peer presented, before anybody believes it.
#[derive(Clone, Copy)]
pub(super) struct Chain<'a> {
    pub(super) end_entity: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
    /// Whom we dialled; `None` when the peer dialled us.
    pub(super) dialled: Option<&'a Dialled>,
}

impl Chain<'_> {
    /// The role that its owner acts in.
    fn role(&self) -> TlsRole {
        self.dialled.map_or(TlsRole::Client, |_| TlsRole::Server)
    }
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
        anchors: TrustAnchors,
        webpki: WebPki,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self {
            policy,
            anchors,
            webpki,
            algorithms,
            believed: RwLock::default(),
        }
    }

    /// The peer policy.
    pub(super) fn policy(&self) -> &PeerPolicy {
        &self.policy
    }

    /// WebPKI and policy.
    pub(super) fn judge(&self, chain: Chain<'_>, now: UnixTime) -> Result<Grant, Error> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let believed = self.believed(time)?;
        let known = believed.known(chain);
        let known = known.filter(|end_entity| end_entity.is_valid_at(time));
        if known.is_some() {
            return self.decision(chain, known).into_result().map_err(refused);
        }
        let Chain {
            end_entity,
            intermediates,
            dialled,
        } = chain;
        if dialled.is_some() {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let all = self.algorithms.all;
            let roots = &believed.anchors.roots;
            // No name is compared here: ours are SPIFFE IDs, and the policy compares them.
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                roots,
                intermediates,
                now,
                all,
            )?;
        } else {
            let clients = &believed.clients;
            clients.verify_client_cert(end_entity, intermediates, now)?;
        }
        let grant = self.decision(chain, None).into_result().map_err(refused)?;
        believed.remember(chain, &grant);
        Ok(grant)
    }

    /// The policy alone.
    #[cfg(unix)]
    pub(super) fn decide(&self, chain: Chain<'_>) -> Decision {
        let known = self.last().and_then(|believed| believed.known(chain));
        self.decision(chain, known)
    }

    fn decision(&self, chain: Chain<'_>, known: Option<Arc<EndEntity>>) -> Decision {
        let presented = Presented {
            end_entity: chain.end_entity,
            role: chain.role(),
            dialled: chain
                .dialled
                .map(|dialled| (&dialled.peer, dialled.address)),
        };
        match known {
            Some(end_entity) => self.policy.decide_read(&end_entity, presented),
            None => self.policy.decide(presented),
        }
    }

    fn last(&self) -> Option<Arc<Believed>> {
        let believed = self.believed.read();
        believed.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What we go by at `now`: made anew when an anchor has come into its validity or left it.
    fn believed(&self, now: SystemTime) -> Result<Arc<Believed>, Error> {
        if let Some(last) = self.last()
            && last.anchors.are_so_at(now)
        {
            return Ok(last);
        }
        let anchors = self.anchors.at(now).map_err(not_believed)?;
        let clients = (self.webpki)(anchors.roots.clone());
        let believed = Arc::new(Believed {
            clients: clients.map_err(|error| Error::General(error.to_string()))?,
            anchors,
            granted: Mutex::default(),
        });
        let mut last = self
            .believed
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(last.insert(believed).clone())
    }
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Judge");
        shown.field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// The same for anchors of which none is in its validity.
fn not_believed(error: AnchorError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
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

#[cfg(test)]
mod tests;
