//! Signature schemes by their TLS code points, and the keys they belong to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A TLS 1.3 signature scheme that a token key can be asked for; the value is the code point of
/// RFC 8446 §4.2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u16)]
pub enum Scheme {
    /// `ecdsa_secp256r1_sha256`
    EcdsaP256Sha256 = 0x0403,
    /// `ecdsa_secp384r1_sha384`
    EcdsaP384Sha384 = 0x0503,
    /// `rsa_pss_rsae_sha256`, salt 32 bytes
    RsaPssSha256 = 0x0804,
    /// `rsa_pss_rsae_sha384`, salt 48 bytes
    RsaPssSha384 = 0x0805,
    /// `rsa_pss_rsae_sha512`, salt 64 bytes
    RsaPssSha512 = 0x0806,
    /// `ed25519`
    Ed25519 = 0x0807,
}

impl Scheme {
    /// The scheme with this code point, if it is one of ours.
    pub fn from_code(code: u16) -> Option<Self> {
        [
            Self::EcdsaP256Sha256,
            Self::EcdsaP384Sha384,
            Self::RsaPssSha256,
            Self::RsaPssSha384,
            Self::RsaPssSha512,
            Self::Ed25519,
        ]
        .into_iter()
        .find(|scheme| scheme.code() == code)
    }

    /// The code point on the wire.
    pub fn code(self) -> u16 {
        self as u16
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaP256Sha256 => "ECDSA P-256 with SHA-256",
            Self::EcdsaP384Sha384 => "ECDSA P-384 with SHA-384",
            Self::RsaPssSha256 => "RSA-PSS with SHA-256",
            Self::RsaPssSha384 => "RSA-PSS with SHA-384",
            Self::RsaPssSha512 => "RSA-PSS with SHA-512",
            Self::Ed25519 => "Ed25519",
        })
    }
}

/// What kind of key an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// ECDSA on NIST P-256 (secp256r1), the default.
    P256,
    /// ECDSA on NIST P-384 (secp384r1).
    P384,
    /// RSA with a 2048-bit modulus.
    Rsa2048,
    /// RSA with a 3072-bit modulus.
    Rsa3072,
    /// RSA with a 4096-bit modulus.
    Rsa4096,
    /// EdDSA on edwards25519 (RFC 8032, RFC 8410).
    Ed25519,
}

impl KeyKind {
    /// The schemes a key of this kind signs with, the preferred one first.
    pub fn schemes(self) -> &'static [Scheme] {
        match self {
            Self::P256 => &[Scheme::EcdsaP256Sha256],
            Self::P384 => &[Scheme::EcdsaP384Sha384],
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => &[
                Scheme::RsaPssSha256,
                Scheme::RsaPssSha384,
                Scheme::RsaPssSha512,
            ],
            Self::Ed25519 => &[Scheme::Ed25519],
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "ECDSA P-256",
            Self::P384 => "ECDSA P-384",
            Self::Rsa2048 => "RSA-2048",
            Self::Rsa3072 => "RSA-3072",
            Self::Rsa4096 => "RSA-4096",
            Self::Ed25519 => "Ed25519",
        })
    }
}
