//! A certificate authority's folder: what it is, what it has issued, what it has revoked.
//!
//! ```text
//! authority.toml   name, module, key URI: how to find the key
//! ca.pem           the root certificate; its presence says that the authority exists
//! issued.jsonl     one line for each certificate, written before the certificate is handed out
//! revoked.jsonl    one line for each revocation
//! crl-number       number of the last revocation list
//! lock             held by the one command that changes the rest
//! ```
//!
//! No secret is kept here. [`Authority`] reads; only [`Books`], which hold the lock, change
//! anything.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::armour::LARGEST;
use super::as_text;
use super::certificate::{self, Built, Issuer, LeafOrder, RootOrder};
use super::crl::{self, BuiltList, ListOrder, Reason, Revoked};
use super::error::{PkiError, Refusal};
use super::ledger::Ledger;
use super::moment::Moment;
use super::names::AuthorityName;
use super::request::Request;
use super::serial::Serial;
use super::signer::Signer;
use super::store::{self, Lock, StoreError};
use crate::policy::{PeerId, SpkiPin};
use crate::role::TlsRole;
use crate::token::KeyUri;

const SETTINGS: &str = "authority.toml";
const ROOT: &str = "ca.pem";
const ISSUED: &str = "issued.jsonl";
const REVOKED: &str = "revoked.jsonl";
const LIST_NUMBER: &str = "crl-number";
/// The records of an authority that has done nothing yet. They are made with it: a record that is
/// missing later has been lost, and a list signed without it would take revocations back.
const FRESH: [(&str, &[u8]); 3] = [(ISSUED, b""), (REVOKED, b""), (LIST_NUMBER, b"0\n")];

/// `authority.toml`: how to find the authority's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The common name in `ca.pem`.
    pub name: AuthorityName,
    /// Path of the PKCS#11 module.
    pub module: PathBuf,
    /// RFC 7512 URI of the key.
    pub key: KeyUri,
}

/// A line of `issued.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// Serial number.
    pub serial: Serial,
    /// The role that the key is certified for.
    pub profile: TlsRole,
    /// The identity.
    #[serde(with = "as_text")]
    pub id: PeerId,
    /// Host names beside it.
    pub dns: Vec<String>,
    /// Addresses beside it.
    pub ip: Vec<std::net::IpAddr>,
    /// End of validity.
    pub not_after: Moment,
    /// Pin of the key.
    #[serde(with = "as_text")]
    pub spki_pin: SpkiPin,
    /// When it was issued.
    pub issued_at: Moment,
}

/// An authority that exists, open for reading.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    settings: Settings,
    issuer: Issuer,
}

/// The records of an authority, locked against every other command.
#[derive(Debug)]
pub struct Books<'a> {
    authority: &'a Authority,
    issued: Ledger<Issued>,
    revoked: Ledger<Revoked>,
    _lock: Lock,
}

impl Authority {
    /// Refuses a folder that has an authority already; call it before asking for a PIN.
    ///
    /// # Errors
    /// [`Refusal::AuthorityExists`].
    pub fn vacant(dir: &Path) -> Result<(), PkiError> {
        let in_use = |name: &str, fresh: &[u8]| match std::fs::read(dir.join(name)) {
            Ok(bytes) => bytes != fresh,
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        };
        if dir.join(ROOT).symlink_metadata().is_ok()
            || FRESH.iter().any(|(name, bytes)| in_use(name, bytes))
        {
            return Err(Refusal::AuthorityExists {
                dir: dir.display().to_string(),
            }
            .into());
        }
        Ok(())
    }

