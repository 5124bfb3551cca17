//! Mutual TLS 1.3 with keys that are elsewhere: credentials whose signatures a keeper makes, the
//! verifiers (WebPKI, then the peer policy), and the lane in which handshakes run so that a slow
//! token delays handshakes and nothing else. The only user of rustls; it hides which library that
//! is from everyone but the byte stream that it returns. On Windows the keys are in the system's key
//! storage, and there are no lane and no handshakes of ours: only what decides about them.

mod anchors;
#[cfg(unix)]
mod blame;
mod chain;
#[cfg(windows)]
mod cng;
#[cfg(unix)]
mod connection;
#[cfg(unix)]
mod credential;
#[cfg(unix)]
mod exchange;
mod generation;
#[cfg(unix)]
mod handshake;
#[cfg_attr(windows, expect(dead_code, reason = "what handshakes agree on"))]
mod inside;
#[cfg(unix)]
mod lane;
mod own_chain;
#[cfg_attr(windows, expect(dead_code, reason = "what handshakes tell"))]
mod provider;
#[cfg(unix)]
mod signing;
#[cfg(unix)]
#[cfg(test)]
mod test_keeper;
#[cfg(unix)]
#[cfg(test)]
mod tests;
mod verifier;
#[cfg(unix)]
mod wire;

pub use anchors::{AnchorError, TrustAnchors};
pub use chain::ChainError;
pub use generation::{Generation, GenerationError};
pub use inside::Inside;
pub use own_chain::CredentialError;

#[cfg(unix)]
pub use {
    blame::HandshakeError,
    connection::{Connection, ConnectionFacts},
    credential::{Credential, TokenKey},
    handshake::Handshakes,
    lane::{Lane, LaneError},
    signing::{SignaturesMade, SignedBy},
};

#[cfg(all(unix, test))]
pub(crate) use blame::an_alert;
#[cfg(unix)]
pub(crate) use blame::is_alert;

#[cfg(windows)]
pub use cng::{CertificateStore, CngError, Credential};
/// The encrypted byte stream.
#[cfg(unix)]
pub use tokio_rustls::TlsStream;
