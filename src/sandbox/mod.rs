//! What a role gives up before it serves, in three steps that cannot be taken in another order:
//! [`enter`] (limits, capabilities), [`Entered::wall`] (Landlock), [`Walled::seal`] (seccomp). The
//! last one gives the [`Confined`] that serving needs; whatever cannot be applied is an error, and
//! the role does not start. There is no switch, and no build that skips a step.
//!
//! [`attest`] reads back from /proc, from outside, what a process really is.

pub(crate) mod allocator;
#[cfg(feature = "attack-trigger")]
pub(crate) mod attack;
mod attest;
mod calls;
mod connected;
mod embedded;
mod evidence;
mod filter;
mod learn;
mod panic;
mod privileges;
mod profile;
mod rules;
mod trace;
mod users;
mod walls;

use std::collections::BTreeSet;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use fastness_secret_page::Code;
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, chain};

pub(crate) use attest::{Attestation, Expected, attest, may_be_below_us};
pub(crate) use connected::connected_ports;
pub(crate) use embedded::{Maker, OwnProfile};
pub(crate) use evidence::Evidence;
pub(crate) use learn::{Draft, Learned, Learning, Standing};
pub(crate) use profile::{Profile, ProfileError};
pub(crate) use rules::Rule;
pub(crate) use trace::{SeenCall, TraceError, Tracer, is_traced};
pub(crate) use users::{User, may_change_users};
pub(crate) use walls::{NAMES, Reach, Walls};

use rustix::thread::CapabilitySet;

/// The kernel that everything here is in: Landlock's scopes (ABI 6) are the newest part.
pub(crate) const NEEDS: &str = "Linux 6.12 with CONFIG_SECURITY_LANDLOCK, `landlock` in its list of security modules, and CONFIG_SECCOMP_FILTER";

/// What a build for `benches/run filters` says of itself, wherever it can.
#[cfg(feature = "dangerous-unfiltered-bench")]
pub(crate) const UNFILTERED: &str = "DANGEROUS: this build can leave out ALL SYSTEM CALL FILTERS; it is for `benches/run filters` alone, never for keys that matter";

/// Whether a seal puts a filter on a process.
#[cfg(not(feature = "dangerous-unfiltered-bench"))]
const fn is_filtered() -> bool {
    true
}

/// Both sides of the benchmark are one program under two names: two builds would differ by more than this.
#[cfg(feature = "dangerous-unfiltered-bench")]
fn is_filtered() -> bool {
    !std::env::current_exe().is_ok_and(|program| program.ends_with("fastness-unfiltered"))
}

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Supervisor,
    Keeper,
    Node,
    Resolver,
}

impl Role {
    /// As profiles, logs and the administrator say it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::Keeper => "keeper",
            Self::Node => "node",
            Self::Resolver => "resolver",
        }
    }
}

