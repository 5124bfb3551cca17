//! Which side of a TLS handshake a key, a certificate or a pin is for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The TLS role that a key, a certificate or a pin is bound to (RFC 8446 §4.4.3: the two roles
/// sign different context strings, so a signature made for one is worthless for the other).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsRole {
    /// The side that was dialled. Extended key usage `id-kp-serverAuth` (RFC 5280 §4.2.1.12).
    Server,
    /// The side that dialled. Extended key usage `id-kp-clientAuth`.
    Client,
}

impl TlsRole {
    /// The other side of the handshake.
    pub fn opposite(self) -> Self {
        match self {
            Self::Server => Self::Client,
            Self::Client => Self::Server,
        }
    }
}

impl fmt::Display for TlsRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Client => "client",
        })
    }
}
