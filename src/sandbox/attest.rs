//! What a process really is, read from outside: proc(5) of every one of its tasks.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{OwnProfile, Report, Role, SECCOMP, User, embedded};

/// What a process must be.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) role: Role,
    pub(crate) pid: u32,
    /// The user of its own, if it has one; without, it is this process's.
    pub(crate) user: Option<User>,
    /// Whether it starts roles as users of their own.
    pub(crate) keeps_rights: bool,
    /// The profile of the administrator's that it was given, if it was given one.
    pub(crate) own_profile: Option<OwnProfile>,
    /// What it said of itself.
    pub(crate) report: Report,
}

/// What a process is.
#[derive(Clone, Debug)]
pub(crate) struct Attestation {
    pub(crate) role: Role,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    /// Its effective capabilities.
    pub(crate) capabilities: u64,
    /// Threads that were read.
    pub(crate) tasks: usize,
    /// Filters on each of them, those of its parents included.
    pub(crate) filters: u32,
    pub(crate) report: Report,
    /// What is not as it must be; empty is good.
    pub(crate) mismatches: Vec<String>,
}

impl Attestation {
    /// Writes it as one line.
    pub(crate) fn log(&self) {
        let Self {
            role,
            pid,
            uid,
            capabilities,
            tasks,
            filters,
            report,
            mismatches,
        } = self;
        let (role, profile, sha256, landlock) = (
            role.name(),
            &*report.profile,
            &*report.sha256,
            &*report.landlock,
        );
        if mismatches.is_empty() {
            tracing::info!(
                role,
                pid,
                uid,
                tasks,
                filters,
                profile,
                sha256,
                landlock,
                seccomp = SECCOMP,
                no_new_privs = 1,
                capabilities = format!("{capabilities:x}"),
                dumpable = 0,
                descriptors = report.descriptors,
                outside_landlock = report.outside_landlock,
                "attested"
            );
        } else {
            let mismatches = mismatches.join("; ");
            tracing::error!(
                role,
                pid,
                uid,
                tasks,
                filters,
                profile,
                sha256,
                mismatches,
                "not confined as declared"
            );
        }
    }
}

/// Reads every task of `expected.pid`, which is this process or a child of it.
pub(crate) fn attest(expected: &Expected) -> Attestation {
    let mut found = Attestation {
        role: expected.role,
        pid: expected.pid,
        uid: 0,
        capabilities: 0,
        tasks: 0,
        filters: 0,
        report: expected.report.clone(),
        mismatches: Vec::new(),
    };
    if let Err(error) = read(expected, &mut found) {
        found
            .mismatches
            .push(format!("its /proc cannot be read ({error}): it is gone, or /proc hides it (proc(5), hidepid; systemd: ProtectProc=default)"));
    }
    found.mismatches.sort();
    found.mismatches.dedup();
    found
}

