//! Certificates (RFC 5280 §4): the authority's root, and end entities of exactly one TLS role.

use std::net::IpAddr;
use std::time::Duration;

use const_oid::AssociatedOid;
use const_oid::db::rfc5280::{ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH};
use der::asn1::{Ia5String, OctetString};
use der::pem::PemLabel;
use der::{Decode, Encode, Sequence};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages,
    SubjectAltName, SubjectKeyIdentifier,
};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::Validity;
use x509_cert::{Certificate, Version};

use super::armour::{self, Content};
use super::error::{PkiError, Refusal};
use super::moment::Moment;
use super::names::{AuthorityName, DnsName, NameError};
use super::public_key::PublicKey;
use super::serial::Serial;
use super::signer::Signer;
use super::{algorithm, signed, subject};
use crate::policy::{EndEntity, PeerId, SpkiPin};
use crate::role::TlsRole;

/// How far back certificates begin, for peers whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(5 * 60);
/// Most DNS names and addresses in one certificate.
const MOST_NAMES: usize = 32;

/// What the root of a new authority says.
#[derive(Clone, Debug)]
pub struct RootOrder {
    /// Its common name.
    pub name: AuthorityName,
    /// Its serial number.
    pub serial: Serial,
    /// The present.
    pub now: Moment,
    /// Validity from now on, in days.
    pub days: u32,
}

/// What an end entity's certificate says. Nothing of it comes from the request but the key.
#[derive(Clone, Debug)]
pub struct LeafOrder {
    /// The one role that it is for: the extended key usage.
    pub role: TlsRole,
    /// The identity: the URI in the subject alternative name.
    pub id: PeerId,
    /// Host names beside it.
    pub dns: Vec<DnsName>,
    /// Addresses beside it.
    pub ip: Vec<IpAddr>,
    /// Its serial number.
    pub serial: Serial,
    /// The present.
    pub now: Moment,
    /// Validity from now on, in days; shortened to the issuer's end.
    pub days: u32,
}

/// A certificate that was built, signed and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The certificate in PEM.
    pub pem: String,
    /// The certificate in DER.
    pub der: Vec<u8>,
    /// Its end.
    pub not_after: Moment,
}

/// An authority's own certificate, as issuer.
#[derive(Clone, Debug)]
pub struct Issuer {
    name: Name,
    not_after: Moment,
    public_key: PublicKey,
}

impl Issuer {
    /// Reads a root certificate and checks its own signature.
    ///
    /// # Errors
    /// When it is not a certificate, not self-signed, or has a key outside policy.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PkiError> {
        let (certificate, der) = read(bytes)?;
        let content = certificate.tbs_certificate();
        let public_key = PublicKey::from_info(content.subject_public_key_info())?;
        signed::verify(&der, &public_key)?;
        Ok(Self {
            name: content.subject().clone(),
            not_after: content.validity().not_after.into(),
            public_key,
        })
    }

    /// Its public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The end of its certificate.
    pub fn not_after(&self) -> Moment {
        self.not_after
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    pub(super) fn key_identifier(&self) -> der::Result<AuthorityKeyIdentifier> {
        Ok(AuthorityKeyIdentifier {
            key_identifier: Some(OctetString::new(self.public_key.key_identifier())?),
            ..AuthorityKeyIdentifier::default()
        })
    }

    /// Refuses a signer that is not this issuer, and an issuer whose time is over.
    pub(super) fn check(&self, signer: &dyn Signer, now: Moment) -> Result<(), Refusal> {
        if signer.spki_der() != self.public_key.spki_der() {
            return Err(Refusal::OtherSigner);
        }
        if self.not_after <= now {
            return Err(Refusal::AuthorityExpired {
                not_after: self.not_after,
            });
        }
        Ok(())
    }
}

