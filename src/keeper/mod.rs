//! The boundary around the token: what the node may ask, what may be signed, serving and asking.

pub mod ask;
pub mod message;
pub mod purpose;
mod refusals;
pub(crate) mod role;
mod serve;
mod vault;
