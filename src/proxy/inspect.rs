//! What a front that knows its application may look at before the application does.

use std::sync::Arc;

use http::request;

use super::{Caller, Refusal};
use crate::policy::PeerAddress;

/// Decides about peers' calls.
pub(crate) trait Inspect: Send + Sync {
    /// Looks at the head of a call of `caller`, which the policy in force lists at `addresses`.
    ///
    /// # Errors
    /// What the caller is told instead of the application's answer.
    fn begin(
        self: Arc<Self>,
        caller: &Caller,
        addresses: &[PeerAddress],
        head: &request::Parts,
    ) -> Result<Option<Box<dyn Look>>, Refusal>;
}

/// Looks at the body of one call, in the pieces in which it comes. A piece is passed on after it was
/// looked at, and the end of the body after [`Look::end`]: the application never gets the whole of a
/// message that is refused.
pub(crate) trait Look: Send {
    /// The next bytes of the body.
    ///
    /// # Errors
    /// The call ends here.
    fn data(&mut self, bytes: &[u8]) -> Result<(), Refusal>;

    /// There are no more.
    ///
    /// # Errors
    /// The call ends here.
    fn end(&mut self) -> Result<(), Refusal>;
}
