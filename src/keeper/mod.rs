//! The boundary around the token: what the node may ask, what may be signed, serving and asking.

pub mod ask;
mod breaker;
mod calls;
mod health;
pub(crate) mod learn;
pub mod message;
mod open;
mod pool;
pub mod purpose;
mod refusals;
pub(crate) mod role;
mod serve;
mod vault;
mod wall;
