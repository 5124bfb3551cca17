//! What is remembered of a certificate, and for how long.

use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::KeyPair;
use rustls::server::WebPkiClientVerifier;

use super::*;
use crate::policy::test_authority::{Profile, TestAuthority, TestLeaf, spare_pin};
use crate::tls::blame::HandshakeError;
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
    judging(authority, &policy)
}

fn judging(authority: &TestAuthority, policy: &str) -> (Judge, Arc<AtomicUsize>) {
    let anchors = TrustAnchors::from_pem(&authority.pem()).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let webpki: WebPki = Box::new(move |roots| {
        let webpki = WebPkiClientVerifier::builder_with_provider(roots, provider());
        Ok(Arc::new(Counted(webpki.build()?, counter.clone())))
    });
    let algorithms = provider().signature_verification_algorithms;
    let policy = PeerPolicy::parse(policy).unwrap();
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
            let said = HandshakeError::from(error);
            assert!(matches!(said, HandshakeError::NoAnchorInDate), "{said:?}");
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

#[test]
fn a_server_is_remembered_and_still_has_to_be_the_one_that_was_dialled() {
    let authority = TestAuthority::new();
    let years = (2020, 2030);
    let of = |role| Profile {
        years,
        ..Profile::of(role, B)
    };
    let leaf = authority.issue(&of(TlsRole::Server));
    let (active, backup) = (leaf.pin(), spare_pin("b"));
    let policy = format!(
        "[[peer]]\nname = \"b\"\nid = \"{B}\"\naddresses = [\"127.0.0.1:1\"]\n[peer.server]\nactive = \"{active}\"\nbackup = \"{backup}\"\n"
    );
    let mut judge = judging(&authority, &policy).0;
    let end_entity = CertificateDer::from(leaf.der.clone());
    let dialled = |id: &str, port| Dialled {
        peer: id.parse().unwrap(),
        address: SocketAddr::from(([127, 0, 0, 1], port)),
    };
    let (b, other) = (dialled(B, 1), dialled("spiffe://mesh.example/node/c", 1));
    let elsewhere = dialled(B, 2);
    let judged = |judge: &Judge, dialled, year| {
        let chain = Chain {
            end_entity: &end_entity,
            intermediates: &[],
            dialled,
        };
        judge
            .judge(chain, in_year(year))
            .map_err(|error| format!("{error:?}"))
    };
    judged(&judge, Some(&b), 2025).unwrap();
    // WebPKI verifies no server any more.
    judge.algorithms.all = &[];
    let grant = judged(&judge, Some(&b), 2025).unwrap();
    assert_eq!(grant.dialled(), Some(b.address));
    for (dialled, year, refusal) in [
        (Some(&other), 2025, "NotThePeerDialled"),
        (Some(&elsewhere), 2025, "AddressNotOfPeer"),
        (None, 2025, "InvalidPurpose"),
        (Some(&b), 2031, "Expired"),
    ] {
        let error = judged(&judge, dialled, year).unwrap_err();
        assert!(error.contains(refusal), "{error}");
    }
    // What was believed then is forgotten now, so nothing is known without WebPKI.
    judged(&judge, Some(&b), 2025).unwrap_err();
}
