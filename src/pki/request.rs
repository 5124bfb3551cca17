//! Certificate requests (PKCS#10, RFC 2986): reading those of others, making our own.
//!
//! A request gives a public key and the proof that its private key is at hand. The names and
//! extensions in it are never used: names come from the operator.

use der::{Decode, pem::PemLabel};
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, Version};

use super::armour::{self, Content};
use super::error::PkiError;
use super::names::CommonName;
use super::public_key::PublicKey;
use super::signed;
use super::signer::Signer;
use super::subject::common_name;

/// A request whose signature was made by the key in it (proof of possession), and whose key policy
/// allows. All that is kept of it is the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    public_key: PublicKey,
}

impl Request {
    /// Reads the first request in a file's bytes, PEM or DER, of at most 256 KiB.
    ///
    /// # Errors
    /// [`PkiError`] when there is no request, it is malformed, its key is outside policy
    /// (ECDSA P-256 and P-384, RSA 2048 to 4096 bits, Ed25519), or its signature is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PkiError> {
        let object = armour::read(bytes)?;
        if object.content != Content::Request {
            return Err(PkiError::OtherContent {
                wanted: "certificate request",
            });
        }
        Self::from_der(&object.der)
    }

    pub(super) fn from_der(der: &[u8]) -> Result<Self, PkiError> {
        let request = CertReq::from_der(der).map_err(PkiError::malformed("certificate request"))?;
        let public_key = PublicKey::from_info(&request.info.public_key)?;
        signed::verify(der, &public_key)?;
        Ok(Self { public_key })
    }

    /// The key that asks to be certified.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}

/// Makes a request in PEM, signed by `signer`. `subject` becomes its common name; without it the subject is
/// empty, which is all that our own authority needs.
///
/// # Errors
/// When the token does not sign, or its key is outside policy.
pub fn build(signer: &dyn Signer, subject: Option<&CommonName>) -> Result<String, PkiError> {
    let subject = match subject {
        None => Name::default(),
        Some(name) => common_name(name.as_str()).map_err(PkiError::Encoding)?,
    };
    let public_key = PublicKey::from_spki_der(signer.spki_der())?;
    let info = CertReqInfo {
        version: Version::V1,
        subject,
        public_key: public_key.info().clone(),
        attributes: Default::default(),
    };
    let der = signed::seal(&info, signer, &public_key)?;
    armour::pem(CertReq::PEM_LABEL, &der)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::public_key::KeyError;
    use crate::pki::software_double::SoftwareDouble;
    use crate::token::KeyKind;

    #[test]
    fn a_request_of_every_kind_of_key_is_built_and_read_back() {
        for kind in [
            KeyKind::P256,
            KeyKind::P384,
            KeyKind::Rsa2048,
            KeyKind::Rsa3072,
            KeyKind::Rsa4096,
            KeyKind::Ed25519,
        ] {
            let signer = SoftwareDouble::generate(kind);
            let pem = build(&signer, Some(&"node-a".parse().unwrap())).unwrap();
            let request = Request::from_bytes(pem.as_bytes()).unwrap();
            assert_eq!(request.public_key().spki_der(), signer.spki_der(), "{kind}");
        }
    }

    #[test]
    fn a_request_with_any_byte_of_its_content_changed_is_refused() {
        let signer = SoftwareDouble::generate(KeyKind::P256);
        let pem = build(&signer, Some(&"node-a".parse().unwrap())).unwrap();
        let der = armour::read(pem.as_bytes()).unwrap().der;
        assert!(Request::from_bytes(&der).is_ok());
        for index in 0..der.len() {
            let mut changed = der.clone();
            changed[index] ^= 1;
            assert!(Request::from_bytes(&changed).is_err(), "byte {index}");
        }
        let mut longer = der.clone();
        longer.push(0);
        assert!(Request::from_bytes(&longer).is_err());
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let [one, other] = [(); 2].map(|()| SoftwareDouble::generate(KeyKind::P256));
        let public_key = PublicKey::from_spki_der(one.spki_der()).unwrap();
        let info = CertReqInfo {
            version: Version::V1,
            subject: Name::default(),
            public_key: public_key.info().clone(),
            attributes: Default::default(),
        };
        let other_key = PublicKey::from_spki_der(other.spki_der()).unwrap();
        let der = signed::seal(&info, &other, &other_key).unwrap();
        let error = Request::from_der(&der).unwrap_err();
        assert!(
            matches!(error, PkiError::Key(KeyError::BadSignature)),
            "{error:?}"
        );
    }

    #[test]
    fn a_token_that_signs_wrongly_gives_no_request() {
        let mut signer = SoftwareDouble::generate(KeyKind::Ed25519);
        signer.broken = true;
        assert!(matches!(build(&signer, None), Err(PkiError::SelfCheck(_))));
    }

    #[test]
    fn what_is_not_a_request_is_refused_with_its_own_error() {
        let huge = vec![b'x'; armour::LARGEST + 1];
        assert!(matches!(
            Request::from_bytes(&huge),
            Err(PkiError::TooLarge { .. })
        ));
        assert!(matches!(
            Request::from_bytes(b""),
            Err(PkiError::UnknownContent)
        ));
        let key = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(matches!(
            Request::from_bytes(key),
            Err(PkiError::PrivateKey)
        ));
        let cut = b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n";
        assert!(matches!(Request::from_bytes(cut), Err(PkiError::Pem(_))));
    }

    proptest::proptest! {
        #[test]
        fn whatever_bytes_come_they_are_read_without_a_panic(bytes: Vec<u8>, at: usize, bit in 0u8..8) {
            let _ = Request::from_bytes(&bytes);
            let mut pem = b"-----BEGIN CERTIFICATE REQUEST-----\n".to_vec();
            pem.extend(&bytes);
            let _ = Request::from_bytes(&pem);
            // The start of a request, one bit beside it.
            let mut der = [&[0x30, 0x82, 0x01, 0x00, 0x30, 0x03, 0x02, 0x01, 0x00][..], &bytes].concat();
            let at = at % der.len();
            der[at] ^= 1 << bit;
            let _ = Request::from_bytes(&der);
        }
    }
}
