//! What only a front that knows P2PFL can do: nothing in P2PFL binds the certificate of a connection to
//! the address in a message, so a peer can speak in another's name. Here every handshake, disconnect,
//! direct message and model of a peer must carry an address of that peer, and its commands must be on
//! its list.
//!
//! Gossip cannot be bound: its source is who made the message, and whoever hands it on shows its own
//! certificate. What is bound in it is the commands.

mod command;
mod front;
mod reader;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use front::Front;
pub(crate) use reader::MOST_COMMAND;
pub use reader::{Envelope, Method, Reader, Seen};

/// Why a request is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// The message is compressed: what is in it cannot be seen. P2PFL compresses nothing.
    #[error("compressed messages are not read here")]
    Compressed,
    /// The first byte is neither 0 nor 1.
    #[error("not a gRPC message")]
    Flag,
    /// The message is longer than the limit.
    #[error("the message is longer than this node's limit")]
    TooLong,
    /// There is something behind the one message.
    #[error("more than one message")]
    Several,
    /// The message is not whole.
    #[error("the message is cut off")]
    Cut,
    /// The message is not in P2PFL's form.
    #[error("not a message of P2PFL: {0}")]
    Malformed(#[from] Malformed),
}

/// Why a message is not in P2PFL's form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A field that no version of P2PFL has.
    #[error("an unknown field")]
    UnknownField,
    /// Fields out of the order of their numbers, or twice, or behind the payload.
    #[error("fields out of order, or twice")]
    Order,
    /// A number or a length that is not in its shortest form.
    #[error("a number that is written too long")]
    Number,
    /// A field that goes beyond the end of its message.
    #[error("a field beyond the end")]
    Overlong,
    /// An address or a command that is too long to be one.
    #[error("an address or a command that is too long")]
    LongText,
    /// Text that is not UTF-8.
    #[error("text that is not UTF-8")]
    NotText(#[source] std::string::FromUtf8Error),
    /// A message that says neither gossip, direct nor weights.
    #[error("no payload")]
    NoPayload,
}
