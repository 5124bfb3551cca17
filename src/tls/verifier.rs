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
use crate::policy::{Decision, Grant, PeerId, PeerPolicy, Presented, Reason};
use crate::role::TlsRole;

/// Certificates of clients that are kept in mind, more than most policies have peers.
const REMEMBERED: usize = 256;

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
    /// What was granted to clients whose certificates an anchor itself signed, by the bytes of these.
    /// Neither that signature nor what stands in the bytes can change while this lives: only the
    /// certificate's dates and the policy are asked again.
    granted: Mutex<HashMap<Box<[u8]>, Grant>>,
}

impl Believed {
    fn granted(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Grant>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, chain: Chain<'_>) -> Option<Grant> {
        match chain.is_of_a_client_alone() {
            true => self.granted().get(chain.end_entity.as_ref()).cloned(),
            false => None,
        }
    }

    fn remember(&self, chain: Chain<'_>, grant: &Grant) {
        if !chain.is_of_a_client_alone() {
            return;
        }
        let mut granted = self.granted();
        // Each is of a peer whose key is pinned: nobody else can fill it.
        if granted.len() >= REMEMBERED {
            granted.clear();
        }
        granted.insert(chain.end_entity.as_ref().into(), grant.clone());
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
    /// A client's, with nothing between it and an anchor.
    fn is_of_a_client_alone(&self) -> bool {
        self.dialled.is_none() && self.intermediates.is_empty()
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
        if let Some(grant) = known.filter(|grant| grant.end_entity().is_valid_at(time)) {
            return self
                .policy
                .decide_again(&grant)
                .into_result()
                .map_err(refused);
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
        let grant = self.decide(chain).into_result().map_err(refused)?;
        believed.remember(chain, &grant);
        Ok(grant)
    }

    /// The policy alone.
    pub(super) fn decide(&self, chain: Chain<'_>) -> Decision {
        let known = self.last().and_then(|believed| believed.known(chain));
        if let Some(grant) = known {
            return self.policy.decide_again(&grant);
        }
        self.policy.decide(Presented {
            end_entity: chain.end_entity,
            role: chain.dialled.map_or(TlsRole::Client, |_| TlsRole::Server),
            dialled: chain
                .dialled
                .map(|dialled| (&dialled.peer, dialled.address)),
        })
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
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rcgen::KeyPair;
    use rustls::server::WebPkiClientVerifier;

    use super::*;
    use crate::policy::test_authority::{Profile, TestAuthority, TestLeaf, spare_pin};
    use crate::tls::provider::provider;

    const B: &str = "spiffe://mesh.example/node/b";

    /// WebPKI, and how often it was asked.
    #[derive(Debug)]
    struct Counted(Arc<dyn ClientCertVerifier>, Arc<AtomicUsize>);

    impl ClientCertVerifier for Counted {
        fn root_hint_subjects(&self) -> &[DistinguishedName] {
            self.0.root_hint_subjects()
        }

        fn verify_client_cert(
            &self,
            end_entity: &CertificateDer<'_>,
            intermediates: &[CertificateDer<'_>],
            now: UnixTime,
        ) -> Result<ClientCertVerified, Error> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.verify_client_cert(end_entity, intermediates, now)
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
            self.0
                .verify_tls13_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_verify_schemes()
        }
    }

    fn judge_of(authority: &TestAuthority, leaf: &TestLeaf) -> (Judge, Arc<AtomicUsize>) {
        let (active, backup) = (leaf.pin(), spare_pin("b"));
        let policy = format!(
            "[[peer]]\nname = \"b\"\nid = \"{B}\"\n[peer.client]\nactive = \"{active}\"\nbackup = \"{backup}\"\n"
        );
        let anchors = TrustAnchors::from_pem(&authority.pem()).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let webpki: WebPki = Box::new(move |roots| {
            let webpki = WebPkiClientVerifier::builder_with_provider(roots, provider());
            Ok(Arc::new(Counted(webpki.build()?, counter.clone())))
        });
        let algorithms = provider().signature_verification_algorithms;
        let policy = PeerPolicy::parse(&policy).unwrap();
        (Judge::new(policy, anchors, webpki, algorithms), asked)
    }

    fn key_and_copy() -> (KeyPair, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let copy = KeyPair::from_pem(&key.serialize_pem()).unwrap();
        (key, copy)
    }

    fn in_year(year: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_556_952))
    }

    #[test]
    fn a_granted_chain_is_verified_once_and_its_dates_every_time() {
        let authority = TestAuthority::new();
        let years = (2020, 2030);
        let leaf = authority.issue(&Profile {
            years,
            ..Profile::of(TlsRole::Client, B)
        });
        let (judge, asked) = judge_of(&authority, &leaf);
        let end_entity = CertificateDer::from(leaf.der.clone());
        let alone = Chain {
            end_entity: &end_entity,
            intermediates: &[],
            dialled: None,
        };
        for _ in 0..3 {
            judge.judge(alone, in_year(2025)).unwrap();
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);

        for (year, refusal) in [(2019, "NotValidYet"), (2031, "Expired")] {
            let error = judge.judge(alone, in_year(year)).unwrap_err();
            assert!(format!("{error:?}").contains(refusal), "{error:?}");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        let more = [end_entity.clone()];
        let with_more = Chain {
            intermediates: &more,
            ..alone
        };
        judge.judge(with_more, in_year(2025)).unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn an_anchor_is_believed_in_its_validity_alone_and_forgets_what_was_granted_under_it() {
        let years = (2024, 2028);
        let authority = TestAuthority::like(&Profile {
            years,
            authority: true,
            key_usages: Vec::new(),
            ..Profile::of(TlsRole::Server, B)
        });
        let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
        let (judge, asked) = judge_of(&authority, &leaf);
        let end_entity = CertificateDer::from(leaf.der.clone());
        let alone = Chain {
            end_entity: &end_entity,
            intermediates: &[],
            dialled: None,
        };
        for (year, granted) in [(2023, false), (2026, true), (2029, false), (2027, true)] {
            let judged = judge.judge(alone, in_year(year));
            assert_eq!(judged.is_ok(), granted, "{year}");
            if let Err(error) = judged {
                assert!(format!("{error:?}").contains("NoneInDate"), "{error:?}");
            }
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_was_refused_is_verified_again() {
        let (authority, other) = (TestAuthority::new(), TestAuthority::new());
        let (key, same) = key_and_copy();
        let leaf = authority.issue_for(&Profile::of(TlsRole::Client, B), key);
        let unpinned = authority.issue(&Profile::of(TlsRole::Client, B));
        let stranger = other.issue_for(&Profile::of(TlsRole::Client, B), same);
        let (judge, asked) = judge_of(&authority, &leaf);
        for leaf in [&unpinned, &stranger] {
            let end_entity = CertificateDer::from(leaf.der.clone());
            let alone = Chain {
                end_entity: &end_entity,
                intermediates: &[],
                dialled: None,
            };
            let before = asked.load(Ordering::Relaxed);
            for _ in 0..2 {
                judge.judge(alone, in_year(2025)).unwrap_err();
            }
            assert_eq!(asked.load(Ordering::Relaxed), before + 2);
        }
    }
}
