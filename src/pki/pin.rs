//! The SPKI pin (RFC 7469 §2.4) of what stands in a file: what a peer policy lists.

use der::{Decode, Encode};
use spki::SubjectPublicKeyInfoRef;
use x509_cert::Certificate;

use super::armour::{self, Content};
use super::error::PkiError;
use super::request::Request;
use crate::policy::SpkiPin;

/// The pin of a DER SubjectPublicKeyInfo, as text.
pub fn of_spki(der: &[u8]) -> String {
    SpkiPin::of_spki(der).to_string()
}

/// What a pin was computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A certificate.
    Certificate,
    /// A certificate request, whose signature was verified.
    Request,
    /// A bare public key.
    PublicKey,
}

/// The pin of the first object in a file's bytes: certificate, request (its signature is checked)
/// or public key, in PEM or DER.
///
/// # Errors
/// When the bytes are none of these, or a request is not signed by its own key.
pub fn of_bytes(bytes: &[u8]) -> Result<(Source, SpkiPin), PkiError> {
    let object = armour::read(bytes)?;
    match object.content {
        Content::Certificate => {
            let certificate =
                Certificate::from_der(&object.der).map_err(PkiError::malformed("certificate"))?;
            let spki = certificate.tbs_certificate().subject_public_key_info();
            let spki = spki.to_der().map_err(PkiError::Encoding)?;
            Ok((Source::Certificate, SpkiPin::of_spki(&spki)))
        }
        Content::Request => {
            let request = Request::from_der(&object.der)?;
            Ok((
                Source::Request,
                SpkiPin::of_spki(request.public_key().spki_der()),
            ))
        }
        Content::PublicKey => {
            SubjectPublicKeyInfoRef::from_der(&object.der)
                .map_err(PkiError::malformed("public key"))?;
            Ok((Source::PublicKey, SpkiPin::of_spki(&object.der)))
        }
    }
}
