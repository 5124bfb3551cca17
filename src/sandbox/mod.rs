//! What a role gives up before it serves.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};

/// Ends this process with its parent, and keeps its memory out of core files and debuggers
/// (prctl(2) `PR_SET_PDEATHSIG`, `PR_SET_DUMPABLE`; getrlimit(2) `RLIMIT_CORE`).
pub(crate) fn bind_to_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none)?;
    Ok(())
}
