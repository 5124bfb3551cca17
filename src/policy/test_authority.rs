//! A certificate authority for tests, with its keys in memory. Production certificates are made by
//! `crate::pki` with a key in a token.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};

use super::SpkiPin;
use crate::role::TlsRole;

/// `id-kp-…` as rcgen wants them.
pub(crate) const SERVER_AUTH: ExtendedKeyUsagePurpose = ExtendedKeyUsagePurpose::ServerAuth;
pub(crate) const CLIENT_AUTH: ExtendedKeyUsagePurpose = ExtendedKeyUsagePurpose::ClientAuth;

/// A root with a key in memory.
pub(crate) struct TestAuthority(CertifiedIssuer<'static, KeyPair>);

/// An end entity certificate and its key.
pub(crate) struct TestLeaf {
    pub(crate) key: KeyPair,
    pub(crate) der: Vec<u8>,
    pub(crate) pem: String,
}

/// What a leaf is to say; the default of a role is what we accept.
pub(crate) struct Profile {
    pub(crate) uris: Vec<String>,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) key_usages: Vec<KeyUsagePurpose>,
    pub(crate) authority: bool,
    pub(crate) years: (i32, i32),
    pub(crate) extensions: Vec<CustomExtension>,
}

impl Profile {
    pub(crate) fn of(role: TlsRole, id: &str) -> Self {
        Self {
            uris: vec![id.to_owned()],
            usages: vec![match role {
                TlsRole::Server => SERVER_AUTH,
                TlsRole::Client => CLIENT_AUTH,
            }],
            key_usages: vec![KeyUsagePurpose::DigitalSignature],
            authority: false,
            years: (2020, 4000),
            extensions: Vec::new(),
        }
    }

    fn constraint(&self) -> IsCa {
        match self.authority {
            true => IsCa::Ca(BasicConstraints::Unconstrained),
            false => IsCa::ExplicitNoCa,
        }
    }
}

impl TestAuthority {
    pub(crate) fn new() -> Self {
        Self::like(&Profile {
            key_usages: vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
            authority: true,
            years: (1980, 4000),
            ..Profile::of(TlsRole::Server, "")
        })
    }

    /// One whose own certificate has the years, the key usages and the constraint of `profile`.
    pub(crate) fn like(profile: &Profile) -> Self {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(profile.years.0, 1, 1);
        params.not_after = date_time_ymd(profile.years.1, 1, 1);
        params.is_ca = profile.constraint();
        params.key_usages = profile.key_usages.clone();
        params
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn issue(&self, profile: &Profile) -> TestLeaf {
        self.issue_for(profile, KeyPair::generate().unwrap())
    }

    pub(crate) fn issue_for(&self, profile: &Profile, key: KeyPair) -> TestLeaf {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(profile.years.0, 1, 1);
        params.not_after = date_time_ymd(profile.years.1, 1, 1);
        let uri = |uri: &String| SanType::URI(uri.as_str().try_into().unwrap());
        params.subject_alt_names = profile.uris.iter().map(uri).collect();
        // Names that are no URI are for other people's clients; we neither want nor mind them.
        params
            .subject_alt_names
            .push(SanType::IpAddress([127, 0, 0, 1].into()));
        params
            .subject_alt_names
            .push(SanType::DnsName("localhost".try_into().unwrap()));
        params.extended_key_usages = profile.usages.clone();
        params.key_usages = profile.key_usages.clone();
        params.custom_extensions = profile.extensions.clone();
        params.use_authority_key_identifier_extension = true;
        params.is_ca = profile.constraint();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        TestLeaf {
            key,
            der: certificate.der().to_vec(),
            pem: certificate.pem(),
        }
    }
}

impl TestLeaf {
    pub(crate) fn spki(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    pub(crate) fn pin(&self) -> SpkiPin {
        SpkiPin::of_spki(&self.spki())
    }
}

/// A pin that no key has.
pub(crate) fn spare_pin(seed: &str) -> SpkiPin {
    SpkiPin::of_spki(seed.as_bytes())
}
