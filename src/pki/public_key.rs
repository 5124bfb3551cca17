//! Public keys we certify and verify with, by policy: ECDSA P-256 and P-384, RSA 2048 to 4096 bits,
//! Ed25519.

use aws_lc_rs::digest::{SHA256, digest};
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5912::{
    ID_EC_PUBLIC_KEY, ID_RSASSA_PSS, RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1,
};
use const_oid::db::rfc8410::ID_ED_25519;
use der::asn1::UintRef;
use der::{Decode, Encode, Sequence};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};

use super::algorithm;

const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// FIPS 186-5 §A.1.1: odd and larger than 2^16.
const LEAST_EXPONENT: [u8; 3] = [1, 0, 1];

/// A public key that policy allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    family: Family,
    info: SubjectPublicKeyInfoOwned,
    der: Vec<u8>,
}

/// What decides which signature algorithms fit a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    P256,
    P384,
    Rsa,
    Ed25519,
}

/// A key that is not certified here, or a signature that it did not make.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a SubjectPublicKeyInfo, or the key in it is not well formed.
    #[error("the public key is not a well-formed SubjectPublicKeyInfo")]
    Malformed(#[source] der::Error),
    /// Neither ECDSA nor RSA nor Ed25519.
    #[error("keys of type {0} are not certified: use ECDSA P-256 or P-384, RSA or Ed25519")]
    UnknownType(ObjectIdentifier),
    /// An RSA key that says it is for PSS only; our tokens and TLS peers use rsaEncryption.
    #[error("the RSA key is typed id-RSASSA-PSS: make it as a plain RSA key (rsaEncryption)")]
    PssOnly,
    /// An elliptic curve other than P-256 and P-384, or parameters written out.
    #[error("the elliptic curve is not P-256 or P-384: make a key on one of them")]
    OtherCurve,
    /// The point is not in the uncompressed form of the curve's length (RFC 5480 §2.2).
    #[error("the elliptic curve point is not in uncompressed form")]
    PointForm,
    /// RSA modulus out of range.
    #[error("the RSA key has {0} bits: make one of 2048, 3072 or 4096 bits")]
    RsaSize(usize),
    /// RSA public exponent too small or even.
    #[error("the RSA public exponent is too small or even: use 65537")]
    RsaExponent,
    /// The key's algorithm parameters are not those of the standard (RFC 3279 §2.3, RFC 8410 §3).
    #[error("the public key's algorithm parameters are not the standard ones")]
    Parameters,
    /// The signature algorithm does not fit the key or is too weak.
    #[error(
        "signature algorithm {0} does not fit the key or is not accepted: sign with SHA-256 or \
         longer; RSA-PSS with a salt as long as its hash"
    )]
    SignatureAlgorithm(ObjectIdentifier),
    /// The signature was not made by this key over these bytes.
    #[error("the signature was not made by this key, or the content was changed afterwards")]
    BadSignature,
}

/// RSAPublicKey (RFC 8017 §A.1.1).
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

