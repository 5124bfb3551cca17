//! PKCS#11: module, locating keys by RFC 7512 URI, key gate, mechanisms, sessions. The only user of
//! cryptoki.

mod scheme;

pub use scheme::{KeyKind, Scheme};