/// Makes a root certificate: version 3, self-signed by `signer`, no intermediates below it, key
/// usage keyCertSign and cRLSign, and no name constraints (webpki refuses every URI name below a
/// URI constraint).
///
/// # Errors
/// [`PkiError`] when the token does not sign or the result fails its check.
pub fn root(signer: &dyn Signer, order: &RootOrder) -> Result<Built, PkiError> {
    let public_key = PublicKey::from_spki_der(signer.spki_der())?;
    let name = subject::common_name(order.name.as_str()).map_err(PkiError::Encoding)?;
    let extensions = || {
        Ok(vec![
            critical(&BasicConstraints {
                ca: true,
                path_len_constraint: Some(0),
            })?,
            critical(&KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign))?,
            plain(&key_identifier(&public_key)?)?,
        ])
    };
    let not_after = order.now.plus_days(order.days)?;
    let content = Content3 {
        version: Version::V3,
        serial: order.serial.to_x509().map_err(PkiError::Encoding)?,
        signature: algorithm::identifier(signer.kind()).map_err(PkiError::Encoding)?,
        issuer: name.clone(),
        validity: Validity::new(order.now.minus(BACKDATED)?.to_x509(), not_after.to_x509()),
        subject: name,
        public_key: public_key.info().clone(),
        extensions: extensions().map_err(PkiError::Encoding)?,
    };
    finish(&content, signer, &public_key, not_after)
}

/// Makes an end entity's certificate for `public_key`, signed by `signer` in the name of `issuer`:
/// exactly one extended key usage, key usage digitalSignature, the id as URI name. It ends after
/// `days`, or with its issuer when that is earlier.
///
/// # Errors
/// [`Refusal`] when the signer is not the issuer, the issuer has expired, or the key is the
/// issuer's own; [`PkiError`] when the token does not sign or the result fails its check.
pub fn leaf(
    signer: &dyn Signer,
    issuer: &Issuer,
    public_key: &PublicKey,
    order: &LeafOrder,
) -> Result<Built, PkiError> {
    issuer.check(signer, order.now)?;
    if public_key.spki_der() == issuer.public_key.spki_der() {
        return Err(Refusal::AuthorityKey.into());
    }
    if order.dns.len() + order.ip.len() > MOST_NAMES {
        return Err(NameError::TooMany(MOST_NAMES).into());
    }
    let usage = match order.role {
        TlsRole::Server => ID_KP_SERVER_AUTH,
        TlsRole::Client => ID_KP_CLIENT_AUTH,
    };
    let extensions = || {
        Ok(vec![
            critical(&BasicConstraints {
                ca: false,
                path_len_constraint: None,
            })?,
            critical(&KeyUsage(KeyUsages::DigitalSignature.into()))?,
            plain(&ExtendedKeyUsage(vec![usage]))?,
            plain(&key_identifier(public_key)?)?,
            plain(&issuer.key_identifier()?)?,
            plain(&names(order)?)?,
        ])
    };
    let not_after = order.now.plus_days(order.days)?.min(issuer.not_after);
    let content = Content3 {
        version: Version::V3,
        serial: order.serial.to_x509().map_err(PkiError::Encoding)?,
        signature: algorithm::identifier(signer.kind()).map_err(PkiError::Encoding)?,
        issuer: issuer.name.clone(),
        validity: Validity::new(order.now.minus(BACKDATED)?.to_x509(), not_after.to_x509()),
        subject: subject::of_identity(&order.id).map_err(PkiError::Encoding)?,
        public_key: public_key.info().clone(),
        extensions: extensions().map_err(PkiError::Encoding)?,
    };
    let built = finish(&content, signer, &issuer.public_key, not_after)?;
    match EndEntity::read(&built.der) {
        Ok(read)
            if read.id() == &order.id
                && read.role() == order.role
                && read.pin() == SpkiPin::of_spki(public_key.spki_der()) =>
        {
            Ok(built)
        }
        _ => Err(PkiError::ReadBack("what a peer's policy sees")),
    }
}

