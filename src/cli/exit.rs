//! Exit codes, in one place.

use std::process::ExitCode;

use crate::fault::{Fault, Passing};

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
    /// An address to listen on is in use, or not there yet.
    Address = 8,
}

impl Exit {
    /// For a start that `faults` stop: whether a file has to be mended, or trying again may help.
    pub(super) fn of_start(faults: &[Fault]) -> Self {
        let stops = |passing| faults.iter().any(|fault| fault.passing == passing);
        if faults.is_empty() || stops(None) {
            Self::Faults
        } else if stops(Some(Passing::Token)) {
            Self::Token
        } else if stops(Some(Passing::Address)) {
            Self::Address
        } else {
            Self::Failed
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_tried_again_when_no_file_has_to_be_mended() {
        let fault = || Fault::new("key", "problem", "mend");
        let passing = |passing| fault().that_may_pass(passing);
        use Passing::{Address, System, Token};
        for (faults, exit) in [
            (vec![], Exit::Faults),
            (vec![fault(), passing(Token)], Exit::Faults),
            (vec![passing(Token), passing(Address)], Exit::Token),
            (vec![passing(Address), passing(System)], Exit::Address),
            (vec![passing(System)], Exit::Failed),
        ] {
            assert_eq!(Exit::of_start(&faults), exit, "{faults:?}");
        }
    }
}
