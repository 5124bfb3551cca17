//! Signature algorithms by their AlgorithmIdentifier: what we sign with, and what we accept from
//! others.

use aws_lc_rs::signature::{self, VerificationAlgorithm};
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5912::{
    ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, ECDSA_WITH_SHA_512, ID_MGF_1, ID_RSASSA_PSS,
    ID_SHA_256, ID_SHA_384, ID_SHA_512, SHA_256_WITH_RSA_ENCRYPTION, SHA_384_WITH_RSA_ENCRYPTION,
    SHA_512_WITH_RSA_ENCRYPTION,
};
use const_oid::db::rfc8410::ID_ED_25519;
use der::asn1::{Any, AnyRef, Null};
use der::{Decode, Encode, Sequence};
use spki::{AlgorithmIdentifierOwned, AlgorithmIdentifierRef};

use super::public_key::Family;
use crate::token::KeyKind;

/// The AlgorithmIdentifier of the signatures that a key of this kind makes for us:
/// ecdsa-with-SHA256 and ecdsa-with-SHA384 (RFC 5758 §3.2), id-RSASSA-PSS with explicit SHA-256,
/// MGF1-SHA-256 and salt 32 (RFC 4055 §3.1), id-Ed25519 (RFC 8410 §3).
///
/// # Errors
/// When the parameters do not encode, which no input can cause.
pub fn identifier(kind: KeyKind) -> der::Result<AlgorithmIdentifierOwned> {
    let plain = |oid| AlgorithmIdentifierOwned {
        oid,
        parameters: None,
    };
    Ok(match kind {
        KeyKind::P256 => plain(ECDSA_WITH_SHA_256),
        KeyKind::P384 => plain(ECDSA_WITH_SHA_384),
        KeyKind::Ed25519 => plain(ID_ED_25519),
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => {
            // NULL is written out (RFC 4055 §2.1), as verifiers compare these bytes as a whole.
            let sha256 = AlgorithmIdentifierRef {
                oid: ID_SHA_256,
                parameters: Some(AnyRef::from(Null)),
            };
            let sha256_der = sha256.to_der()?;
            let parameters = PssParameters {
                hash: Some(sha256),
                mask: Some(AlgorithmIdentifierRef {
                    oid: ID_MGF_1,
                    parameters: Some(AnyRef::from_der(&sha256_der)?),
                }),
                salt: Some(32),
                trailer: None,
            };
            AlgorithmIdentifierOwned {
                oid: ID_RSASSA_PSS,
                parameters: Some(Any::encode_from(&parameters)?),
            }
        }
    })
}

/// How to check a signature that says it was made with `algorithm`, when that fits a key of this
/// family and is strong enough: SHA-256 or longer, PSS with a salt as long as its hash.
pub(super) fn verification(
    family: Family,
    algorithm: AlgorithmIdentifierRef<'_>,
) -> Option<&'static dyn VerificationAlgorithm> {
    let absent = algorithm.parameters.is_none();
    // RFC 4055 §5: NULL; some requests leave it out.
    let null_or_absent = algorithm.parameters.is_none_or(|any| any.is_null());
    let chosen: &'static dyn VerificationAlgorithm = match (family, algorithm.oid) {
        (Family::P256, ECDSA_WITH_SHA_256) if absent => &signature::ECDSA_P256_SHA256_ASN1,
        (Family::P256, ECDSA_WITH_SHA_384) if absent => &signature::ECDSA_P256_SHA384_ASN1,
        (Family::P256, ECDSA_WITH_SHA_512) if absent => &signature::ECDSA_P256_SHA512_ASN1,
        (Family::P384, ECDSA_WITH_SHA_256) if absent => &signature::ECDSA_P384_SHA256_ASN1,
        (Family::P384, ECDSA_WITH_SHA_384) if absent => &signature::ECDSA_P384_SHA384_ASN1,
        (Family::P384, ECDSA_WITH_SHA_512) if absent => &signature::ECDSA_P384_SHA512_ASN1,
        (Family::Ed25519, ID_ED_25519) if absent => &signature::ED25519,
        (Family::Rsa, SHA_256_WITH_RSA_ENCRYPTION) if null_or_absent => {
            &signature::RSA_PKCS1_2048_8192_SHA256
        }
        (Family::Rsa, SHA_384_WITH_RSA_ENCRYPTION) if null_or_absent => {
            &signature::RSA_PKCS1_2048_8192_SHA384
        }
        (Family::Rsa, SHA_512_WITH_RSA_ENCRYPTION) if null_or_absent => {
            &signature::RSA_PKCS1_2048_8192_SHA512
        }
        (Family::Rsa, ID_RSASSA_PSS) => match pss_hash(algorithm.parameters?)? {
            ID_SHA_256 => &signature::RSA_PSS_2048_8192_SHA256,
            ID_SHA_384 => &signature::RSA_PSS_2048_8192_SHA384,
            _ => &signature::RSA_PSS_2048_8192_SHA512,
        },
        _ => return None,
    };
    Some(chosen)
}

