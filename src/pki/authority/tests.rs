use der::DecodePem;
use x509_cert::crl::CertificateList;

use super::*;
use crate::pki::certificate::LeafOrder;
use crate::pki::crl::Reason;
use crate::pki::request::Request;
use crate::pki::software_double::SoftwareDouble;
use crate::pki::{pin, request};
use crate::token::KeyKind;

struct Bench {
    folder: tempfile::TempDir,
    key: SoftwareDouble,
    serials: u8,
}

fn now() -> Moment {
    "2027-01-15T08:00:00Z".parse().unwrap()
}

fn asks(key: &SoftwareDouble) -> Request {
    Request::from_bytes(request::build(key, None).unwrap().as_bytes()).unwrap()
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
            key: SoftwareDouble::generate(KeyKind::P256),
            serials: 0,
        };
        bench.create().unwrap();
        bench
    }

    fn create(&self) -> Result<(Authority, Built), PkiError> {
        let settings = Settings {
            name: "Root".parse().unwrap(),
            module: "/module.so".into(),
            key: "pkcs11:token=ca;object=ca".parse().unwrap(),
        };
        let order = RootOrder {
            name: settings.name.clone(),
            serial: Serial::from_random([1; 16]).unwrap(),
            now: now(),
            days: 100,
        };
        Authority::create(self.folder.path(), settings, &self.key, &order)
    }

    fn authority(&self) -> Authority {
        Authority::open(self.folder.path()).unwrap()
    }

    fn order(&mut self, role: TlsRole) -> LeafOrder {
        self.serials += 1;
        LeafOrder {
            role,
            id: "spiffe://mesh.example/node/a".parse().unwrap(),
            dns: vec!["node-a".parse().unwrap()],
            ip: vec![[127, 0, 0, 1].into()],
            serial: Serial::from_random([self.serials; 16]).unwrap(),
            now: now(),
            days: 90,
        }
    }

    fn issue(&mut self, key: &SoftwareDouble, role: TlsRole) -> Result<(Issued, Built), PkiError> {
        let order = self.order(role);
        self.authority()
            .lock()?
            .issue(&self.key, &asks(key), &order)
    }

    fn revoke(&self, serial: &Serial, reason: Reason) -> Result<Issued, PkiError> {
        self.authority()
            .lock()?
            .revoke_serial(serial.clone(), reason, now())
    }
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, PkiError>) -> Refusal {
    match outcome {
        Err(PkiError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn what_was_issued_stands_in_the_records() {
    let mut bench = Bench::new();
    let key = SoftwareDouble::generate(KeyKind::P384);
    let (issued, built) = bench.issue(&key, TlsRole::Server).unwrap();
    assert_eq!(issued.not_after, built.not_after);
    let authority = bench.authority();
    let books = authority.lock().unwrap();
    assert_eq!(books.issued.entries(), [issued]);
    assert_eq!(
        pin::of_bytes(built.pem.as_bytes()).unwrap().1,
        books.issued.entries()[0].spki_pin
    );
}

#[test]
fn a_key_is_not_certified_for_both_roles() {
    let mut bench = Bench::new();
    let key = SoftwareDouble::generate(KeyKind::P256);
    let (issued, _) = bench.issue(&key, TlsRole::Server).unwrap();
    bench.issue(&key, TlsRole::Server).unwrap();
    bench.revoke(&issued.serial, Reason::Superseded).unwrap();
    let refused = refusal(bench.issue(&key, TlsRole::Client));
    assert_eq!(
        refused,
        Refusal::OtherRole {
            role: TlsRole::Server,
            serial: issued.serial
        }
    );
}

#[test]
fn a_compromised_key_is_not_certified_again_but_a_superseded_one_is() {
    let mut bench = Bench::new();
    for (reason, again) in [(Reason::Superseded, true), (Reason::KeyCompromise, false)] {
        let key = SoftwareDouble::generate(KeyKind::P256);
        let (issued, _) = bench.issue(&key, TlsRole::Client).unwrap();
        bench.revoke(&issued.serial, reason).unwrap();
        assert_eq!(
            bench.issue(&key, TlsRole::Client).is_ok(),
            again,
            "{reason}"
        );
    }
}

#[test]
fn a_key_is_certified_for_one_identity() {
    let mut bench = Bench::new();
    let key = SoftwareDouble::generate(KeyKind::P256);
    let (issued, _) = bench.issue(&key, TlsRole::Server).unwrap();
    let mut order = bench.order(TlsRole::Server);
    order.id = "spiffe://mesh.example/node/other".parse().unwrap();
    let authority = bench.authority();
    let mut books = authority.lock().unwrap();
    let refused = refusal(books.issue(&bench.key, &asks(&key), &order));
    let (id, serial) = (issued.id.clone(), issued.serial);
    assert_eq!(refused, Refusal::OtherIdentity { id, serial });
    order.id = issued.id;
    books.issue(&bench.key, &asks(&key), &order).unwrap();
}

#[test]
fn a_revoked_certificates_key_may_turn_out_to_be_compromised_later() {
    let mut bench = Bench::new();
    let key = SoftwareDouble::generate(KeyKind::P256);
    let (issued, _) = bench.issue(&key, TlsRole::Client).unwrap();
    for reason in [Reason::Unspecified, Reason::KeyCompromise] {
        bench.revoke(&issued.serial, reason).unwrap();
    }
    for reason in [Reason::KeyCompromise, Reason::Superseded] {
        let again = refusal(bench.revoke(&issued.serial, reason));
        assert!(matches!(again, Refusal::AlreadyRevoked { .. }), "{again:?}");
    }
    let refused = refusal(bench.issue(&key, TlsRole::Client));
    let serial = issued.serial.clone();
    assert_eq!(refused, Refusal::Compromised { serial });

    let authority = bench.authority();
    let mut books = authority.lock().unwrap();
    assert_eq!(books.revoked(), 1);
    let (_, list) = books.list(&bench.key, now(), 7).unwrap();
    let list: CertificateList = CertificateList::from_pem(list.pem).unwrap();
    let entries = list.tbs_cert_list.revoked_certificates.unwrap();
    assert_eq!(entries.len(), 1, "a certificate stands in a list once");
    assert!(entries[0].crl_entry_extensions.is_some(), "its reason");
}

#[test]
fn a_compromised_key_is_known_without_its_certificate_and_in_old_records() {
    let mut bench = Bench::new();
    let key = SoftwareDouble::generate(KeyKind::P256);
    let (issued, built) = bench.issue(&key, TlsRole::Server).unwrap();
    let records = std::fs::read(bench.folder.path().join(ISSUED)).unwrap();
    std::fs::write(bench.folder.path().join(ISSUED), "").unwrap();
    let revoke = |bytes: &[u8]| {
        let authority = bench.authority();
        let mut books = authority.lock().unwrap();
        books.revoke_certificate(bytes, Reason::KeyCompromise, now())
    };
    revoke(built.pem.as_bytes()).unwrap();
    let compromised = Refusal::Compromised {
        serial: issued.serial.clone(),
    };
    assert_eq!(refusal(bench.issue(&key, TlsRole::Server)), compromised);

    let old = format!(
        r#"{{"serial":"{}","at":"{}","reason":"key-compromise"}}"#,
        issued.serial,
        now()
    );
    std::fs::write(bench.folder.path().join(ISSUED), records).unwrap();
    std::fs::write(bench.folder.path().join(REVOKED), old + "\n").unwrap();
    assert_eq!(refusal(bench.issue(&key, TlsRole::Server)), compromised);
}

#[test]
fn the_authoritys_own_key_is_not_certified_as_a_node() {
    let mut bench = Bench::new();
    let order = bench.order(TlsRole::Server);
    let authority = bench.authority();
    let outcome = authority
        .lock()
        .unwrap()
        .issue(&bench.key, &asks(&bench.key), &order);
    assert_eq!(refusal(outcome), Refusal::AuthorityKey);
}

#[test]
fn another_key_in_the_token_cannot_sign_for_the_authority() {
    let mut bench = Bench::new();
    let other = SoftwareDouble::generate(KeyKind::P256);
    let order = bench.order(TlsRole::Server);
    let authority = bench.authority();
    let mut books = authority.lock().unwrap();
    assert_eq!(
        refusal(books.issue(&other, &asks(&other), &order)),
        Refusal::OtherSigner
    );
    assert_eq!(refusal(books.list(&other, now(), 7)), Refusal::OtherSigner);
}

#[test]
fn a_certificate_ends_with_the_authority_and_none_is_issued_after() {
    let mut bench = Bench::new();
    let key = SoftwareDouble::generate(KeyKind::P256);
    let mut order = bench.order(TlsRole::Server);
    order.days = 3650;
    let authority = bench.authority();
    let mut books = authority.lock().unwrap();
    let (issued, _) = books.issue(&bench.key, &asks(&key), &order).unwrap();
    assert_eq!(issued.not_after, now().plus_days(100).unwrap());
    order.now = now().plus_days(100).unwrap();
    order.serial = Serial::from_random([9; 16]).unwrap();
    let refused = refusal(books.issue(&bench.key, &asks(&key), &order));
    assert!(matches!(refused, Refusal::AuthorityExpired { .. }));
}

#[test]
fn a_broken_token_issues_nothing_and_records_nothing() {
    let mut bench = Bench::new();
    bench.key.broken = true;
    let key = SoftwareDouble::generate(KeyKind::P256);
    assert!(matches!(
        bench.issue(&key, TlsRole::Server),
        Err(PkiError::SelfCheck(_))
    ));
    assert!(
        bench
            .authority()
            .lock()
            .unwrap()
            .issued
            .entries()
            .is_empty()
    );
}

#[test]
fn a_revocation_is_recorded_once_and_only_for_what_was_issued() {
    let mut bench = Bench::new();
    let key = SoftwareDouble::generate(KeyKind::P256);
    let (issued, built) = bench.issue(&key, TlsRole::Server).unwrap();
    let unknown = Serial::from_random([99; 16]).unwrap();
    let refused = refusal(bench.revoke(&unknown, Reason::Unspecified));
    assert_eq!(refused, Refusal::UnknownSerial { serial: unknown });
    bench.revoke(&issued.serial, Reason::KeyCompromise).unwrap();
    let again = Refusal::AlreadyRevoked {
        serial: issued.serial.clone(),
        since: now(),
    };
    assert_eq!(
        refusal(bench.revoke(&issued.serial, Reason::Superseded)),
        again
    );
    let authority = bench.authority();
    let mut books = authority.lock().unwrap();
    let pem = built.pem.as_bytes();
    assert_eq!(
        refusal(books.revoke_certificate(pem, Reason::Superseded, now())),
        again
    );
}

#[test]
fn a_certificate_that_the_records_lost_can_still_be_revoked() {
    let mut bench = Bench::new();
    let key = SoftwareDouble::generate(KeyKind::P256);
    let (issued, built) = bench.issue(&key, TlsRole::Server).unwrap();
    std::fs::write(bench.folder.path().join(ISSUED), "").unwrap();
    let authority = bench.authority();
    let mut books = authority.lock().unwrap();
    let pem = built.pem.as_bytes();
    let revoked = books
        .revoke_certificate(pem, Reason::KeyCompromise, now())
        .unwrap();
    assert_eq!(revoked, (issued.serial, None));
}

#[test]
fn foreign_certificates_and_the_own_root_are_not_revoked() {
    let mut bench = Bench::new();
    let key = SoftwareDouble::generate(KeyKind::P256);
    let (_, foreign) = Bench::new().issue(&key, TlsRole::Server).unwrap();
    bench.issue(&key, TlsRole::Server).unwrap();
    let authority = bench.authority();
    let mut books = authority.lock().unwrap();
    let outcome = books.revoke_certificate(foreign.pem.as_bytes(), Reason::Superseded, now());
    assert_eq!(refusal(outcome), Refusal::OtherIssuer);
    let root = std::fs::read(bench.folder.path().join("ca.pem")).unwrap();
    let outcome = books.revoke_certificate(&root, Reason::Superseded, now());
    assert_eq!(refusal(outcome), Refusal::OwnCertificate);
}

#[test]
fn the_number_of_a_list_grows_even_when_the_token_fails() {
    let mut bench = Bench::new();
    let number = |bench: &Bench| {
        let authority = bench.authority();
        let outcome = authority.lock().unwrap().list(&bench.key, now(), 7);
        outcome.map(|(number, _)| number)
    };
    assert_eq!(number(&bench).unwrap(), 1);
    bench.key.broken = true;
    assert!(number(&bench).is_err());
    bench.key.broken = false;
    assert_eq!(number(&bench).unwrap(), 3);
    std::fs::write(bench.folder.path().join("crl-number"), "three").unwrap();
    assert!(matches!(
        number(&bench),
        Err(PkiError::Store(StoreError::Damaged { .. }))
    ));
}

#[test]
fn a_lost_record_stops_the_authority() {
    for name in [ISSUED, REVOKED, LIST_NUMBER] {
        let bench = Bench::new();
        std::fs::remove_file(bench.folder.path().join(name)).unwrap();
        let authority = bench.authority();
        let outcome = authority
            .lock()
            .and_then(|mut books| books.list(&bench.key, now(), 7));
        assert!(
            matches!(outcome, Err(PkiError::Store(StoreError::Io { .. }))),
            "{name}"
        );
    }
}

#[test]
fn an_authority_is_not_made_twice_but_can_be_after_a_crash_before_its_root() {
    let bench = Bench::new();
    assert!(matches!(
        refusal(bench.create()),
        Refusal::AuthorityExists { .. }
    ));
    std::fs::remove_file(bench.folder.path().join("ca.pem")).unwrap();
    bench.create().unwrap();
}
