//! Who may wait for a handshake, who goes first, and who is refused before it costs anything.
//!
//! Pure decisions with the time passed in; only [`Entry::heard`] waits. Three classes share a node: its
//! own dials, those who come from an address that the peer policy lists, and strangers. A stranger never
//! takes what one of the others needs: not its place among the half-open connections, not its turn at the
//! token, not its descriptor. An address proves nothing about identity, which TLS decides later; it only
//! says whose haste comes first. What is spent on a listed address for nobody is counted.

mod bucket;
mod gate;
mod queue;
mod sources;
mod turned;

pub use gate::{Entry, Gate, GateLimits, GateSizes};
pub use queue::Width;
pub(crate) use queue::{Hopeless, Number, Queue, Step, Ticket, Turn};
pub use turned::Turned;

/// Whose handshake it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// We dial.
    Own,
    /// It comes from an IP address that the policy lists for a peer.
    Listed,
    /// It comes from elsewhere.
    Stranger,
}

impl Class {
    /// All of them, in the order of their [`Class::index`].
    pub const ALL: [Self; 3] = [Self::Own, Self::Listed, Self::Stranger];

    /// 0, 1 or 2.
    pub fn index(self) -> usize {
        match self {
            Self::Own => 0,
            Self::Listed => 1,
            Self::Stranger => 2,
        }
    }

    /// The name for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Listed => "listed",
            Self::Stranger => "stranger",
        }
    }
}