impl PublicKey {
    /// Reads a DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7) and holds it against policy.
    ///
    /// # Errors
    /// [`KeyError`]: malformed, or a key that policy does not allow.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(KeyError::Malformed)?;
        let family = allowed(&info)?;
        Ok(Self {
            family,
            info: SubjectPublicKeyInfoOwned::from_der(der).map_err(KeyError::Malformed)?,
            der: der.to_vec(),
        })
    }

    /// Reads the key out of a certificate or a request.
    pub(super) fn from_info(info: &SubjectPublicKeyInfoOwned) -> Result<Self, KeyError> {
        Self::from_spki_der(&info.to_der().map_err(KeyError::Malformed)?)
    }

    /// The key as a DER SubjectPublicKeyInfo.
    pub fn spki_der(&self) -> &[u8] {
        &self.der
    }

    pub(super) fn info(&self) -> &SubjectPublicKeyInfoOwned {
        &self.info
    }

    /// The key's name in SKI and AKI: the first 160 bits of the SHA-256 of the BIT STRING's value
    /// (RFC 7093 §2 method 1, in place of the SHA-1 of RFC 5280 §4.2.1.2).
    pub(super) fn key_identifier(&self) -> [u8; 20] {
        let hash = digest(&SHA256, self.info.subject_public_key.raw_bytes());
        let mut identifier = [0; 20];
        identifier.copy_from_slice(&hash.as_ref()[..20]);
        identifier
    }

    /// Checks that this key signed `message` with `algorithm`.
    ///
    /// # Errors
    /// [`KeyError::SignatureAlgorithm`] when the algorithm is not acceptable for this key,
    /// [`KeyError::BadSignature`] when the signature is wrong or the point is not on its curve.
    pub(super) fn verify(
        &self,
        algorithm: AlgorithmIdentifierRef<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), KeyError> {
        let how = algorithm::verification(self.family, algorithm)
            .ok_or(KeyError::SignatureAlgorithm(algorithm.oid))?;
        let key = self.info.subject_public_key.raw_bytes();
        match aws_lc_rs::signature::UnparsedPublicKey::new(how, key).verify(message, signature) {
            Ok(()) => Ok(()),
            // `Unspecified` says nothing more.
            Err(aws_lc_rs::error::Unspecified) => Err(KeyError::BadSignature),
        }
    }
}

fn allowed(info: &SubjectPublicKeyInfoRef<'_>) -> Result<Family, KeyError> {
    let parameters = info.algorithm.parameters;
    let key = info
        .subject_public_key
        .as_bytes()
        .ok_or(KeyError::Parameters)?;
    match info.algorithm.oid {
        ID_EC_PUBLIC_KEY => {
            let curve = parameters.ok_or(KeyError::OtherCurve)?;
            let (family, point) = match curve.decode_as::<ObjectIdentifier>() {
                Ok(SECP_256_R_1) => (Family::P256, 65),
                Ok(SECP_384_R_1) => (Family::P384, 97),
                _ => return Err(KeyError::OtherCurve),
            };
            if key.len() == point && key[0] == 4 {
                Ok(family)
            } else {
                Err(KeyError::PointForm)
            }
        }
        RSA_ENCRYPTION => {
            if !parameters.is_some_and(|any| any.is_null()) {
                return Err(KeyError::Parameters);
            }
            rsa(key)
        }
        ID_RSASSA_PSS => Err(KeyError::PssOnly),
        ID_ED_25519 if parameters.is_none() && key.len() == 32 => Ok(Family::Ed25519),
        ID_ED_25519 => Err(KeyError::Parameters),
        other => Err(KeyError::UnknownType(other)),
    }
}

