//! `SIGNED{…}`: what certificates, requests and revocation lists have in common (RFC 5280 §4.1,
//! §5.1, RFC 2986 §4.2): the content, an algorithm and a signature over the content's DER.

use der::asn1::{AnyRef, BitStringRef};
use der::{Decode, Encode, Sequence};
use spki::AlgorithmIdentifierRef;

use super::algorithm;
use super::error::PkiError;
use super::public_key::{KeyError, PublicKey};
use super::signer::Signer;

#[derive(Sequence)]
struct Signed<'a> {
    content: AnyRef<'a>,
    algorithm: AlgorithmIdentifierRef<'a>,
    signature: BitStringRef<'a>,
}

/// Signs `content` with `signer` and returns the whole object in DER, after `issuer` (the public
/// key that others will check with, not the signer's word for it) has verified the signature.
///
/// # Errors
/// [`PkiError::Signer`] when the token does not sign, [`PkiError::SelfCheck`] when the signature
/// does not verify.
pub(super) fn seal(
    content: &impl Encode,
    signer: &dyn Signer,
    issuer: &PublicKey,
) -> Result<Vec<u8>, PkiError> {
    let content = content.to_der().map_err(PkiError::Encoding)?;
    let algorithm = algorithm::identifier(signer.kind())
        .and_then(|identifier| identifier.to_der())
        .map_err(PkiError::Encoding)?;
    let signature = signer.sign(&content)?;
    let assemble = || {
        Signed {
            content: AnyRef::from_der(&content)?,
            algorithm: AlgorithmIdentifierRef::from_der(&algorithm)?,
            signature: BitStringRef::from_bytes(&signature)?,
        }
        .to_der()
    };
    let der = assemble().map_err(PkiError::Encoding)?;
    verify(&der, issuer).map_err(PkiError::SelfCheck)?;
    Ok(der)
}

/// Checks the signature of a whole object with `key`, over the bytes as they stand.
///
/// # Errors
/// [`KeyError`]: not of this shape, an algorithm that is not accepted, or a wrong signature.
pub(super) fn verify(der: &[u8], key: &PublicKey) -> Result<(), KeyError> {
    let signed = Signed::from_der(der).map_err(KeyError::Malformed)?;
    // DER has one encoding only, so these are the bytes that were read.
    let content = signed.content.to_der().map_err(KeyError::Malformed)?;
    let signature = signed.signature.as_bytes().ok_or(KeyError::BadSignature)?;
    key.verify(signed.algorithm, &content, signature)
}
