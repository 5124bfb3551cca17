//! Mutual TLS 1.3 with keys that are elsewhere: credentials whose signatures a keeper makes, the
//! verifiers (WebPKI, then the peer policy), and the lane in which handshakes run so that a slow
//! token delays handshakes and nothing else. The only user of rustls; it hides which library that
//! is from everyone but the byte stream that it returns.

mod blame;
mod chain;
mod connection;
mod credential;
mod exchange;
mod generation;
mod handshake;
mod inside;
mod lane;
mod provider;
mod signing;
#[cfg(test)]
mod test_keeper;
#[cfg(test)]
mod tests;
mod verifier;
mod wire;

pub use blame::HandshakeError;
pub use chain::ChainError;
pub use connection::{Connection, ConnectionFacts};
pub use credential::{Credential, CredentialError, TokenKey};
pub use generation::{Generation, GenerationError, TrustAnchors};
pub use handshake::Handshakes;
pub use inside::Inside;
pub use lane::{Lane, LaneError};
pub use signing::{SignaturesMade, SignedBy};
/// The encrypted byte stream.
pub use tokio_rustls::TlsStream;