fn rsa(key: &[u8]) -> Result<Family, KeyError> {
    let key = RsaPublicKey::from_der(key).map_err(KeyError::Malformed)?;
    let modulus = key.modulus.as_bytes();
    let leading = modulus
        .first()
        .map_or(0, |byte| byte.leading_zeros() as usize);
    let bits = modulus.len() * 8 - leading;
    if !RSA_BITS.contains(&bits) {
        return Err(KeyError::RsaSize(bits));
    }
    let exponent = key.exponent.as_bytes();
    let large = (exponent.len(), exponent) >= (LEAST_EXPONENT.len(), &LEAST_EXPONENT[..]);
    if !large || exponent.last().is_none_or(|byte| byte % 2 == 0) {
        return Err(KeyError::RsaExponent);
    }
    Ok(Family::Rsa)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::signer::Signer;
    use crate::pki::software_double::SoftwareDouble;
    use crate::token::KeyKind;
    use const_oid::db::rfc5912::SECP_521_R_1;
    use der::asn1::{Any, BitString};
    use spki::AlgorithmIdentifierOwned;

    fn spki(oid: ObjectIdentifier, parameters: Option<Any>, key: &[u8]) -> Vec<u8> {
        SubjectPublicKeyInfoOwned {
            algorithm: AlgorithmIdentifierOwned { oid, parameters },
            subject_public_key: BitString::from_bytes(key).unwrap(),
        }
        .to_der()
        .unwrap()
    }

    fn rsa_spki(bits: usize, exponent: &[u8]) -> Vec<u8> {
        let mut modulus = vec![0xff; bits.div_ceil(8)];
        modulus[0] >>= modulus.len() * 8 - bits;
        let key = RsaPublicKey {
            modulus: UintRef::new(&modulus).unwrap(),
            exponent: UintRef::new(exponent).unwrap(),
        };
        spki(RSA_ENCRYPTION, Some(Any::null()), &key.to_der().unwrap())
    }

    fn curve(oid: ObjectIdentifier) -> Option<Any> {
        Some(Any::encode_from(&oid).unwrap())
    }

    #[test]
    fn rsa_keys_are_accepted_from_2048_to_4096_bits_with_exponent_65537() {
        for (bits, exponent, accepted) in [
            (2047, &[1, 0, 1][..], false),
            (2048, &[1, 0, 1], true),
            (2049, &[1, 0, 1], true),
            (4096, &[1, 0, 1], true),
            (4097, &[1, 0, 1], false),
            (1024, &[1, 0, 1], false),
            (2048, &[3], false),
            (2048, &[0xff, 0xff], false),
            (2048, &[1, 0, 2], false),
        ] {
            let key = PublicKey::from_spki_der(&rsa_spki(bits, exponent));
            assert_eq!(key.is_ok(), accepted, "{bits} {exponent:?}: {key:?}");
        }
    }

    #[test]
    fn other_curves_and_other_forms_of_a_point_are_refused() {
        let mut point = vec![4; 65];
        assert!(
            PublicKey::from_spki_der(&spki(ID_EC_PUBLIC_KEY, curve(SECP_256_R_1), &point)).is_ok()
        );
        for (parameters, point) in [
            (curve(SECP_521_R_1), vec![4; 133]),
            (curve(SECP_384_R_1), point.clone()),
            (None, point.clone()),
            (Some(Any::null()), point.clone()),
            (curve(SECP_256_R_1), vec![2; 33]),
            (curve(SECP_256_R_1), vec![]),
        ] {
            let der = spki(ID_EC_PUBLIC_KEY, parameters, &point);
            assert!(PublicKey::from_spki_der(&der).is_err(), "{point:?}");
        }
        point[0] = 6;
        let hybrid = spki(ID_EC_PUBLIC_KEY, curve(SECP_256_R_1), &point);
        assert!(matches!(
            PublicKey::from_spki_der(&hybrid),
            Err(KeyError::PointForm)
        ));
    }

    #[test]
    fn other_types_and_unusual_parameters_are_refused() {
        let unknown = ObjectIdentifier::new_unwrap("1.2.840.10040.4.1");
        assert!(matches!(
            PublicKey::from_spki_der(&spki(unknown, None, &[1])),
            Err(KeyError::UnknownType(_))
        ));
        assert!(matches!(
            PublicKey::from_spki_der(&spki(ID_RSASSA_PSS, None, &[1])),
            Err(KeyError::PssOnly)
        ));
        let ed25519 = spki(ID_ED_25519, Some(Any::null()), &[0; 32]);
        assert!(matches!(
            PublicKey::from_spki_der(&ed25519),
            Err(KeyError::Parameters)
        ));
    }

    #[test]
    fn every_kind_signs_what_its_own_public_key_verifies() {
        for kind in [
            KeyKind::P256,
            KeyKind::P384,
            KeyKind::Rsa2048,
            KeyKind::Ed25519,
        ] {
            let signer = SoftwareDouble::generate(kind);
            let key = PublicKey::from_spki_der(signer.spki_der()).unwrap();
            let identifier = algorithm::identifier(kind).unwrap().to_der().unwrap();
            let identifier = AlgorithmIdentifierRef::from_der(&identifier).unwrap();
            let signature = signer.sign(b"message").unwrap();
            assert!(
                key.verify(identifier, b"message", &signature).is_ok(),
                "{kind}"
            );
            let other = key.verify(identifier, b"massage", &signature);
            assert!(matches!(other, Err(KeyError::BadSignature)), "{kind}");
        }
    }
}