/// The serial number of a certificate in a file's bytes, when `issuer` signed it.
///
/// # Errors
/// When it is not a certificate; [`Refusal::OtherIssuer`]; [`Refusal::OwnCertificate`] for the
/// issuer's own.
pub fn if_issued_by(issuer: &Issuer, bytes: &[u8]) -> Result<(Serial, SpkiPin), PkiError> {
    let (certificate, der) = read(bytes)?;
    let content = certificate.tbs_certificate();
    // A list of revocations is an issuer's name's, not a key's (RFC 5280 §5.1.2.3).
    if content.issuer() != &issuer.name || signed::verify(&der, &issuer.public_key).is_err() {
        return Err(Refusal::OtherIssuer.into());
    }
    if content.subject() == &issuer.name {
        return Err(Refusal::OwnCertificate.into());
    }
    let spki = content
        .subject_public_key_info()
        .to_der()
        .map_err(PkiError::Encoding)?;
    let serial = Serial::from_x509(content.serial_number())?;
    Ok((serial, SpkiPin::of_spki(&spki)))
}

/// TBSCertificate, version 3 (RFC 5280 §4.1). The one of x509-cert cannot be filled from outside.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct Content3 {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: Version,
    serial: SerialNumber,
    signature: AlgorithmIdentifierOwned,
    issuer: Name,
    validity: Validity,
    subject: Name,
    public_key: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Vec<Extension>,
}

/// Signs, checks the signature with the issuer's key, and reads the result back with a parser that
/// did not write it.
fn finish(
    content: &Content3,
    signer: &dyn Signer,
    issuer: &PublicKey,
    not_after: Moment,
) -> Result<Built, PkiError> {
    let der = signed::seal(content, signer, issuer)?;
    let certificate = Certificate::from_der(&der).map_err(PkiError::Encoding)?;
    let read = certificate.tbs_certificate();
    if certificate.signature_algorithm() != read.signature() {
        return Err(PkiError::ReadBack("signature algorithm"));
    }
    if read.subject_public_key_info() != &content.public_key {
        return Err(PkiError::ReadBack("public key"));
    }
    if Moment::from(read.validity().not_after) != not_after {
        return Err(PkiError::ReadBack("validity"));
    }
    if read.extensions() != Some(&content.extensions) {
        return Err(PkiError::ReadBack("extensions"));
    }
    Ok(Built {
        pem: armour::pem(Certificate::PEM_LABEL, &der)?,
        der,
        not_after,
    })
}

fn read(bytes: &[u8]) -> Result<(Certificate, Vec<u8>), PkiError> {
    let object = armour::read(bytes)?;
    if object.content != Content::Certificate {
        return Err(PkiError::OtherContent {
            wanted: "certificate",
        });
    }
    let certificate =
        Certificate::from_der(&object.der).map_err(PkiError::malformed("certificate"))?;
    Ok((certificate, object.der))
}

fn names(order: &LeafOrder) -> der::Result<SubjectAltName> {
    let id = GeneralName::UniformResourceIdentifier(Ia5String::new(order.id.as_str())?);
    let mut names = vec![id];
    for name in &order.dns {
        names.push(GeneralName::DnsName(Ia5String::new(name.as_str())?));
    }
    names.extend(order.ip.iter().copied().map(GeneralName::from));
    Ok(SubjectAltName(names))
}

fn key_identifier(key: &PublicKey) -> der::Result<SubjectKeyIdentifier> {
    Ok(SubjectKeyIdentifier(OctetString::new(
        key.key_identifier(),
    )?))
}

fn critical<T: AssociatedOid + Encode>(value: &T) -> der::Result<Extension> {
    extension(true, value)
}

pub(super) fn plain<T: AssociatedOid + Encode>(value: &T) -> der::Result<Extension> {
    extension(false, value)
}

fn extension<T: AssociatedOid + Encode>(critical: bool, value: &T) -> der::Result<Extension> {
    Ok(Extension {
        extn_id: T::OID,
        critical,
        extn_value: OctetString::new(value.to_der()?)?,
    })
}
