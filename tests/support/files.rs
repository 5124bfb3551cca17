//! Peers whose keys are in files: those that are no Fastness nodes, and intruders of every kind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SignatureAlgorithm,
};

use fastness::policy::SpkiPin;

/// Writes a file that only we may read or change.
pub fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    only_ours(path, 0o600);
}

pub fn only_ours(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
}

/// An authority of the tests whose key is in memory: it issues what `fastness ca` never would.
pub struct FileCa {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its key, in files.
pub struct FileIdentity {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub pin: String,
}

impl FileCa {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([]).expect("no names");
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// The parameters of a good end entity, to be spoilt.
    pub fn leaf(id: &str, role: &str) -> CertificateParams {
        let mut params = CertificateParams::new([]).expect("no names");
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "test");
        params.subject_alt_names = vec![
            SanType::URI(id.try_into().expect("ASCII")),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match role {
            "server" => ExtendedKeyUsagePurpose::ServerAuth,
            _ => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        params
    }

    /// A new key in `folder` and its certificate.
    pub fn identity(&self, folder: &Path, name: &str, params: &CertificateParams) -> FileIdentity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let identity = FileIdentity {
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
            pin: SpkiPin::of_spki(&key.subject_public_key_info()).to_string(),
        };
        write_private(&identity.certificate, &certificate.pem());
        write_private(&identity.key, &key.serialize_pem());
        identity
    }

    /// A certificate for the P-256 key whose SubjectPublicKeyInfo is `spki`.
    pub fn certify(&self, spki: &[u8], params: &CertificateParams) -> String {
        // The uncompressed point is the end of it (RFC 5480 §2.2).
        let point = PublicKey(
            spki[spki.len() - 65..].to_vec(),
            &rcgen::PKCS_ECDSA_P256_SHA256,
        );
        params
            .signed_by(&point, &self.issuer)
            .expect("a certificate")
            .pem()
    }

    /// A certificate for an RSAPublicKey (RFC 8017 A.1.1).
    pub fn certify_rsa(&self, key: &[u8], params: &CertificateParams) -> String {
        let key = PublicKey(key.to_vec(), &rcgen::PKCS_RSA_SHA256);
        params
            .signed_by(&key, &self.issuer)
            .expect("a certificate")
            .pem()
    }
}

struct PublicKey(Vec<u8>, &'static SignatureAlgorithm);

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.1
    }
}

/// SubjectPublicKeyInfo (DER) of the first certificate in a PEM.
pub fn spki_of(pem: &str) -> Vec<u8> {
    use der::Encode;
    let chain = x509_cert::Certificate::load_pem_chain(pem.as_bytes()).expect("PEM");
    chain[0]
        .tbs_certificate()
        .subject_public_key_info()
        .to_der()
        .expect("DER")
}
