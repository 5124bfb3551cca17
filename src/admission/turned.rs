//! Why a connection is turned away before its handshake, by name.

/// Why a connection goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Turned {
    /// As many handshakes are under way as may be.
    #[error("too many handshakes are under way")]
    Busy,
    /// This stranger's address holds its share of half-open connections.
    #[error("too many half-open connections from this address")]
    SourceBusy,
    /// This address has had its signatures of this second.
    #[error("too many handshakes a second from this address")]
    SourceRate,
    /// All strangers together have had their signatures of this second.
    #[error("too many handshakes a second from strangers")]
    StrangerRate,
    /// Somebody else needed the place of a connection that had said nothing.
    #[error("its place was needed")]
    Displaced,
}

impl Turned {
    /// The name for logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Busy => "handshakes-busy",
            Self::SourceBusy => "source-busy",
            Self::SourceRate => "source-rate",
            Self::StrangerRate => "stranger-rate",
            Self::Displaced => "displaced",
        }
    }
}