    /// Makes a new authority in `dir` (made when missing, for its owner only), with a root signed by
    /// `signer`.
    ///
    /// # Errors
    /// [`Refusal::AuthorityExists`], or [`PkiError`] when the token does not sign or a file cannot
    /// be written. After an error there is no authority, and the command can be given again.
    pub fn create(
        dir: &Path,
        settings: Settings,
        signer: &dyn Signer,
        order: &RootOrder,
    ) -> Result<(Self, Built), PkiError> {
        store::folder(dir)?;
        let _lock = Lock::take(dir)?;
        Self::vacant(dir)?;
        let root = certificate::root(signer, order)?;
        let issuer = Issuer::from_bytes(root.pem.as_bytes())?;
        let text = toml::to_string(&settings).map_err(|error| StoreError::Damaged {
            path: dir.join(SETTINGS),
            line: 0,
            source: error.into(),
        })?;
        store::replace(&dir.join(SETTINGS), text.as_bytes())?;
        for (name, bytes) in FRESH {
            store::replace(&dir.join(name), bytes)?;
        }
        // Last: from here on the authority exists.
        store::write_new(&dir.join(ROOT), root.pem.as_bytes())?;
        Ok((
            Self {
                dir: dir.to_owned(),
                settings,
                issuer,
            },
            root,
        ))
    }

    /// Opens the authority in `dir` for reading.
    ///
    /// # Errors
    /// When `ca.pem` or `authority.toml` is missing or damaged.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        let issuer = Issuer::from_bytes(&store::read_at_most(&dir.join(ROOT), LARGEST)?)?;
        let path = dir.join(SETTINGS);
        let bytes = store::read_at_most(&path, LARGEST)?;
        let settings = std::str::from_utf8(&bytes)
            .map_err(|error| error.to_string())
            .and_then(|text| toml::from_str(text).map_err(|error| error.to_string()))
            .map_err(|error| StoreError::Damaged {
                path,
                line: 0,
                source: error.into(),
            })?;
        Ok(Self {
            dir: dir.to_owned(),
            settings,
            issuer,
        })
    }

    /// How to find its key.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The file of its certificate.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join(ROOT)
    }

    /// Its certificate, as issuer.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Locks the records, waiting up to half a minute for another command. Take the PIN before.
    ///
    /// # Errors
    /// [`StoreError::Busy`], or a damaged record.
    pub fn lock(&self) -> Result<Books<'_>, PkiError> {
        let lock = Lock::take(&self.dir)?;
        Ok(Books {
            authority: self,
            issued: Ledger::open(&self.dir.join(ISSUED))?,
            revoked: Ledger::open(&self.dir.join(REVOKED))?,
            _lock: lock,
        })
    }
}

