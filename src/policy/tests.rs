//! Decisions about real certificates: every Allow has its Deny twin.

use std::net::SocketAddr;

use rcgen::CustomExtension;

use super::test_authority::{
    CLIENT_AUTH, Profile, SERVER_AUTH, TestAuthority, TestLeaf, spare_pin,
};
use super::*;
use crate::role::TlsRole;

const B: &str = "spiffe://mesh.example/node/b";
const ADDRESS: &str = "127.0.0.1:7443";

fn leaf(profile: &Profile) -> TestLeaf {
    TestAuthority::new().issue(profile)
}

fn pins(table: &str, active: SpkiPin, backup: SpkiPin) -> String {
    format!("[peer.{table}]\nactive = \"{active}\"\nbackup = \"{backup}\"\n")
}

fn policy(id: &str, tables: &[String]) -> PeerPolicy {
    let head = format!("[[peer]]\nname = \"b\"\nid = \"{id}\"\n");
    PeerPolicy::parse(&(head + &tables.concat())).unwrap()
}

fn client(der: &[u8]) -> Presented<'_> {
    Presented {
        end_entity: der,
        role: TlsRole::Client,
        dialled: None,
    }
}

fn reason(decision: Decision) -> Reason {
    decision.into_result().expect_err("should be denied")
}

/// A policy that lists exactly this client's key.
fn listing(leaf: &TestLeaf) -> PeerPolicy {
    policy(B, &[pins("client", leaf.pin(), spare_pin("backup"))])
}

#[test]
fn a_listed_client_with_a_pinned_key_is_allowed() {
    let leaf = leaf(&Profile::of(TlsRole::Client, B));
    let grant = listing(&leaf)
        .decide(client(&leaf.der))
        .into_result()
        .unwrap();
    assert_eq!((grant.name(), grant.id().as_str()), ("b", B));
    assert_eq!(
        (grant.role(), grant.label()),
        (TlsRole::Client, PinLabel::Active)
    );
    assert_eq!(grant.end_entity().pin(), leaf.pin());
    assert_eq!(grant.dialled(), None);
    assert!(grant.end_entity().not_after() > std::time::SystemTime::now());
    assert_eq!(SpkiPin::of_certificate(&leaf.der).unwrap(), leaf.pin());
}

#[test]
fn a_key_on_the_backup_pin_is_allowed_and_says_so() {
    let leaf = leaf(&Profile::of(TlsRole::Client, B));
    let policy = policy(B, &[pins("client", spare_pin("active"), leaf.pin())]);
    let grant = policy.decide(client(&leaf.der)).into_result().unwrap();
    assert_eq!(grant.label(), PinLabel::Backup);
}

#[test]
fn a_key_that_is_not_pinned_is_refused() {
    let leaf = leaf(&Profile::of(TlsRole::Client, B));
    let policy = policy(
        B,
        &[pins("client", spare_pin("active"), spare_pin("backup"))],
    );
    assert_eq!(
        reason(policy.decide(client(&leaf.der))),
        Reason::KeyNotPinned
    );
}

#[test]
fn an_unlisted_peer_is_refused_and_an_empty_policy_refuses_all() {
    let leaf = leaf(&Profile::of(TlsRole::Client, B));
    let other = policy(
        "spiffe://mesh.example/node/c",
        &[pins("client", leaf.pin(), spare_pin("x"))],
    );
    assert_eq!(reason(other.decide(client(&leaf.der))), Reason::Unlisted);
    let empty = PeerPolicy::parse("").unwrap();
    assert_eq!(reason(empty.decide(client(&leaf.der))), Reason::Unlisted);
}

#[test]
fn a_peer_without_pins_for_the_role_may_not_act_in_it() {
    let leaf = leaf(&Profile::of(TlsRole::Client, B));
    let policy = policy(B, &[pins("server", leaf.pin(), spare_pin("backup"))]);
    assert_eq!(
        reason(policy.decide(client(&leaf.der))),
        Reason::NotInThatRole
    );
}

