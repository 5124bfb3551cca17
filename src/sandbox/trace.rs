//! Watching a process of ours from outside while it learns: every system call that it makes once its
//! filter says `trace` (seccomp(2), SECCOMP_RET_TRACE) stops it until we have seen the call (ptrace(2)).
//!
//! A process whose filter says `trace` and that nobody traces can do nothing: each call fails with ENOSYS.

use std::collections::BTreeMap;
use std::io;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::calls;
use super::rules::learned::{is_never_allowed, telling};

/// One call, with those of its arguments that say what it is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SeenCall {
    pub(crate) name: &'static str,
    /// Index and value.
    pub(crate) args: Vec<(u8, u64)>,
}

/// Why there is nothing to learn from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    /// The system does not let us.
    #[error(
        "cannot trace our own process (ptrace(2)): {0}; `sysctl kernel.yama.ptrace_scope` above 1, or a \
         container without CAP_SYS_PTRACE, forbids it: learn elsewhere, with the same module and token"
    )]
    Refused(io::Error),
    /// It wanted what no profile can give it.
    #[error(
        "the module called {0}, which a sealed keeper never may; the call was not made and the process \
         was ended: this module cannot be used"
    )]
    Never(String),
    /// A call that we have no name for.
    #[error("the module made system call number {0}, which no profile can name")]
    Unknown(u64),
    /// It ended by a signal.
    #[error("the process that loaded the module ended by {0}")]
    Killed(Signal),
    /// It ended without having learned.
    #[error("the process that loaded the module ended with exit code {0}")]
    Failed(i32),
    /// Waiting for it failed; it was ended.
    #[error(
        "cannot follow the process: {0} (a real-time signal to one of its threads, such as \
         pthread_cancel(3) sends, cannot be passed on)"
    )]
    Lost(io::Error),
}

/// Whether somebody traces this process (proc(5), `TracerPid`).
pub(crate) fn is_traced() -> io::Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let tracer = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"));
    Ok(tracer.is_some_and(|tracer| tracer.trim() != "0"))
}

/// The hold on a process. When this process ends, that one is killed.
#[derive(Debug)]
pub(crate) struct Tracer {
    leader: Pid,
}

impl Tracer {
    /// Takes hold of our own child `pid`. From here on, only the calling thread may trace it.
    pub(crate) fn seize(pid: u32) -> Result<Self, TraceError> {
        let number =
            i32::try_from(pid).map_err(|error| TraceError::Lost(io::Error::other(error)))?;
        let leader = Pid::from_raw(number);
        let options = Options::PTRACE_O_EXITKILL
            | Options::PTRACE_O_TRACESECCOMP
            | Options::PTRACE_O_TRACECLONE;
        ptrace::seize(leader, options).map_err(|errno| TraceError::Refused(errno.into()))?;
        Ok(Self { leader })
    }

    /// Follows it to its end and counts its calls.
    pub(crate) fn follow(self) -> Result<BTreeMap<SeenCall, u64>, TraceError> {
        let outcome = self.follow_to_its_end();
        if let Err(TraceError::Lost(_)) = &outcome {
            // It would stand still for ever, and nobody would hear why.
            gone_or(nix::sys::signal::kill(self.leader, Signal::SIGKILL))?;
        }
        outcome
    }

    fn follow_to_its_end(&self) -> Result<BTreeMap<SeenCall, u64>, TraceError> {
        let names = calls::names();
        let mut seen = BTreeMap::new();
        let mut trouble = None;
        loop {
            let status = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL)) {
                Err(Errno::EINTR) => continue,
                status => status.map_err(|errno| TraceError::Lost(errno.into()))?,
            };
            match status {
                WaitStatus::PtraceEvent(pid, _, event)
                    if event == Event::PTRACE_EVENT_SECCOMP as i32 && trouble.is_none() =>
                {
                    // Gone in this moment: it made no call.
                    let Some((number, args)) = gone_or(registers(pid))? else {
                        continue;
                    };
                    match judge(&names, number, &args) {
                        Ok(call) => *seen.entry(call).or_default() += 1,
                        Err(error) => {
                            // Killed where it stands, the call is not made.
                            trouble = Some(error);
                            gone_or(nix::sys::signal::kill(self.leader, Signal::SIGKILL))?;
                        }
                    }
                    go_on(pid, None)?;
                }
                WaitStatus::PtraceEvent(pid, ..) => go_on(pid, None)?,
                WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal))?,
                WaitStatus::Exited(pid, code) if pid == self.leader => {
                    return match (trouble, code) {
                        (Some(trouble), _) => Err(trouble),
                        (None, 0) => Ok(seen),
                        (None, code) => Err(TraceError::Failed(code)),
                    };
                }
                WaitStatus::Signaled(pid, signal, _) if pid == self.leader => {
                    return Err(trouble.unwrap_or(TraceError::Killed(signal)));
                }
                _ => {}
            }
        }
    }
}

fn judge(
    names: &BTreeMap<u64, &'static str>,
    number: u64,
    args: &[u64; 6],
) -> Result<SeenCall, TraceError> {
    let name = *names.get(&number).ok_or(TraceError::Unknown(number))?;
    let args = telling(name, args);
    if is_never_allowed(name, &args) {
        let what = match name {
            "clone" => "clone for a process".to_owned(),
            name => name.to_owned(),
        };
        return Err(TraceError::Never(what));
    }
    Ok(SeenCall { name, args })
}

fn go_on(pid: Pid, signal: Option<Signal>) -> Result<(), TraceError> {
    gone_or(ptrace::cont(pid, signal)).map(drop)
}

/// `None` when the thread is gone.
fn gone_or<T>(outcome: nix::Result<T>) -> Result<Option<T>, TraceError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ESRCH) => Ok(None),
        Err(errno) => Err(TraceError::Lost(errno.into())),
    }
}

/// Number and arguments of the call that `pid` is about to make (syscall(2)).
#[cfg(target_arch = "x86_64")]
fn registers(pid: Pid) -> nix::Result<(u64, [u64; 6])> {
    let found = ptrace::getregs(pid)?;
    let args = [
        found.rdi, found.rsi, found.rdx, found.r10, found.r8, found.r9,
    ];
    Ok((found.orig_rax, args))
}

/// Number and arguments of the call that `pid` is about to make (syscall(2)).
#[cfg(target_arch = "aarch64")]
fn registers(pid: Pid) -> nix::Result<(u64, [u64; 6])> {
    let found = ptrace::getregs(pid)?.regs;
    let args = [found[0], found[1], found[2], found[3], found[4], found[5]];
    Ok((found[8], args))
}