/// RSASSA-PSS-params (RFC 4055 §3.1). Absent fields mean SHA-1 and a salt of 20: never ours.
#[derive(Clone, Debug, Sequence)]
struct PssParameters<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    salt: Option<u16>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    trailer: Option<u8>,
}

/// The hash of acceptable parameters: one of ours, the same for MGF1, and a salt as long as it.
fn pss_hash(parameters: AnyRef<'_>) -> Option<ObjectIdentifier> {
    let parameters: PssParameters<'_> = parameters.decode_as().ok()?;
    let (hash, mask) = (parameters.hash?, parameters.mask?);
    let mask_hash: AlgorithmIdentifierRef<'_> = mask.parameters?.decode_as().ok()?;
    let salt = match hash.oid {
        ID_SHA_256 => 32,
        ID_SHA_384 => 48,
        ID_SHA_512 => 64,
        _ => return None,
    };
    let sound = mask.oid == ID_MGF_1
        && mask_hash.oid == hash.oid
        && parameters.salt == Some(salt)
        && matches!(parameters.trailer, None | Some(1));
    sound.then_some(hash.oid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `alg-rsa-pss-sha256.der` of rustls-pki-types, without the outer SEQUENCE header: webpki
    /// compares these bytes exactly.
    const WEBPKI_PSS_SHA256: &str = "06092a864886f70d01010a3034a00f300d06096086480165030402010500\
        a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_pss_identifier_is_the_one_that_webpki_knows() {
        for kind in [KeyKind::Rsa2048, KeyKind::Rsa3072, KeyKind::Rsa4096] {
            let der = identifier(kind).unwrap().to_der().unwrap();
            assert_eq!(hex(&der[2..]), WEBPKI_PSS_SHA256);
        }
    }

    #[test]
    fn the_identifiers_without_parameters_have_none() {
        for (kind, expected) in [
            (KeyKind::P256, "300a06082a8648ce3d040302"),
            (KeyKind::P384, "300a06082a8648ce3d040303"),
            (KeyKind::Ed25519, "300506032b6570"),
        ] {
            assert_eq!(hex(&identifier(kind).unwrap().to_der().unwrap()), expected);
        }
    }

    #[test]
    fn an_algorithm_for_another_kind_of_key_is_refused() {
        let ecdsa = identifier(KeyKind::P256).unwrap();
        let ecdsa = AlgorithmIdentifierRef {
            oid: ecdsa.oid,
            parameters: None,
        };
        assert!(verification(Family::P256, ecdsa).is_some());
        assert!(verification(Family::Rsa, ecdsa).is_none());
        assert!(verification(Family::Ed25519, ecdsa).is_none());
    }

    #[test]
    fn pss_with_a_salt_of_another_length_or_another_mask_hash_is_refused() {
        let sha256 = AlgorithmIdentifierRef {
            oid: ID_SHA_256,
            parameters: None,
        };
        let sha384 = AlgorithmIdentifierRef {
            oid: ID_SHA_384,
            parameters: None,
        };
        let [sha256_der, sha384_der] = [sha256, sha384].map(|hash| hash.to_der().unwrap());
        let accepted = |mask_hash: &[u8], salt| {
            let parameters = PssParameters {
                hash: Some(sha256),
                mask: Some(AlgorithmIdentifierRef {
                    oid: ID_MGF_1,
                    parameters: Some(AnyRef::from_der(mask_hash).unwrap()),
                }),
                salt,
                trailer: None,
            };
            let der = parameters.to_der().unwrap();
            pss_hash(AnyRef::from_der(&der).unwrap()).is_some()
        };
        assert!(accepted(&sha256_der, Some(32)));
        assert!(!accepted(&sha256_der, Some(222)));
        assert!(!accepted(&sha256_der, None));
        assert!(!accepted(&sha384_der, Some(32)));
    }
}
