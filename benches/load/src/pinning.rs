//! Server and load on cores of their own.

use anyhow::{Context, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

/// The cores that this process may use, before it chose one.
fn allowed() -> anyhow::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("sched_getaffinity")?;
    Ok((0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect())
}

/// Takes the last allowed core for the load; servers get the first one.
pub fn take_load_core() -> anyhow::Result<()> {
    let cores = allowed()?;
    let (Some(first), Some(last)) = (cores.first(), cores.last()) else { bail!("no core to run on") };
    if first == last {
        bail!("two cores are needed: one for the servers, one for the load");
    }
    // Remembered for the children; nothing else runs yet in this process.
    SERVER_CORE.set(*first).ok();
    only(Pid::from_raw(0), *last)
}

static SERVER_CORE: std::sync::OnceLock<usize> = std::sync::OnceLock::new();

/// The core for servers.
pub fn server_core() -> usize {
    SERVER_CORE.get().copied().unwrap_or(0)
}

fn only(process: Pid, core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(process, &set).context("sched_setaffinity")
}

/// As many open files as the system allows: connections that only idle.
pub fn raise_open_files() -> anyhow::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("setrlimit")
}