#[test]
fn an_extended_key_usage_that_is_not_exactly_the_roles_is_refused() {
    for usages in [
        vec![],
        vec![SERVER_AUTH],
        vec![CLIENT_AUTH, SERVER_AUTH],
        vec![SERVER_AUTH, CLIENT_AUTH],
    ] {
        let leaf = leaf(&Profile {
            usages,
            ..Profile::of(TlsRole::Client, B)
        });
        let decision = listing(&leaf).decide(client(&leaf.der));
        assert_eq!(reason(decision), Reason::WrongExtendedKeyUsage);
    }
}

#[test]
fn a_key_usage_must_be_that_of_a_peers_key() {
    use rcgen::KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign, KeyEncipherment};
    let with = |key_usages: &[_]| {
        let leaf = leaf(&Profile {
            key_usages: key_usages.to_vec(),
            ..Profile::of(TlsRole::Client, B)
        });
        listing(&leaf).decide(client(&leaf.der)).into_result()
    };
    for refused in [
        &[KeyEncipherment][..],
        &[DigitalSignature, KeyCertSign],
        &[DigitalSignature, CrlSign],
    ] {
        assert_eq!(with(refused).unwrap_err(), Reason::WrongKeyUsage);
    }
    // None at all is any.
    for granted in [&[][..], &[DigitalSignature, KeyEncipherment]] {
        with(granted).unwrap();
    }
}

#[test]
fn a_certificate_must_name_exactly_one_spiffe_id() {
    for (uris, expected) in [
        (vec![], Reason::NoIdentity),
        (
            vec![B, "spiffe://mesh.example/node/c"],
            Reason::SeveralIdentities,
        ),
        (vec![B, B], Reason::SeveralIdentities),
        (
            vec!["https://mesh.example/node/b"],
            Reason::MalformedIdentity,
        ),
        (
            vec!["spiffe://mesh.example/node/b/"],
            Reason::MalformedIdentity,
        ),
    ] {
        let uris = uris.into_iter().map(str::to_owned).collect();
        let leaf = leaf(&Profile {
            uris,
            ..Profile::of(TlsRole::Client, B)
        });
        assert_eq!(reason(listing(&leaf).decide(client(&leaf.der))), expected);
    }
}

#[test]
fn an_authority_is_no_peer() {
    let leaf = leaf(&Profile {
        authority: true,
        ..Profile::of(TlsRole::Client, B)
    });
    assert_eq!(
        reason(listing(&leaf).decide(client(&leaf.der))),
        Reason::AuthorityCertificate
    );
}

#[test]
fn an_extension_that_stands_twice_is_refused() {
    // subjectAltName, 2.5.29.17, once more, with another URI.
    let second =
        CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 0x03, 0x86, 0x01, 0x61]);
    let leaf = leaf(&Profile {
        extensions: vec![second],
        ..Profile::of(TlsRole::Client, B)
    });
    assert_eq!(
        reason(listing(&leaf).decide(client(&leaf.der))),
        Reason::UnreadableCertificate
    );
}

#[test]
fn a_server_is_allowed_only_where_and_as_whom_it_was_dialled() {
    let leaf = leaf(&Profile::of(TlsRole::Server, B));
    let tables = [pins("server", leaf.pin(), spare_pin("backup"))];
    let with_address = [
        "addresses = [\"127.0.0.1:7443\"]\n".to_owned(),
        tables.concat(),
    ];
    let policy = policy(B, &with_address);
    let (b, c): (PeerId, PeerId) = (
        B.parse().unwrap(),
        "spiffe://mesh.example/node/c".parse().unwrap(),
    );
    let (there, elsewhere): (SocketAddr, SocketAddr) =
        (ADDRESS.parse().unwrap(), "127.0.0.1:7444".parse().unwrap());
    let at = |dialled| {
        let role = TlsRole::Server;
        policy.decide(Presented {
            end_entity: &leaf.der,
            role,
            dialled,
        })
    };
    let grant = at(Some((&b, there))).into_result().unwrap();
    assert_eq!(grant.dialled(), Some(there));
    assert_eq!(reason(at(Some((&c, there)))), Reason::NotThePeerDialled);
    assert_eq!(reason(at(Some((&b, elsewhere)))), Reason::AddressNotOfPeer);
    assert_eq!(reason(at(None)), Reason::NotThePeerDialled);
    // A client certificate does not serve.
    let presented = Presented {
        role: TlsRole::Client,
        ..client(&leaf.der)
    };
    assert_eq!(
        reason(policy.decide(presented)),
        Reason::WrongExtendedKeyUsage
    );
}

