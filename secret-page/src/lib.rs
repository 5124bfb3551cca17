//! The unsafe code that a PIN needs, behind a safe face: a [`Page`] to read it into, and
//! [`PinCalls`], the three PKCS#11 calls that take it from there. cryptoki's own want the PIN in
//! memory of the allocator. And what no safe crate offers: [`deny_write_execute`], [`Code::give_back`].

mod calls;
mod code;
mod memory;
mod page;

pub use calls::{PinCalls, User};
pub use code::Code;
pub use memory::deny_write_execute;
pub use page::{Kind, Page};
