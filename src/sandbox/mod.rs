//! What a role gives up before it serves, in three steps that cannot be taken in another order:
//! [`enter`] (limits, capabilities), [`Entered::wall`] (Landlock), [`Walled::seal`] (seccomp). The
//! last one gives the [`Confined`] that serving needs; whatever cannot be applied is an error, and
//! the role does not start. There is no switch, and no build that skips a step.
//!
//! [`attest`] reads back from /proc, from outside, what a process really is.

#[cfg(feature = "attack-trigger")]
pub(crate) mod attack;
mod attest;
mod calls;
mod embedded;
mod learn;
mod panic;
mod privileges;
mod profile;
mod rules;
mod trace;
mod users;
mod walls;

use std::io;

use serde::{Deserialize, Serialize};

use crate::fault::{Fault, chain};

pub(crate) use attest::{Attestation, Expected, attest};
pub(crate) use embedded::{Maker, OwnProfile};
pub(crate) use learn::{Draft, Learned, Learning, Standing};
pub(crate) use profile::{Profile, ProfileError};
pub(crate) use rules::Rule;
pub(crate) use trace::{SeenCall, TraceError, Tracer, is_traced};
pub(crate) use users::{User, may_change_users};
pub(crate) use walls::{Reach, Walls};

use rustix::thread::CapabilitySet;

/// The kernel that everything here is in: Landlock's scopes (ABI 6) are the newest part.
pub(crate) const NEEDS: &str = "Linux 6.12 with CONFIG_SECURITY_LANDLOCK, `landlock` in its list of security modules, and CONFIG_SECCOMP_FILTER";

/// What a build for `benches/run filters` says of itself, wherever it can.
#[cfg(feature = "dangerous-unfiltered-bench")]
pub(crate) const UNFILTERED: &str = "DANGEROUS: this build has NO SYSTEM CALL FILTERS; it is for `benches/run filters` alone, never for keys that matter";

/// proc(5) `Seccomp` of a task of ours.
#[cfg(not(feature = "dangerous-unfiltered-bench"))]
const SECCOMP: u32 = 2;
#[cfg(feature = "dangerous-unfiltered-bench")]
const SECCOMP: u32 = 0;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Supervisor,
    Keeper,
    Node,
}

impl Role {
    /// As profiles, logs and the administrator say it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::Keeper => "keeper",
            Self::Node => "node",
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
}

/// It sees no more of the system than its walls show. Made by [`Entered::wall`].
#[must_use]
#[derive(Debug)]
pub(crate) struct Walled {
    role: Role,
    report: Report,
}

/// The supervisor's three steps: it has one thread and has bound its sockets. `users`: those that roles
/// are started as, none when they run as the supervisor's.
pub(crate) fn confine_supervisor(
    own: Option<&OwnProfile>,
    users: &[User],
) -> Result<(Confined, Report), Vec<Fault>> {
    if !users.is_empty()
        && let Some(fault) = users::missing()
    {
        return Err(vec![fault]);
    }
    confine(own, users).map_err(|error| {
        let mut faults = missing();
        faults.push(error.into());
        faults
    })
}

fn confine(own: Option<&OwnProfile>, users: &[User]) -> Result<(Confined, Report), SandboxError> {
    let programs = Walls::own_program().map_err(|cause| SandboxError::Refused {
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
    enter_with(Role::Supervisor, kept)?
        .wall(&programs)?
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
    /// Filters installed.
    pub(crate) filters: u32,
    /// What Landlock leaves, for people.
    pub(crate) landlock: String,
    /// Threads that a module had started before Landlock was on; seccomp holds them all the same.
    pub(crate) outside_landlock: usize,
    /// Open descriptors when it was sealed.
    pub(crate) descriptors: usize,
}

/// First step, before anything is read: inherited descriptors, panics, rights.
pub(crate) fn enter(role: Role) -> Result<Entered, SandboxError> {
    enter_with(role, CapabilitySet::empty())
}

fn enter_with(role: Role, kept: CapabilitySet) -> Result<Entered, SandboxError> {
    if role != Role::Supervisor {
        privileges::close_foreign_descriptors()?;
    }
    panic::abort_on_panic();
    privileges::give_up(role, kept)?;
    Ok(Entered { role })
}

impl Entered {
    /// Lowers how many descriptors this process may have open (getrlimit(2) `RLIMIT_NOFILE`), or to
    /// what it is allowed if that is less.
    pub(crate) fn limit_descriptors(&self, most: u64) -> Result<(), SandboxError> {
        privileges::limit_descriptors(most)
    }

    /// Second step: Landlock. A thread that runs already would not be reached (before ABI 8), so
    /// only a keeper, whose module may have some, may have any.
    pub(crate) fn wall(self, walls: &Walls) -> Result<Walled, SandboxError> {
        let threads = privileges::count("/proc/self/task")?;
        if threads > 1 && self.role != Role::Keeper {
            return Err(SandboxError::Threads(threads));
        }
        let descriptors = privileges::count("/proc/self/fd")?;
        walls.raise()?;
        let report = Report {
            landlock: walls.to_string(),
            outside_landlock: threads - 1,
            descriptors,
            ..Report::default()
        };
        Ok(Walled {
            role: self.role,
            report,
        })
    }
}

impl Walled {
    /// Last step: the filters of `profile`, on every thread at once (seccomp(2)
    /// `SECCOMP_FILTER_FLAG_TSYNC`).
    pub(crate) fn seal(self, profile: &Profile) -> Result<(Confined, Report), SandboxError> {
        let Self { role, mut report } = self;
        report.profile.clone_from(&profile.name);
        report.sha256.clone_from(&profile.sha256);
        report.filters = u32::try_from(profile.filters.len()).unwrap_or(u32::MAX);
        tracing::debug!(
            role = role.name(),
            profile = report.profile,
            sha256 = report.sha256,
            "sealing"
        );
        #[cfg(feature = "dangerous-unfiltered-bench")]
        {
            tracing::error!(role = role.name(), "{UNFILTERED}");
            report.filters = 0;
        }
        #[cfg(not(feature = "dangerous-unfiltered-bench"))]
        for filter in &profile.filters {
            seccompiler::apply_filter_all_threads(filter).map_err(|error| {
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

/// What this system lacks for any role to start. Nothing is applied.
fn missing() -> Vec<Fault> {
    walls::missing().into_iter().collect()
}
