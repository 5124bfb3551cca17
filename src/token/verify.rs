//! Verifying a token's signature in software, with public keys only: proofs of possession.

use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, UnparsedPublicKey,
};

use super::Scheme;

/// A signature that does not verify, whatever the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct WrongSignature;

/// Verifies `signature` over `message` (unhashed) with the public key of `spki_der`.
///
/// # Errors
/// [`WrongSignature`] when it does not verify, or the key is not one for `scheme`.
pub fn verify(
    spki_der: &[u8],
    scheme: Scheme,
    message: &[u8],
    signature: &[u8],
) -> Result<(), WrongSignature> {
    let algorithm: &dyn signature::VerificationAlgorithm = match scheme {
        Scheme::EcdsaP256Sha256 => &ECDSA_P256_SHA256_ASN1,
        Scheme::EcdsaP384Sha384 => &ECDSA_P384_SHA384_ASN1,
        Scheme::RsaPssSha256 => &RSA_PSS_2048_8192_SHA256,
        Scheme::RsaPssSha384 => &RSA_PSS_2048_8192_SHA384,
        Scheme::RsaPssSha512 => &RSA_PSS_2048_8192_SHA512,
        Scheme::Ed25519 => &ED25519,
    };
    // `Unspecified` has nothing to tell.
    match UnparsedPublicKey::new(algorithm, spki_der).verify(message, signature) {
        Ok(()) => Ok(()),
        Err(_) => Err(WrongSignature),
    }
}
