//! Looks for secrets in the memory of a stopped process: any eight bytes in a row of a secret, as
//! they are or in reverse, at any address.

mod needles;
mod process;

pub use needles::{Hit, Needles};
pub use process::{Part, Snapshot, Stopped};
