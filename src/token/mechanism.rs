//! Schemes in PKCS#11 words: the portable mechanisms, hashing on our side, and what a token's
//! signature must look like.

use aws_lc_rs::digest::{self, Digest, SHA256, SHA384, SHA512};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use super::error::TokenError;
use super::{KeyKind, Scheme};

const SIGNING: &str = "signing";

/// One C_Sign. CKM_ECDSA and CKM_RSA_PKCS_PSS get a digest made here, since few tokens have the
/// hashing variants (SoftHSM has no CKM_ECDSA_SHA256); CKM_EDDSA hashes by itself.
pub(super) fn sign(
    session: &Session,
    key: ObjectHandle,
    scheme: Scheme,
    message: &[u8],
) -> Result<Vec<u8>, TokenError> {
    let digest: Digest;
    let (mechanism, data) = match scheme {
        Scheme::EcdsaP256Sha256 | Scheme::EcdsaP384Sha384 => {
            digest = hash(scheme, message);
            (Mechanism::Ecdsa, digest.as_ref())
        }
        Scheme::RsaPssSha256 | Scheme::RsaPssSha384 | Scheme::RsaPssSha512 => {
            digest = hash(scheme, message);
            (Mechanism::RsaPkcsPss(pss(scheme)), digest.as_ref())
        }
        // `Ed25519`: no parameter at all (NULL), as RFC 8032's pure Ed25519 wants.
        Scheme::Ed25519 => (
            Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)),
            message,
        ),
    };
    session
        .sign(&mechanism, key, data)
        .map_err(TokenError::call(SIGNING))
}

fn hash(scheme: Scheme, message: &[u8]) -> Digest {
    let algorithm = match scheme {
        Scheme::EcdsaP256Sha256 | Scheme::RsaPssSha256 => &SHA256,
        Scheme::EcdsaP384Sha384 | Scheme::RsaPssSha384 => &SHA384,
        // Ed25519 hashes with SHA-512 inside the token and never comes here.
        Scheme::RsaPssSha512 | Scheme::Ed25519 => &SHA512,
    };
    digest::digest(algorithm, message)
}

/// RFC 8446 §4.2.3: the hash, MGF1 with the same hash, a salt as long as the hash.
fn pss(scheme: Scheme) -> PkcsPssParams {
    let (hash_alg, mgf, length) = match scheme {
        Scheme::RsaPssSha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 48),
        Scheme::RsaPssSha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512, 64),
        _ => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32),
    };
    PkcsPssParams {
        hash_alg,
        mgf,
        s_len: cryptoki::types::Ulong::new(length),
    }
}

/// The mechanism that keys of this kind sign with, and nothing else: CKA_ALLOWED_MECHANISMS.
pub(super) fn signing(kind: KeyKind) -> MechanismType {
    match kind {
        KeyKind::P256 | KeyKind::P384 => MechanismType::ECDSA,
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => MechanismType::RSA_PKCS_PSS,
        KeyKind::Ed25519 => MechanismType::EDDSA,
    }
}

/// A signature as TLS has it, from one as the token gave it; its length is not taken on trust.
pub(super) fn encode(kind: KeyKind, signature: Vec<u8>) -> Result<Vec<u8>, TokenError> {
    let expected = match kind {
        KeyKind::P256 => 64,
        KeyKind::P384 => 96,
        KeyKind::Rsa2048 => 256,
        KeyKind::Rsa3072 => 384,
        KeyKind::Rsa4096 => 512,
        KeyKind::Ed25519 => 64,
    };
    if signature.len() != expected {
        let problem = format!(
            "a signature of {} bytes instead of {expected}",
            signature.len()
        );
        return Err(TokenError::answer(SIGNING, problem));
    }
    match kind {
        KeyKind::P256 | KeyKind::P384 => ecdsa_der(&signature),
        _ => Ok(signature),
    }
}

/// `r‖s` as `SEQUENCE { INTEGER r, INTEGER s }` (RFC 3279 §2.2.3). At most 2 × 48 bytes of value,
/// so every length fits one byte.
fn ecdsa_der(raw: &[u8]) -> Result<Vec<u8>, TokenError> {
    let (r, s) = raw.split_at(raw.len() / 2);
    let mut der = Vec::with_capacity(raw.len() + 9);
    der.extend([0x30, 0]);
    for integer in [r, s] {
        let first = integer
            .iter()
            .position(|&byte| byte != 0)
            .ok_or_else(|| TokenError::answer(SIGNING, "r or s of the signature is zero"))?;
        let integer = &integer[first..];
        let pad = usize::from(integer[0] >= 0x80);
        der.extend([0x02, short(integer.len() + pad)]);
        der.extend(&[0][..pad]);
        der.extend(integer);
    }
    der[1] = short(der.len() - 2);
    Ok(der)
}

fn short(length: usize) -> u8 {
    u8::try_from(length).expect("at most 2 × (2 + 49) bytes, see ecdsa_der")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_and_s_become_the_shortest_positive_integers() {
        let mut raw = [0; 64];
        raw[31] = 0x7f;
        raw[32] = 0x80;
        let der = encode(KeyKind::P256, raw.to_vec()).unwrap();
        let mut expected = vec![0x30, 3 + 35, 0x02, 1, 0x7f, 0x02, 33, 0, 0x80];
        expected.extend([0; 31]);
        assert_eq!(der, expected);

        let der = encode(KeyKind::P384, vec![0xff; 96]).unwrap();
        assert_eq!((der.len(), der[1]), (104, 102));
    }

    #[test]
    fn a_signature_of_another_length_or_with_a_zero_is_refused() {
        for (kind, length) in [
            (KeyKind::P256, 63),
            (KeyKind::P256, 0),
            (KeyKind::P256, 96),
            (KeyKind::P384, 64),
            (KeyKind::Rsa2048, 255),
            (KeyKind::Rsa4096, 256),
            (KeyKind::Ed25519, 65),
        ] {
            let error = encode(kind, vec![1; length]).unwrap_err();
            assert!(error.session_is_dead(), "{error}");
        }
        let mut zero_s = [0; 64];
        zero_s[..32].fill(1);
        assert!(encode(KeyKind::P256, zero_s.to_vec()).is_err());
    }
}
