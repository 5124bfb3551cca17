//! What the policy needs to know of an end entity certificate, read straight from its DER.
//!
//! Nothing is verified here: WebPKI has done that, on the same bytes, before anyone asks us.

use std::time::SystemTime;

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::{ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH};
use const_oid::db::rfc5912::{
    ID_CE_BASIC_CONSTRAINTS, ID_CE_EXT_KEY_USAGE, ID_CE_KEY_USAGE, ID_CE_SUBJECT_ALT_NAME,
};
use der::asn1::{AnyRef, OctetStringRef};
use der::{Decode, Reader, SliceReader, Tag, TagNumber, Tagged};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
use x509_cert::time::Validity;

use super::{PeerId, Reason, SpkiPin};
use crate::role::TlsRole;

/// `[0]`, the version of a TBSCertificate, and `[1]`, `[2]`, `[3]` behind its key
/// (RFC 5280 §4.1).
const VERSION: TagNumber = TagNumber(0);
const EXTENSIONS: TagNumber = TagNumber(3);
/// `uniformResourceIdentifier` in a GeneralName (RFC 5280 §4.2.1.6).
const URI: TagNumber = TagNumber(6);

/// The identity, the role and the key that an end entity certificate claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndEntity {
    id: PeerId,
    role: TlsRole,
    pin: SpkiPin,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: Box<[u8]>,
}

impl EndEntity {
    /// Reads a DER certificate that must be of our profile: not an authority's, exactly one URI
    /// name, which is a SPIFFE ID, exactly one extended key usage, `serverAuth` or
    /// `clientAuth`, and a key usage, if there is one, for signatures and none of an authority.
    ///
    /// # Errors
    /// The [`Reason`] why it is not.
    pub fn read(certificate: &[u8]) -> Result<Self, Reason> {
        let fields = Fields::read(certificate).map_err(unreadable)?;
        if fields.is_authority {
            return Err(Reason::AuthorityCertificate);
        }
        let id = match fields.uris.as_slice() {
            [] => return Err(Reason::NoIdentity),
            [uri] => match std::str::from_utf8(uri).ok().map(str::parse) {
                Some(Ok(id)) => id,
                _ => return Err(Reason::MalformedIdentity),
            },
            _ => return Err(Reason::SeveralIdentities),
        };
        let role = match fields.usages.as_slice() {
            [ID_KP_SERVER_AUTH] => TlsRole::Server,
            [ID_KP_CLIENT_AUTH] => TlsRole::Client,
            _ => return Err(Reason::WrongExtendedKeyUsage),
        };
        if !fields.may_sign {
            return Err(Reason::WrongKeyUsage);
        }
        Ok(Self {
            id,
            role,
            pin: SpkiPin::of_spki(fields.spki),
            not_before: fields.not_before,
            not_after: fields.not_after,
            serial: fields.serial.into(),
        })
    }

    /// The URI subject alternative name.
    pub fn id(&self) -> &PeerId {
        &self.id
    }

    /// The role that its extended key usage allows.
    pub fn role(&self) -> TlsRole {
        self.role
    }

    /// The pin of its public key.
    pub fn pin(&self) -> SpkiPin {
        self.pin
    }

    /// The end of its validity (RFC 5280 §4.1.2.5).
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether `now` is in its validity, both ends included (RFC 5280 §4.1.2.5).
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// The content octets of its serial number (RFC 5280 §4.1.2.2), big endian.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }
}

/// The parts of a certificate that we look at, borrowed from its DER.
struct Fields<'a> {
    serial: &'a [u8],
    not_before: SystemTime,
    not_after: SystemTime,
    spki: &'a [u8],
    is_authority: bool,
    /// TLS handshakes, and nothing of an authority's.
    may_sign: bool,
    uris: Vec<&'a [u8]>,
    usages: Vec<ObjectIdentifier>,
}

