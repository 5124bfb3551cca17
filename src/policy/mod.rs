//! Who may talk to us: peers, SPKI pins and the decision about a certificate. Pure: bytes in,
//! [`Decision`] out. No I/O, no clock, no TLS library: what is decided here can be tested, fuzzed
//! and reviewed alone.
//!
//! Chain, validity and signatures are WebPKI's part and come first (`crate::tls`); what is here
//! only narrows what WebPKI accepted. Unlisted is denied, and an empty policy denies all.

mod address;
mod decision;
mod end_entity;
mod id;
mod methods;
mod parse;
mod peers;
mod pin;
#[cfg(test)]
pub(crate) mod test_authority;
#[cfg(test)]
mod tests;

#[cfg(unix)]
pub(crate) use address::MOST_RESOLVED;
pub use address::{PeerAddress, ResolvedHosts};
pub use decision::{Decision, Grant, Presented, Reason};
pub use end_entity::EndEntity;
pub use id::{PeerId, PeerIdFault};
pub use methods::{MethodPattern, MethodPatternFault, Methods};
pub use peers::{Peer, PeerPolicy};
pub use pin::{PinLabel, PinSet, SpkiPin, SpkiPinFault};