fn read(expected: &Expected, found: &mut Attestation) -> io::Result<()> {
    let own = Task::read(Path::new("/proc/self"))?;
    let process = Path::new("/proc").join(expected.pid.to_string());
    let ours = expected.pid == std::process::id();
    let declared_profiles = embedded::digests(expected.role, expected.own_profile.as_ref());
    if !declared_profiles.contains(&expected.report.sha256) {
        found.mismatches.push(format!(
            "its profile is {:?} and none of {declared_profiles:?}",
            expected.report.sha256
        ));
    }
    // Only the supervisor keeps any, and only when it starts roles as other users.
    let rights = if ours && expected.keeps_rights {
        super::users::rights().bits()
    } else {
        0
    };
    let uid = expected.user.map_or(own.uids[1], |user| user.uid);
    for entry in fs::read_dir(process.join("task"))? {
        let task = match Task::read(&entry?.path()) {
            Ok(task) => task,
            // A thread that ended meanwhile.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        found.tasks += 1;
        found.filters = task.filters;
        found.uid = task.uids[0];
        found.capabilities = task.capabilities[2];
        let declared = own.filters + if ours { 0 } else { expected.report.filters };
        let mut must = |holds: bool, what: String| {
            if !holds {
                found.mismatches.push(what);
            }
        };
        must(
            task.seccomp == SECCOMP,
            format!("Seccomp is {} and not {SECCOMP}", task.seccomp),
        );
        must(
            task.filters >= declared,
            format!("{} seccomp filters and not {declared}", task.filters),
        );
        must(task.no_new_privs == 1, "NoNewPrivs is not set".into());
        must(
            task.uids.iter().all(|found| *found == uid),
            format!("uids are {:?} and not {uid}", task.uids),
        );
        if let Some(User { gid, .. }) = expected.user {
            must(
                task.gids.iter().all(|found| *found == gid),
                format!("gids are {:?} and not {gid}", task.gids),
            );
            must(
                task.groups.is_empty(),
                format!("it is in the groups {:?}", task.groups),
            );
        }
        for ((name, declared), set) in [
            ("CapInh", 0),
            ("CapPrm", rights),
            ("CapEff", rights),
            ("CapAmb", 0),
        ]
        .into_iter()
        .zip(task.capabilities)
        {
            must(
                set == declared,
                format!("{name} is {set:x} and not {declared:x}"),
            );
        }
        must(
            task.tracer == 0,
            format!("process {} traces it", task.tracer),
        );
        // Without the right to empty it, it is what we were started with, and worth nothing.
        must(
            task.bounding == own.bounding,
            format!("CapBnd is {:x} and not {:x}", task.bounding, own.bounding),
        );
    }
    if found.tasks == 0 {
        found.mismatches.push("it is gone".into());
    }
    if ours {
        return Ok(());
    }
    // What is not dumpable belongs to root here (proc(5), "/proc/pid"). Of a child of our own user and
    // rights we could also follow `exe` (ptrace(2), "PTRACE_MODE_READ_FSCREDS").
    let belongs_to = fs::metadata(process.join("status"))?.uid();
    if (belongs_to == uid && uid != 0) || fs::read_link(process.join("exe")).is_ok() {
        found.mismatches.push("it is dumpable".into());
    }
    Ok(())
}

/// The lines of proc(5) `status` that matter here.
#[derive(Debug, Default)]
struct Task {
    seccomp: u32,
    filters: u32,
    no_new_privs: u32,
    /// Real, effective, saved, of the file system.
    uids: Vec<u32>,
    gids: Vec<u32>,
    /// The others that it is in.
    groups: Vec<u32>,
    /// Process id of a debugger; 0 without one.
    tracer: u32,
    /// Inheritable, permitted, effective, ambient.
    capabilities: [u64; 4],
    bounding: u64,
}

impl Task {
    fn read(folder: &Path) -> io::Result<Self> {
        Self::parse(&fs::read_to_string(folder.join("status"))?)
    }

    fn parse(status: &str) -> io::Result<Self> {
        let field = |name: &str| {
            let mut lines = status.lines().filter_map(|line| line.split_once(':'));
            let found = lines
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.trim());
            found.ok_or_else(|| io::Error::other(format!("no {name} in status")))
        };
        let number = |name: &str| field(name)?.parse().map_err(io::Error::other);
        let set = |name: &str| u64::from_str_radix(field(name)?, 16).map_err(io::Error::other);
        let numbers = |name: &str| -> io::Result<Vec<u32>> {
            let words = field(name)?.split_whitespace().map(str::parse);
            words.collect::<Result<_, _>>().map_err(io::Error::other)
        };
        let (uids, gids) = (numbers("Uid")?, numbers("Gid")?);
        if uids.len() != 4 || gids.len() != 4 {
            return Err(io::Error::other("not four Uids and Gids in status"));
        }
        Ok(Self {
            seccomp: number("Seccomp")?,
            filters: number("Seccomp_filters")?,
            no_new_privs: number("NoNewPrivs")?,
            uids,
            gids,
            groups: numbers("Groups")?,
            tracer: number("TracerPid")?,
            capabilities: [
                set("CapInh")?,
                set("CapPrm")?,
                set("CapEff")?,
                set("CapAmb")?,
            ],
            bounding: set("CapBnd")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_not_confined_is_found_out() {
        let report = Report {
            filters: 1,
            ..Report::default()
        };
        let found = attest(&Expected {
            role: Role::Node,
            pid: std::process::id(),
            user: None,
            keeps_rights: false,
            own_profile: None,
            report,
        });
        assert!(found.tasks > 0);
        assert!(
            found
                .mismatches
                .iter()
                .any(|what| what.starts_with("Seccomp is 0")),
            "{found:?}"
        );
        assert!(
            found
                .mismatches
                .iter()
                .any(|what| what.starts_with("NoNewPrivs")),
            "{found:?}"
        );
        assert!(
            found
                .mismatches
                .iter()
                .any(|what| what.starts_with("its profile is")),
            "{found:?}"
        );
    }

    #[test]
    fn a_process_that_is_gone_is_not_good() {
        let found = attest(&Expected {
            role: Role::Node,
            pid: u32::MAX,
            user: None,
            keeps_rights: false,
            own_profile: None,
            report: Report::default(),
        });
        assert!(!found.mismatches.is_empty());
    }
}
