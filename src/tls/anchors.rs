//! The authorities whose certificates we believe. WebPKI takes a name and a key from a trust anchor and
//! nothing else (RFC 5280 §6.1.1); its dates and its right to sign are asked here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use der::Decode;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use x509_cert::Certificate;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

/// The last second of a validity belongs to it (RFC 5280 §4.1.2.5).
const SECOND: Duration = Duration::from_secs(1);
/// The longest that anchors are taken for those in their validity.
const RECHECK: Duration = Duration::from_secs(3600);

/// One or more root certificates.
#[derive(Clone, Debug)]
pub struct TrustAnchors(Arc<[Anchor]>);

#[derive(Debug)]
struct Anchor {
    certificate: CertificateDer<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// Why there are no [`TrustAnchors`]. They are counted from 1.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// The text is not PEM (RFC 7468).
    #[error("the trust anchors are not PEM")]
    NotPem(#[source] pem::Error),
    /// Something else stands among the certificates, such as a key.
    #[error("entry {0} of the trust anchors is not a certificate")]
    NotACertificate(usize),
    /// Not a certificate (RFC 5280 §4.1), or not one that WebPKI takes.
    #[error("trust anchor {0} cannot be read")]
    Unreadable(usize, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// `cA` is not true (RFC 5280 §4.2.1.9), or its key usage has no `keyCertSign` (§4.2.1.3).
    #[error("trust anchor {0} is not an authority's certificate")]
    NotAnAuthority(usize),
    /// Without a trust anchor no peer can be believed.
    #[error("there is no trust anchor")]
    None,
    /// All of them are expired or not yet valid.
    #[error("no trust anchor is in its validity")]
    NoneInDate,
}

/// The anchors that are in their validity, and until when these are the ones.
pub(super) struct InDate {
    pub(super) roots: Arc<RootCertStore>,
    from: SystemTime,
    until: SystemTime,
}

impl InDate {
    /// Whether they are the ones at `now`, however the clock has moved.
    pub(super) fn are_so_at(&self, now: SystemTime) -> bool {
        (self.from..self.until).contains(&now)
    }
}

impl TrustAnchors {
    /// Reads the PEM text of one or more root certificates.
    ///
    /// # Errors
    /// [`AnchorError`] when there is none or one of them is not one; dates are not asked.
    pub fn from_pem(text: &str) -> Result<Self, AnchorError> {
        let mut anchors = Vec::new();
        let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes());
        for (number, section) in (1..).zip(sections) {
            let (kind, der) = section.map_err(AnchorError::NotPem)?;
            if kind != SectionKind::Certificate {
                return Err(AnchorError::NotACertificate(number));
            }
            anchors.push(Anchor::read(&der, number)?);
        }
        match anchors.is_empty() {
            true => Err(AnchorError::None),
            false => Ok(Self(anchors.into())),
        }
    }

    /// Those that are in their validity at `now`, both ends included (RFC 5280 §4.1.2.5).
    ///
    /// # Errors
    /// [`AnchorError::NoneInDate`]
    pub(super) fn at(&self, now: SystemTime) -> Result<InDate, AnchorError> {
        let mut roots = RootCertStore::empty();
        let (mut from, mut until) = (SystemTime::UNIX_EPOCH, now + RECHECK);
        for (number, anchor) in (1..).zip(self.0.iter()) {
            for change in [anchor.not_before, anchor.not_after + SECOND] {
                match change <= now {
                    true => from = from.max(change),
                    false => until = until.min(change),
                }
            }
            if anchor.is_valid_at(now) {
                roots
                    .add(anchor.certificate.clone())
                    .map_err(|error| AnchorError::Unreadable(number, error.into()))?;
            }
        }
        match roots.is_empty() {
            true => Err(AnchorError::NoneInDate),
            false => Ok(InDate {
                roots: Arc::new(roots),
                from,
                until,
            }),
        }
    }

    /// Whether any is in its validity at `now`.
    ///
    /// # Errors
    /// [`AnchorError::NoneInDate`]
    pub fn some_at(&self, now: SystemTime) -> Result<(), AnchorError> {
        self.at(now).map(drop)
    }

    /// The numbers, counted from 1, of those that are not in their validity at `now`.
    pub fn out_of_date(&self, now: SystemTime) -> impl Iterator<Item = usize> {
        let numbered = (1..).zip(self.0.iter());
        let out = numbered.filter(move |(_, anchor)| !anchor.is_valid_at(now));
        out.map(|(number, _)| number)
    }
}

impl Anchor {
    fn is_valid_at(&self, now: SystemTime) -> bool {
        (self.not_before..self.not_after + SECOND).contains(&now)
    }