/// A step of the confinement that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// The system refuses it.
    #[error("cannot apply {step} (since Linux {since}); fastness needs {NEEDS}")]
    Refused {
        step: &'static str,
        since: &'static str,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel took it and does less than asked.
    #[error("Landlock is not fully enforced: fastness needs {NEEDS}")]
    Partly,
    /// Threads run that Landlock would not reach.
    #[error("{0} threads run already: Landlock would not reach the others (a bug)")]
    Threads(usize),
    /// Somebody can read and change all of this process, and it has not been given anything yet.
    #[error("another process traces this one (ptrace(2)): nothing is told to it")]
    Traced,
    /// The profile is no good.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

impl SandboxError {
    fn refused(step: &'static str, since: &'static str) -> impl Fn(rustix::io::Errno) -> Self {
        move |errno| Self::Refused {
            step,
            since,
            cause: Box::new(io::Error::from(errno)),
        }
    }
}

impl From<SandboxError> for Fault {
    fn from(error: SandboxError) -> Self {
        Self::new(
            "sandbox",
            chain(&error),
            "a role that is not confined does not start",
        )
    }
}

/// This process may no longer gain anything. Made by [`enter`].
#[must_use]
#[derive(Debug)]
pub(crate) struct Entered {
    role: Role,
    bounded: bool,
}

/// It sees no more of the system than its walls show. Made by [`Entered::wall`].
#[must_use]
#[derive(Debug)]
pub(crate) struct Walled {
    role: Role,
    report: Report,
    code: Code,
}

fn giving_back(cause: io::Error) -> SandboxError {
    SandboxError::Refused {
        step: "giving back the code of the start (/proc/self/maps, madvise(2))",
        since: "2.4",
        cause: Box::new(cause),
    }
}

fn asking_for_filters(cause: io::Error) -> SandboxError {
    SandboxError::Refused {
        step: "asking how many filters there are (/proc/self/status)",
        since: "5.9",
        cause: Box::new(cause),
    }
}

/// The supervisor's three steps: it has one thread and has bound its sockets. `users`: those that roles
/// are started as, none when they run as the supervisor's. `open_files`: its own limit, and the one that
/// no role goes beyond. `ports`: TCP ports that any role connects to.
pub(crate) fn confine_supervisor(
    own: Option<&OwnProfile>,
    users: &[User],
    open_files: (u64, u64),
    ports: BTreeSet<u16>,
) -> Result<(Confined, Report), Vec<Fault>> {
    if !users.is_empty()
        && let Some(fault) = users::missing()
    {
        return Err(vec![fault]);
    }
    confine(own, users, open_files, ports).map_err(|error| {
        let mut faults = missing();
        faults.push(error.into());
        faults
    })
}

fn confine(
    own: Option<&OwnProfile>,
    users: &[User],
    (open_files, ceiling): (u64, u64),
    ports: BTreeSet<u16>,
) -> Result<(Confined, Report), SandboxError> {
    let walls = Walls::of_supervisor(ports).map_err(|cause| SandboxError::Refused {
        step: "reading our own binary (/proc/self/exe)",
        since: "2.2",
        cause: Box::new(cause),
    })?;
    let profile = Profile::supervisor(own, users)?;
    let kept = if users.is_empty() {
        CapabilitySet::empty()
    } else {
        privileges::leave_groups()?;
        users::rights()
    };
    privileges::limit_descriptors(open_files, ceiling)?;
    enter_with(Role::Supervisor, kept)?
        .wall(&walls)?
        .seal(&profile)
}

/// Proof that this process is confined. Serving cannot be started without it; made by
/// [`Walled::seal`] alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confined(());

/// What a role says of its own confinement; the supervisor holds it against /proc.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) profile: String,
    /// Digest of the profile, hexadecimal.
    pub(crate) sha256: String,
    /// What Landlock leaves, for people.
    pub(crate) landlock: String,
    /// Threads that a module had started before Landlock was on; seccomp holds them all the same.
    pub(crate) outside_landlock: usize,
    /// Whether it could empty the capability bounding set.
    pub(crate) bounded: bool,
    /// Filters that were on it before its own.
    pub(crate) filters_before: u32,
}

/// First step, before anything is read: inherited descriptors, panics, rights.
pub(crate) fn enter(role: Role) -> Result<Entered, SandboxError> {
    let entered = enter_traced(role)?;
    untraced()?;
    Ok(entered)
}

/// The same for a process that is traced because it learns.
pub(crate) fn enter_traced(role: Role) -> Result<Entered, SandboxError> {
    privileges::close(privileges::foreign_descriptors()?);
    enter_with(role, CapabilitySet::empty())
}

fn enter_with(role: Role, kept: CapabilitySet) -> Result<Entered, SandboxError> {
    panic::abort_on_panic();
    let bounded = privileges::give_up(role, kept)?;
    Ok(Entered { role, bounded })
}

/// Until a process is not dumpable any more, others of its user may take hold of it and keep it.
fn untraced() -> Result<(), SandboxError> {
    match is_traced() {
        Ok(false) => Ok(()),
        Ok(true) => Err(SandboxError::Traced),
        Err(cause) => Err(SandboxError::Refused {
            step: "asking who traces us (/proc/self/status)",
            since: "2.6",
            cause: Box::new(cause),
        }),
    }
}

