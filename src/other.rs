//! In the place of the node's processes where nothing confines a process (Windows): it refuses to
//! start rather than run unconfined.

use std::process::ExitCode;

use tonic::service::Routes;

/// There is none here: a node needs Linux. A program with services of its own compiles all the same,
/// and refuses to start.
#[derive(Clone, Debug)]
pub enum Node {}

pub(crate) fn main(_: impl FnOnce(&Node) -> Routes) -> ExitCode {
    eprintln!(
        "fastness: there is no node on Windows: nothing here confines a process as Linux does, and \
         Fastness does not run unconfined. Run it on Linux 6.12 or newer. On Windows there is the \
         library: mutual TLS behind the peer policy, with a key in Windows' key storage \
         (fastness::tls)."
    );
    ExitCode::FAILURE
}
