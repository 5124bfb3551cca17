//! Certificate revocation lists (RFC 5280 §5): version 2, numbered, signed in the token.

use std::fmt;
use std::str::FromStr;

use der::Decode;
use der::pem::PemLabel;
use serde::{Deserialize, Serialize};
use x509_cert::Version;
use x509_cert::crl::{CertificateList, RevokedCert, TbsCertList};
use x509_cert::ext::pkix::{CrlNumber, CrlReason};

use super::certificate::{Issuer, plain};
use super::error::PkiError;
use super::moment::Moment;
use super::serial::Serial;
use super::signer::Signer;
use super::{algorithm, armour, as_text, signed};
use crate::policy::SpkiPin;

/// Why a certificate was revoked (RFC 5280 §5.3.1); those that an end entity can have and that are
/// final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Nothing is said.
    Unspecified,
    /// The private key is, or may be, in other hands. The key is not certified again.
    KeyCompromise,
    /// What the certificate says about its owner is no longer so.
    AffiliationChanged,
    /// Another certificate takes its place.
    Superseded,
    /// The node is gone.
    CessationOfOperation,
}

/// A reason that is not in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a reason: use key-compromise, superseded, cessation-of-operation, affiliation-changed or \
     unspecified"
)]
pub struct ReasonError;

/// One revoked certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// Its serial number.
    pub serial: Serial,
    /// When it was revoked.
    pub at: Moment,
    /// Why.
    pub reason: Reason,
    /// Pin of its key; absent in the lines of older releases.
    #[serde(default, with = "as_text::optional")]
    pub spki_pin: Option<SpkiPin>,
}

/// What a new list says.
#[derive(Clone, Debug)]
pub struct ListOrder<'a> {
    /// cRLNumber: greater than that of every earlier list (RFC 5280 §5.2.3).
    pub number: u64,
    /// The present: thisUpdate.
    pub now: Moment,
    /// Days until nextUpdate, when a reader must have a newer list; shortened to the issuer's end.
    pub days: u32,
    /// The revoked certificates.
    pub revoked: &'a [Revoked],
}

/// A list that was built, signed and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltList {
    /// The list in PEM.
    pub pem: String,
    /// Its nextUpdate.
    pub next_update: Moment,
}

/// Makes a revocation list, signed by `signer` in the name of `issuer`.
///
/// # Errors
/// [`Refusal`](super::Refusal) when the signer is not the issuer or the issuer has expired;
/// [`PkiError`] when the token does not sign or the result fails its check.
pub fn build(
    signer: &dyn Signer,
    issuer: &Issuer,
    order: &ListOrder<'_>,
) -> Result<BuiltList, PkiError> {
    issuer.check(signer, order.now)?;
    let next_update = order.now.plus_days(order.days)?.min(issuer.not_after());
    let content = content(signer, issuer, order, next_update).map_err(PkiError::Encoding)?;
    let der = signed::seal(&content, signer, issuer.public_key())?;
    let list: CertificateList = CertificateList::from_der(&der).map_err(PkiError::Encoding)?;
    if list.tbs_cert_list != content {
        return Err(PkiError::ReadBack("revocation list"));
    }
    Ok(BuiltList {
        pem: armour::pem(<CertificateList>::PEM_LABEL, &der)?,
        next_update,
    })
}

fn content(
    signer: &dyn Signer,
    issuer: &Issuer,
    order: &ListOrder<'_>,
    next_update: Moment,
) -> der::Result<TbsCertList> {
    let entries: Vec<RevokedCert> = order
        .revoked
        .iter()
        .map(entry)
        .collect::<der::Result<_>>()?;
    Ok(TbsCertList {
        version: Version::V2,
        signature: algorithm::identifier(signer.kind())?,
        issuer: issuer.name().clone(),
        this_update: order.now.to_x509(),
        next_update: Some(next_update.to_x509()),
        // RFC 5280 §5.1.2.6: absent, not empty.
        revoked_certificates: (!entries.is_empty()).then_some(entries),
        crl_extensions: Some(vec![
            plain(&issuer.key_identifier()?)?,
            plain(&CrlNumber::try_from(order.number)?)?,
        ]),
    })
}

fn entry(revoked: &Revoked) -> der::Result<RevokedCert> {
    let code = match revoked.reason {
        // RFC 5280 §5.3.1: absent rather than unspecified (0).
        Reason::Unspecified => None,
        Reason::KeyCompromise => Some(CrlReason::KeyCompromise),
        Reason::AffiliationChanged => Some(CrlReason::AffiliationChanged),
        Reason::Superseded => Some(CrlReason::Superseded),
        Reason::CessationOfOperation => Some(CrlReason::CessationOfOperation),
    };
    Ok(RevokedCert {
        serial_number: revoked.serial.to_x509()?,
        revocation_date: revoked.at.to_x509(),
        crl_entry_extensions: code
            .map(|code| plain(&code))
            .transpose()?
            .map(|it| vec![it]),
    })
}

impl FromStr for Reason {
    type Err = ReasonError;

    fn from_str(text: &str) -> Result<Self, ReasonError> {
        [
            Self::Unspecified,
            Self::KeyCompromise,
            Self::AffiliationChanged,
            Self::Superseded,
            Self::CessationOfOperation,
        ]
        .into_iter()
        .find(|reason| reason.to_string() == text)
        .ok_or(ReasonError)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::AffiliationChanged => "affiliation-changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
        })
    }
}