/// Neither core files nor an open /proc/PID for this process, which takes a PIN and is no role.
pub(crate) fn hide() -> Result<(), SandboxError> {
    privileges::hide()
}

/// The descriptors that this process, which has opened none yet, was started with; but for the standard
/// streams.
pub(crate) struct Inherited(Vec<i32>);

impl Inherited {
    /// Lists them.
    pub(crate) fn find() -> Result<Self, SandboxError> {
        privileges::foreign_descriptors().map(Self)
    }

    /// Closes all but what is `kept`.
    pub(crate) fn close(self, kept: impl Fn(i32) -> bool) {
        privileges::close(self.0.into_iter().filter(|number| !kept(*number)));
    }
}

impl Entered {
    /// Lowers how many descriptors this process may have open (getrlimit(2) `RLIMIT_NOFILE`), or to
    /// what it is allowed if that is less.
    pub(crate) fn limit_descriptors(&self, most: u64) -> Result<(), SandboxError> {
        privileges::limit_descriptors(most, most)
    }

    /// Second step: Landlock. A thread that runs already would not be reached (before ABI 8), so
    /// only a keeper, whose module may have some, may have any.
    pub(crate) fn wall(self, walls: &Walls) -> Result<Walled, SandboxError> {
        let threads = privileges::count("/proc/self/task")?;
        if threads > 1 && self.role != Role::Keeper {
            return Err(SandboxError::Threads(threads));
        }
        // While /proc can still be read.
        let code = Code::mapped().map_err(giving_back)?;
        let filters_before = attest::own_filters().map_err(asking_for_filters)?;
        walls.raise()?;
        let report = Report {
            landlock: walls.to_string(),
            outside_landlock: threads - 1,
            bounded: self.bounded,
            filters_before,
            ..Report::default()
        };
        Ok(Walled {
            role: self.role,
            report,
            code,
        })
    }
}

impl Walled {
    /// Last step: the filter of `profile`, on every thread at once (seccomp(2)
    /// `SECCOMP_FILTER_FLAG_TSYNC`).
    pub(crate) fn seal(self, profile: &Profile) -> Result<(Confined, Report), SandboxError> {
        let Self {
            role,
            mut report,
            code,
        } = self;
        // The start is over, and most of what it ran is never run again.
        code.give_back().map_err(giving_back)?;
        // Nobody else sets it: a process is sealed once.
        let _ = CODE.set(code);
        report.profile.clone_from(&profile.name);
        report.sha256.clone_from(&profile.sha256);
        tracing::debug!(
            role = role.name(),
            profile = report.profile,
            sha256 = report.sha256,
            "sealing"
        );
        #[cfg(feature = "dangerous-unfiltered-bench")]
        tracing::error!(role = role.name(), "{UNFILTERED}");
        if is_filtered() {
            seccompiler::apply_filter_all_threads(&profile.filter()).map_err(|error| {
                SandboxError::Refused {
                    step: "the seccomp filter",
                    since: "3.17",
                    cause: Box::new(error),
                }
            })?;
        }
        Ok((Confined(()), report))
    }
}

/// Where the code of this sealed process is: of the process, as the seal is.
static CODE: OnceLock<Code> = OnceLock::new();

/// How long after it is ready a process has done all that is done once.
pub(crate) const SETTLED: Duration = Duration::from_secs(1);

/// Gives back what has been run only to get ready since the seal, in a process that is ready now.
pub(crate) fn settle() {
    let Some(code) = CODE.get() else {
        return;
    };
    match code.give_back() {
        Ok(bytes) => tracing::debug!(bytes, "settled"),
        Err(error) => tracing::warn!(%error, "code that is no longer needed stays in memory"),
    }
}

/// What this system lacks for any role to start. Nothing is applied.
fn missing() -> Vec<Fault> {
    walls::missing().into_iter().collect()
}
