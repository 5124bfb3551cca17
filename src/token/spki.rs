//! SubjectPublicKeyInfo from what a token tells about a public key. Tokens rarely fill
//! CKA_PUBLIC_KEY_INFO, so it is built here.

use der::asn1::{AnyRef, BitString, ObjectIdentifier, OctetStringRef, UintRef};
use der::{Decode, Encode, Sequence};
use spki::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::KeyKind;

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// A public key, and what kind it is.
pub(super) struct Public {
    pub(super) kind: KeyKind,
    pub(super) spki_der: Vec<u8>,
}

/// `RSAPublicKey` (RFC 8017 §A.1.1).
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    public_exponent: UintRef<'a>,
}

/// An ECDSA key from CKA_EC_PARAMS and CKA_EC_POINT. The error says what is wrong with them.
pub(super) fn ec(params: &[u8], point: &[u8]) -> Result<Public, String> {
    let curve = ObjectIdentifier::from_der(params)
        .map_err(|error| format!("CKA_EC_PARAMS is not the OID of a named curve ({error})"))?;
    let (kind, length) = match curve {
        P256 => (KeyKind::P256, 65),
        P384 => (KeyKind::P384, 97),
        other => return Err(format!("the curve {other} is neither P-256 nor P-384")),
    };
    let point = raw_point(point, length)
        .filter(|point| point[0] == 0x04)
        .ok_or_else(|| format!("CKA_EC_POINT is not an uncompressed point of {length} bytes"))?;
    let parameters = Some(AnyRef::from(&curve));
    Ok(Public {
        kind,
        spki_der: encode(EC_PUBLIC_KEY, parameters, point)?,
    })
}

/// An Ed25519 key. CKA_EC_PARAMS is the OID or the curve's name (PKCS#11 v3.1 §6.3.5); CKA_EC_POINT
/// is 32 bytes plain (kryoptic) or as OCTET STRING (SoftHSM).
pub(super) fn edwards(params: &[u8], point: &[u8]) -> Result<Public, String> {
    let named = params == [&[0x13, 12][..], b"edwards25519"].concat();
    if !named && ObjectIdentifier::from_der(params) != Ok(ED25519) {
        return Err("the Edwards curve is not edwards25519".to_owned());
    }
    let point = raw_point(point, 32)
        .ok_or_else(|| "CKA_EC_POINT is not 32 bytes, plain or as OCTET STRING".to_owned())?;
    Ok(Public {
        kind: KeyKind::Ed25519,
        spki_der: encode(ED25519, None, point)?,
    })
}

/// An RSA key from CKA_MODULUS and CKA_PUBLIC_EXPONENT, big endian.
pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Public, String> {
    let modulus = UintRef::new(modulus).map_err(|error| format!("CKA_MODULUS: {error}"))?;
    let public_exponent =
        UintRef::new(exponent).map_err(|error| format!("CKA_PUBLIC_EXPONENT: {error}"))?;
    let bits = match modulus.as_bytes() {
        [first, rest @ ..] => rest.len() * 8 + 8 - first.leading_zeros() as usize,
        [] => 0,
    };
    let kind = match bits {
        2048 => KeyKind::Rsa2048,
        3072 => KeyKind::Rsa3072,
        4096 => KeyKind::Rsa4096,
        other => {
            return Err(format!(
                "a modulus of {other} bits; RSA keys have 2048, 3072 or 4096"
            ));
        }
    };
    if exponent.last().is_none_or(|last| last % 2 == 0) || public_exponent.as_bytes() == [1] {
        return Err("the public exponent is even or 1".to_owned());
    }
    let key = RsaPublicKey {
        modulus,
        public_exponent,
    };
    let key = key.to_der().map_err(|error| error.to_string())?;
    Ok(Public {
        kind,
        spki_der: encode(RSA, Some(AnyRef::NULL), &key)?,
    })
}

/// The point itself, from a plain one or an OCTET STRING. The lengths cannot be mistaken: an OCTET
/// STRING of `length` bytes is two bytes longer.
fn raw_point(point: &[u8], length: usize) -> Option<&[u8]> {
    if point.len() == length {
        return Some(point);
    }
    let inner = <&OctetStringRef>::from_der(point).ok()?.as_bytes();
    (inner.len() == length).then_some(inner)
}

fn encode(
    oid: ObjectIdentifier,
    parameters: Option<AnyRef<'_>>,
    key: &[u8],
) -> Result<Vec<u8>, String> {
    let subject_public_key = BitString::from_bytes(key).map_err(|error| error.to_string())?;
    let spki = SubjectPublicKeyInfo {
        algorithm: AlgorithmIdentifier { oid, parameters },
        subject_public_key,
    };
    spki.to_der().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair,
    };

    use super::*;

    fn octet_string(bytes: &[u8]) -> Vec<u8> {
        OctetStringRef::new(bytes).unwrap().to_der().unwrap()
    }

    #[test]
    fn ec_keys_come_out_as_another_library_encodes_them() {
        for (algorithm, curve, kind) in [
            (&ECDSA_P256_SHA256_ASN1_SIGNING, P256, KeyKind::P256),
            (&ECDSA_P384_SHA384_ASN1_SIGNING, P384, KeyKind::P384),
        ] {
            let pair = EcdsaKeyPair::generate(algorithm).unwrap();
            let point = pair.public_key().as_ref();
            let expected: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
            for point in [point.to_vec(), octet_string(point)] {
                let public = ec(&curve.to_der().unwrap(), &point).unwrap();
                assert_eq!(
                    (public.kind, &public.spki_der[..]),
                    (kind, expected.as_ref())
                );
            }
            assert!(ec(&curve.to_der().unwrap(), &point[1..]).is_err());
            assert!(ec(&[], point).is_err());
        }
    }

    #[test]
    fn an_ed25519_key_may_come_plain_or_wrapped_and_its_curve_by_oid_or_name() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let point = pair.public_key().as_ref();
        let expected: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let named = [&[0x13, 12][..], b"edwards25519"].concat();
        for params in [ED25519.to_der().unwrap(), named] {
            for point in [point.to_vec(), octet_string(point)] {
                assert_eq!(
                    edwards(&params, &point).unwrap().spki_der,
                    expected.as_ref()
                );
            }
        }
        assert!(edwards(&P256.to_der().unwrap(), point).is_err());
    }

    #[test]
    fn rsa_lengths_that_are_not_ours_and_bad_exponents_are_refused() {
        let modulus = |bytes: usize| vec![0xc5; bytes];
        assert_eq!(
            rsa(&modulus(256), &[1, 0, 1]).unwrap().kind,
            KeyKind::Rsa2048
        );
        let padded = [vec![0], modulus(384)].concat();
        assert_eq!(rsa(&padded, &[0, 1, 0, 1]).unwrap().kind, KeyKind::Rsa3072);
        assert_eq!(rsa(&modulus(512), &[3]).unwrap().kind, KeyKind::Rsa4096);
        for (bytes, exponent) in [
            (128, vec![1, 0, 1]),
            (255, vec![3]),
            (256, vec![1]),
            (256, vec![2]),
            (256, vec![]),
            (0, vec![3]),
        ] {
            assert!(
                rsa(&modulus(bytes), &exponent).is_err(),
                "{bytes} {exponent:?}"
            );
        }
    }
}