impl<'a> Fields<'a> {
    fn read(certificate: &'a [u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(certificate)?;
        let fields = reader.sequence(|certificate| {
            let fields = certificate.sequence(Self::read_tbs)?;
            certificate.tlv_bytes()?; // signatureAlgorithm
            certificate.tlv_bytes()?; // signatureValue
            Ok::<_, der::Error>(fields)
        })?;
        reader.finish()?;
        Ok(fields)
    }

    fn read_tbs(tbs: &mut SliceReader<'a>) -> der::Result<Self> {
        if number_of(Tag::peek(tbs)?) == Some(VERSION) {
            tbs.tlv_bytes()?;
        }
        let serial = tbs.decode::<AnyRef<'a>>()?;
        serial.tag().assert_eq(Tag::Integer)?;
        tbs.tlv_bytes()?; // signature
        tbs.tlv_bytes()?; // issuer
        let validity: Validity = tbs.decode()?;
        tbs.tlv_bytes()?; // subject
        let spki = tbs.tlv_bytes()?;
        let mut fields = Self {
            serial: serial.value(),
            not_before: validity.not_before.to_system_time(),
            not_after: validity.not_after.to_system_time(),
            spki,
            is_authority: false,
            may_sign: true,
            uris: Vec::new(),
            usages: Vec::new(),
        };
        while !tbs.is_finished() {
            let field: AnyRef<'a> = tbs.decode()?;
            if number_of(field.tag()) == Some(EXTENSIONS) {
                let mut explicit = SliceReader::new(field.value())?;
                explicit.sequence(|list| fields.read_extensions(list))?;
                explicit.finish()?;
            }
        }
        Ok(fields)
    }

    fn read_extensions(&mut self, list: &mut SliceReader<'a>) -> der::Result<()> {
        let mut seen = Vec::with_capacity(8);
        while !list.is_finished() {
            let (oid, body) = list.sequence(|extension| {
                let oid: ObjectIdentifier = extension.decode()?;
                if Tag::peek(extension)? == Tag::Boolean {
                    extension.tlv_bytes()?; // critical
                }
                let body: &'a OctetStringRef = extension.decode()?;
                Ok::<_, der::Error>((oid, body.as_bytes()))
            })?;
            // RFC 5280 §4.2: no extension twice. Two readers would pick two different ones.
            if seen.contains(&oid) {
                return Err(Tag::Sequence.value_error().into());
            }
            seen.push(oid);
            self.read_extension(oid, body)?;
        }
        Ok(())
    }

    fn read_extension(&mut self, oid: ObjectIdentifier, body: &'a [u8]) -> der::Result<()> {
        match oid {
            ID_CE_BASIC_CONSTRAINTS => self.is_authority = BasicConstraints::from_der(body)?.ca,
            ID_CE_KEY_USAGE => {
                let usage = KeyUsage::from_der(body)?;
                let of_authority = usage.key_cert_sign() || usage.crl_sign();
                self.may_sign = usage.digital_signature() && !of_authority;
            }
            ID_CE_EXT_KEY_USAGE => self.usages = Vec::from_der(body)?,
            ID_CE_SUBJECT_ALT_NAME => {
                let mut reader = SliceReader::new(body)?;
                self.uris = reader.sequence(|names| {
                    let mut uris = Vec::with_capacity(1);
                    while !names.is_finished() {
                        let name: AnyRef<'a> = names.decode()?;
                        if number_of(name.tag()) == Some(URI) {
                            uris.push(name.value());
                        }
                    }
                    Ok::<_, der::Error>(uris)
                })?;
                reader.finish()?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn number_of(tag: Tag) -> Option<TagNumber> {
    match tag {
        Tag::ContextSpecific { number, .. } => Some(number),
        _ => None,
    }
}

/// A peer learns nothing from the place where its DER broke, and neither does a log.
fn unreadable(_: der::Error) -> Reason {
    Reason::UnreadableCertificate
}
