//! Certificate authority whose key is in a token; requests and revocation lists.
//!
//! Nothing here signs: every signature comes from a [`Signer`], which in the product is a key in a
//! PKCS#11 token, and each object is checked with the issuer's public key before it leaves the room.
//! Names in certificates come from the operator, never from the request.
//!
//! Reading order: [`authority`] (what the commands do) → [`certificate`], [`crl`], [`request`] (what
//! is built) → `signed` (how it is signed and checked) → `public_key`, `algorithm`.

mod algorithm;
mod armour;
mod as_text;
pub mod authority;
pub mod certificate;
pub mod crl;
mod error;
mod ledger;
mod moment;
mod names;
pub mod pin;
mod public_key;
pub mod request;
mod serial;
mod signed;
mod signer;
mod store;
mod subject;

#[cfg(test)]
mod software_double;

pub use crate::ownership::Exposed;
pub use algorithm::identifier;
pub use armour::LARGEST;
pub use authority::{Authority, Issued, Settings};
pub use error::{PkiError, Refusal};
pub use moment::{Moment, MomentError};
pub use names::{AuthorityName, CommonName, DnsName, NameError};
pub use public_key::{KeyError, PublicKey};
pub use serial::{Serial, SerialError};
pub use signer::{Signer, SignerError};
pub use store::{StoreError, read_at_most, replace, write_new};
