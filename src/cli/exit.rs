//! Exit codes, in one place.

use std::process::ExitCode;

/// What the process says to the shell. Scripts may rely on these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All was done.
    Done = 0,
    /// Something failed that no other code names.
    Failed = 1,
    /// The command line is wrong (clap's own code).
    Usage = 2,
    /// A configuration, certificate, policy or key has faults; they were printed.
    Faults = 3,
    /// The PIN or its source: nothing was tried twice.
    Pin = 4,
    /// The PKCS#11 module or the token.
    Token = 5,
    /// No running node answers at the admin socket.
    NoNode = 6,
    /// The peer could not be reached, or one side refused the other.
    Peer = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