impl Books<'_> {
    /// Issues a certificate for the key of `request`. It is in the records when this returns.
    ///
    /// # Errors
    /// [`Refusal`] when the key is certified for the other role, was revoked as compromised, or is
    /// the authority's own; [`PkiError`] when the token does not sign or a file cannot be written.
    pub fn issue(
        &mut self,
        signer: &dyn Signer,
        request: &Request,
        order: &LeafOrder,
    ) -> Result<(Issued, Built), PkiError> {
        let spki_pin = SpkiPin::of_spki(request.public_key().spki_der());
        self.check_key(spki_pin, order.role)?;
        if self.issuance(&order.serial).is_some() {
            return Err(Refusal::SerialUsed {
                serial: order.serial.clone(),
            }
            .into());
        }
        let issuer = &self.authority.issuer;
        let built = certificate::leaf(signer, issuer, request.public_key(), order)?;
        let line = Issued {
            serial: order.serial.clone(),
            profile: order.role,
            id: order.id.clone(),
            dns: order.dns.iter().map(ToString::to_string).collect(),
            ip: order.ip.clone(),
            not_after: built.not_after,
            spki_pin,
            issued_at: order.now,
        };
        self.issued.push(line.clone())?;
        Ok((line, built))
    }

    fn check_key(&self, spki_pin: SpkiPin, role: TlsRole) -> Result<(), Refusal> {
        for earlier in self
            .issued
            .entries()
            .iter()
            .filter(|issued| issued.spki_pin == spki_pin)
        {
            let serial = earlier.serial.clone();
            if earlier.profile != role {
                return Err(Refusal::OtherRole {
                    role: earlier.profile,
                    serial,
                });
            }
            if self
                .revocation(&serial)
                .is_some_and(|it| it.reason == Reason::KeyCompromise)
            {
                return Err(Refusal::Compromised { serial });
            }
        }
        Ok(())
    }

    fn revocation(&self, serial: &Serial) -> Option<&Revoked> {
        self.revoked
            .entries()
            .iter()
            .find(|revoked| revoked.serial == *serial)
    }

    /// Records the revocation of a certificate by its serial number. It takes effect with the next
    /// list.
    ///
    /// # Errors
    /// [`Refusal::UnknownSerial`], [`Refusal::AlreadyRevoked`], or a file that cannot be written.
    pub fn revoke_serial(
        &mut self,
        serial: Serial,
        reason: Reason,
        now: Moment,
    ) -> Result<Issued, PkiError> {
        let Some(issued) = self.issuance(&serial).cloned() else {
            return Err(Refusal::UnknownSerial { serial }.into());
        };
        self.record(Revoked {
            serial,
            at: now,
            reason,
        })?;
        Ok(issued)
    }

    /// Records the revocation of the certificate in a file's bytes. The authority's signature is
    /// proof enough: a certificate that is missing in the records, because they were restored from
    /// an older copy or because somebody else got at the key, can be revoked too, and gives `None`.
    ///
    /// # Errors
    /// [`Refusal::OtherIssuer`], [`Refusal::OwnCertificate`], [`Refusal::AlreadyRevoked`], no
    /// certificate in `bytes`, or a file that cannot be written.
    pub fn revoke_certificate(
        &mut self,
        bytes: &[u8],
        reason: Reason,
        now: Moment,
    ) -> Result<(Serial, Option<Issued>), PkiError> {
        let serial = certificate::serial_if_issued_by(&self.authority.issuer, bytes)?;
        let issued = self.issuance(&serial).cloned();
        self.record(Revoked {
            serial: serial.clone(),
            at: now,
            reason,
        })?;
        Ok((serial, issued))
    }

    fn record(&mut self, revoked: Revoked) -> Result<(), PkiError> {
        if let Some(earlier) = self.revocation(&revoked.serial) {
            let (serial, since) = (revoked.serial, earlier.at);
            return Err(Refusal::AlreadyRevoked { serial, since }.into());
        }
        Ok(self.revoked.push(revoked)?)
    }

    fn issuance(&self, serial: &Serial) -> Option<&Issued> {
        self.issued
            .entries()
            .iter()
            .find(|issued| issued.serial == *serial)
    }

    /// Makes the next revocation list. Its number is on disk before it is signed, so that no number
    /// is ever given twice.
    ///
    /// # Errors
    /// [`Refusal`] when the signer is not the authority; [`PkiError`] when the token does not sign
    /// or a file cannot be read or written.
    pub fn list(
        &mut self,
        signer: &dyn Signer,
        now: Moment,
        days: u32,
    ) -> Result<(u64, BuiltList), PkiError> {
        self.authority.issuer.check(signer, now)?;
        let number = self.next_list_number()?;
        let order = ListOrder {
            number,
            now,
            days,
            revoked: self.revoked.entries(),
        };
        Ok((number, crl::build(signer, &self.authority.issuer, &order)?))
    }

    /// How many certificates are revoked.
    pub fn revoked(&self) -> usize {
        self.revoked.entries().len()
    }

    fn next_list_number(&self) -> Result<u64, StoreError> {
        let path = self.authority.dir.join(LIST_NUMBER);
        let bytes = store::read_at_most(&path, 32)?;
        let last: u64 = String::from_utf8_lossy(&bytes).trim().parse().map_err(
            |error: std::num::ParseIntError| StoreError::Damaged {
                path: path.clone(),
                line: 1,
                source: error.into(),
            },
        )?;
        let next = last.saturating_add(1);
        store::replace(&path, format!("{next}\n").as_bytes())?;
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
                serial: Serial::from_random([1; 16]),
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
                serial: Serial::from_random([self.serials; 16]),
                now: now(),
                days: 90,
            }
        }

        fn issue(
            &mut self,
            key: &SoftwareDouble,
            role: TlsRole,
        ) -> Result<(Issued, Built), PkiError> {
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
        order.serial = Serial::from_random([9; 16]);
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
        let unknown = Serial::from_random([99; 16]);
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
}
