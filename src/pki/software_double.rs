//! A test double of a token key: the only software signer, and only in tests.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PSS_SHA256, RsaKeyPair,
};
use const_oid::db::rfc5912::{ID_EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1};
use const_oid::db::rfc8410::ID_ED_25519;
use der::Encode;
use der::asn1::{Any, BitString};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::signer::{Signer, SignerError};
use crate::token::KeyKind;

pub(crate) struct SoftwareDouble {
    kind: KeyKind,
    pair: Pair,
    spki: Vec<u8>,
    /// Flips a bit in each signature, as a broken token would.
    pub(crate) broken: bool,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SoftwareDouble {
    pub(crate) fn generate(kind: KeyKind) -> Self {
        let rsa = |size| Pair::Rsa(RsaKeyPair::generate(size).unwrap());
        let pair = match kind {
            KeyKind::P256 => {
                Pair::Ecdsa(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
            }
            KeyKind::P384 => {
                Pair::Ecdsa(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap())
            }
            KeyKind::Rsa2048 => rsa(KeySize::Rsa2048),
            KeyKind::Rsa3072 => rsa(KeySize::Rsa3072),
            KeyKind::Rsa4096 => rsa(KeySize::Rsa4096),
            KeyKind::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate().unwrap()),
        };
        let spki = spki(kind, &pair);
        Self {
            kind,
            pair,
            spki,
            broken: false,
        }
    }
}

fn spki(kind: KeyKind, pair: &Pair) -> Vec<u8> {
    let curve = |oid| Some(Any::encode_from(&oid).unwrap());
    let (oid, parameters) = match kind {
        KeyKind::P256 => (ID_EC_PUBLIC_KEY, curve(SECP_256_R_1)),
        KeyKind::P384 => (ID_EC_PUBLIC_KEY, curve(SECP_384_R_1)),
        KeyKind::Ed25519 => (ID_ED_25519, None),
        _ => (RSA_ENCRYPTION, Some(Any::null())),
    };
    let key = match pair {
        Pair::Ecdsa(pair) => pair.public_key().as_ref(),
        Pair::Rsa(pair) => pair.public_key().as_ref(),
        Pair::Ed25519(pair) => pair.public_key().as_ref(),
    };
    SubjectPublicKeyInfoOwned {
        algorithm: AlgorithmIdentifierOwned { oid, parameters },
        subject_public_key: BitString::from_bytes(key).unwrap(),
    }
    .to_der()
    .unwrap()
}

impl Signer for SoftwareDouble {
    fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    fn kind(&self) -> KeyKind {
        self.kind
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let random = SystemRandom::new();
        let mut signature = match &self.pair {
            Pair::Ecdsa(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PSS_SHA256, &random, message, &mut signature)
                    .unwrap();
                signature
            }
        };
        if self.broken {
            *signature.last_mut().unwrap() ^= 1;
        }
        Ok(signature)
    }
}
