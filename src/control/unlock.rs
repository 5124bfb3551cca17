//! Administrator and supervisor, about a PIN. The PIN itself is in a descriptor that comes with the
//! request and goes on to the keeper unread: neither the supervisor nor gRPC ever holds it.

use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::secret::PinKind;

/// Log a token in again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Unlock {
    /// Label of the token; empty: the one that waits.
    pub(crate) token: String,
    /// How to read the descriptor that came along; `None`: take the PIN from the configured source.
    pub(crate) pin: Option<PinKind>,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Unlocked {
    /// The token signs.
    Done { token: String },
    /// It does not, and why. The PIN was tried at most once.
    Refused(Vec<Fault>),
    /// It does not, and why. No PIN was tried.
    NotTried(Vec<Fault>),
    /// No token waits for a PIN.
    NothingWaits(Fault),
    /// No token has this label.
    Unknown(Fault),
}