    fn read(der: &[u8], number: usize) -> Result<Self, AnchorError> {
        let unreadable = |error: der::Error| AnchorError::Unreadable(number, error.into());
        let certificate = Certificate::from_der(der).map_err(unreadable)?;
        let fields = certificate.tbs_certificate();
        let constraints = fields.get_extension::<BasicConstraints>();
        let usage = fields.get_extension::<KeyUsage>();
        let is_authority = matches!(constraints, Ok(Some((_, constraints))) if constraints.ca);
        let may_sign = match usage {
            Ok(None) => true,
            Ok(Some((_, usage))) => usage.key_cert_sign(),
            Err(_) => false,
        };
        if !is_authority || !may_sign {
            return Err(AnchorError::NotAnAuthority(number));
        }
        Ok(Self {
            certificate: CertificateDer::from(der.to_vec()),
            not_before: fields.validity().not_before.to_system_time(),
            not_after: fields.validity().not_after.to_system_time(),
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign};

    use super::*;
    use crate::policy::test_authority::{Profile, TestAuthority};
    use crate::role::TlsRole;

    fn root(profile: Profile) -> String {
        TestAuthority::like(&profile).pem()
    }

    fn authority() -> Profile {
        Profile {
            authority: true,
            key_usages: vec![KeyCertSign, CrlSign],
            ..Profile::of(TlsRole::Server, "")
        }
    }

    #[test]
    fn what_is_not_an_authoritys_certificate_is_no_anchor() {
        let good = root(authority());
        TrustAnchors::from_pem(&good).unwrap();
        let leaf = root(Profile {
            authority: false,
            ..authority()
        });
        let signs_nothing = root(Profile {
            key_usages: vec![DigitalSignature, CrlSign],
            ..authority()
        });
        for bad in [leaf, signs_nothing] {
            let error = TrustAnchors::from_pem(&(good.clone() + &bad)).unwrap_err();
            assert!(matches!(error, AnchorError::NotAnAuthority(2)), "{error}");
        }
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let error = TrustAnchors::from_pem(&(good + &key)).unwrap_err();
        assert!(matches!(error, AnchorError::NotACertificate(2)), "{error}");
        let error = TrustAnchors::from_pem("nothing").unwrap_err();
        assert!(matches!(error, AnchorError::None), "{error}");
    }

    #[test]
    fn those_in_their_validity_are_found_at_every_moment() {
        let years = |from, to| {
            root(Profile {
                years: (from, to),
                ..authority()
            })
        };
        let pem = years(2000, 2010) + &years(2005, 2020) + &years(2030, 2040);
        let anchors = TrustAnchors::from_pem(&pem).unwrap();
        let at = |year: u64, second: u64| {
            let days = (year - 1970) * 365 + (year - 1969) / 4;
            SystemTime::UNIX_EPOCH
                + Duration::from_secs(days * 86_400)
                + Duration::from_secs(second)
        };
        for (now, some, out) in [
            (at(2001, 0), 1, vec![2, 3]),
            (at(2005, 0), 2, vec![3]),
            (at(2010, 0), 2, vec![3]),
            (at(2010, 1), 1, vec![1, 3]),
            (at(2020, 1), 0, vec![1, 2, 3]),
            (at(2035, 0), 1, vec![1, 2]),
        ] {
            assert_eq!(anchors.out_of_date(now).collect::<Vec<_>>(), out);
            let found = anchors.at(now);
            assert_eq!(
                found.as_ref().map_or(0, |in_date| in_date.roots.len()),
                some
            );
            if let Ok(in_date) = found {
                assert!(in_date.are_so_at(now));
                assert!(!in_date.are_so_at(now + RECHECK));
            }
        }
        // Until the next change, and not a second longer.
        let in_date = anchors.at(at(2010, 0)).unwrap();
        assert!(!in_date.are_so_at(at(2010, 1)));
        assert!(!in_date.are_so_at(at(2004, 0)));
    }
}