#[test]
fn a_host_is_allowed_at_the_addresses_that_it_resolved_to() {
    let leaf = leaf(&Profile::of(TlsRole::Server, B));
    let text = "addresses = [\"node-b.example:7443\"]\n".to_owned();
    let policy = policy(B, &[text, pins("server", leaf.pin(), spare_pin("backup"))]);
    assert_eq!(policy.hosts().collect::<Vec<_>>(), ["node-b.example:7443"]);
    let (b, there): (PeerId, SocketAddr) = (B.parse().unwrap(), ADDRESS.parse().unwrap());
    let presented = Presented {
        end_entity: &leaf.der,
        role: TlsRole::Server,
        dialled: Some((&b, there)),
    };
    assert_eq!(reason(policy.decide(presented)), Reason::AddressNotOfPeer);
    let hosts = ResolvedHosts::from([("node-b.example:7443".to_owned(), vec![there])]);
    assert!(
        policy
            .with_resolved(&hosts)
            .decide(presented)
            .into_result()
            .is_ok()
    );
}

#[test]
fn a_grant_is_withdrawn_by_a_policy_that_no_longer_lists_the_key() {
    let leaf = leaf(&Profile::of(TlsRole::Client, B));
    let grant = listing(&leaf)
        .decide(client(&leaf.der))
        .into_result()
        .unwrap();
    let again = listing(&leaf).decide_again(&grant).into_result().unwrap();
    assert_eq!(again, grant);
    let rotated = policy(B, &[pins("client", spare_pin("x"), leaf.pin())]);
    let again = rotated.decide_again(&grant).into_result().unwrap();
    assert_eq!(again.label(), PinLabel::Backup);
    assert_eq!(
        reason(PeerPolicy::default().decide_again(&grant)),
        Reason::Unlisted
    );
    let unpinned = policy(B, &[pins("client", spare_pin("x"), spare_pin("y"))]);
    assert_eq!(reason(unpinned.decide_again(&grant)), Reason::KeyNotPinned);
}

#[test]
fn bytes_that_are_no_certificate_are_refused() {
    let leaf = leaf(&Profile::of(TlsRole::Client, B));
    let policy = listing(&leaf);
    for length in 0..leaf.der.len() {
        let cut = &leaf.der[..length];
        assert_eq!(
            reason(policy.decide(client(cut))),
            Reason::UnreadableCertificate,
            "{length}"
        );
    }
    let trailing = [&leaf.der[..], &[0]].concat();
    assert_eq!(
        reason(policy.decide(client(&trailing))),
        Reason::UnreadableCertificate
    );
}

#[test]
fn every_reason_has_a_code_that_serde_writes_too() {
    for reason in [
        Reason::UnreadableCertificate,
        Reason::AuthorityCertificate,
        Reason::NoIdentity,
        Reason::SeveralIdentities,
        Reason::MalformedIdentity,
        Reason::WrongExtendedKeyUsage,
        Reason::WrongKeyUsage,
        Reason::Unlisted,
        Reason::NotThePeerDialled,
        Reason::AddressNotOfPeer,
        Reason::NotInThatRole,
        Reason::KeyNotPinned,
    ] {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.code());
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
        proptest::prop_assert!(EndEntity::read(&bytes).is_err());
    }

    #[test]
    fn no_damage_makes_the_reader_panic(
        damage in proptest::collection::vec((0_usize..700, proptest::num::u8::ANY), 1..8),
    ) {
        let mut der = SAMPLE.with(Clone::clone);
        for (index, byte) in damage {
            if let Some(place) = der.get_mut(index) {
                *place = byte;
            }
        }
        drop(EndEntity::read(&der));
    }
}

thread_local! {
    static SAMPLE: Vec<u8> = leaf(&Profile::of(TlsRole::Client, B)).der;
}
