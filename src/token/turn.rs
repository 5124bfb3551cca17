//! Whose turn it is to initialise a token of a module: of two programs at once, both would find the same
//! token free, and the same label untaken.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::error::TokenError;
use super::module::Module;

/// How long to wait for others. C_InitToken and C_InitPIN take a second or two each on a slow HSM.
const PATIENCE: Duration = Duration::from_secs(30);
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// The right to initialise tokens of a module, for one process of this machine at a time. It ends with the
/// value, or with the process.
#[derive(Debug)]
pub(super) struct Turn {
    _module: File,
}

impl Turn {
    /// Waits up to half a minute for a lock on the module's own file (flock(2)): everybody who loads it can
    /// read it, and nobody can put another one in its place that could not put another module there.
    pub(super) fn take(module: &Module) -> Result<Self, TokenError> {
        let path = module.path().display();
        let cannot = |why: String| TokenError::CannotInitialise(why);
        let file = File::open(module.path())
            .map_err(|error| cannot(format!("cannot open {path}: {error}")))?;
        let until = Instant::now() + PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _module: file }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                    std::thread::sleep(BETWEEN_TRIES);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(cannot(format!(
                        "another program holds the lock of {path}: wait until it has initialised its token"
                    )));
                }
                Err(errno) => {
                    return Err(cannot(format!(
                        "cannot lock {path}: {errno}; copy the module to a file system that has locks (flock(2))"
                    )));
                }
            }
        }
    }
}
