//! Files that hold a certificate, a request or a public key: PEM (RFC 7468) or DER, the first
//! object only.

use der::Decode;
use der::pem::{self, LineEnding};
use spki::SubjectPublicKeyInfoRef;
use x509_cert::Certificate;
use x509_cert::request::CertReq;

use super::error::PkiError;

/// Largest file that is read as one of these objects. An RSA-4096 certificate with 32 names has
/// about 3 kB; chains and comments around it are the rest.
pub const LARGEST: usize = 256 * 1024;

/// What kind of object it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Certificate,
    Request,
    PublicKey,
}

/// The first object in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) content: Content,
    pub(super) der: Vec<u8>,
}

/// Reads the first object of `bytes`.
///
/// # Errors
/// When there is none of the known kinds, it is too large, or its PEM is damaged.
pub(super) fn read(bytes: &[u8]) -> Result<Object, PkiError> {
    if bytes.len() > LARGEST {
        return Err(PkiError::TooLarge { most: LARGEST });
    }
    match first_block(bytes) {
        Some(block) => from_pem(block),
        None => from_der(bytes),
    }
}

/// The PEM form of a DER object, with LF line endings and a final one.
pub(super) fn pem(label: &'static str, der: &[u8]) -> Result<String, PkiError> {
    pem::encode_string(label, LineEnding::LF, der).map_err(|error| PkiError::Encoding(error.into()))
}

/// From the first `-----BEGIN` to the end of its `-----END …-----`. `openssl x509 -text` and chains
/// have other text before and after.
fn first_block(bytes: &[u8]) -> Option<&[u8]> {
    let start = find(bytes, b"-----BEGIN ")?;
    let block = &bytes[start..];
    let Some(end) = find(block, b"-----END ") else {
        return Some(block);
    };
    let label = end + b"-----END ".len();
    let close = find(&block[label..], b"-----").map_or(block.len(), |at| label + at + 5);
    Some(&block[..close])
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn from_pem(block: &[u8]) -> Result<Object, PkiError> {
    let (label, der) = pem::decode_vec(block).map_err(PkiError::Pem)?;
    let content = match label {
        "CERTIFICATE" => Content::Certificate,
        // RFC 7468 §7: the second label is older software's.
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Content::Request,
        "PUBLIC KEY" => Content::PublicKey,
        label if label.ends_with("PRIVATE KEY") => return Err(PkiError::PrivateKey),
        _ => return Err(PkiError::UnknownContent),
    };
    Ok(Object { content, der })
}

fn from_der(der: &[u8]) -> Result<Object, PkiError> {
    let content = if Certificate::from_der(der).is_ok() {
        Content::Certificate
    } else if CertReq::from_der(der).is_ok() {
        Content::Request
    } else if SubjectPublicKeyInfoRef::from_der(der).is_ok() {
        Content::PublicKey
    } else {
        return Err(PkiError::UnknownContent);
    };
    Ok(Object {
        content,
        der: der.to_vec(),
    })
}
