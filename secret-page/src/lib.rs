//! The unsafe code that a PIN needs, behind a safe face: a [`Page`] to read it into, and
//! [`PinCalls`], the three PKCS#11 calls that take it from there. cryptoki's own want the PIN in
//! memory of the allocator. And [`deny_write_execute`], which no safe crate offers.

mod calls;
mod memory;
mod page;

pub use calls::{PinCalls, User};
pub use memory::deny_write_execute;
pub use page::{Kind, Page};
