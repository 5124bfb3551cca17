//! What a process really is, read from outside: proc(5) of every one of its tasks.

mod task;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{DumpableBehavior, Pid};
use rustix::thread::CapabilitiesSecureBits;

use super::privileges::locked;
use super::{Profile, Report, Role, User};
pub(crate) use task::Task;

/// What a process must be.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) role: Role,
    pub(crate) pid: u32,
    /// The user of its own, if it has one; without, it is this process's.
    pub(crate) user: Option<User>,
    /// Whether it starts roles as users of their own.
    pub(crate) keeps_rights: bool,
    /// The profile that it must have; `None` when there is none.
    pub(crate) profile: Option<Profile>,
    /// It may have so many descriptors open at most.
    pub(crate) open_files: u64,
    /// What it said of itself.
    pub(crate) report: Report,
}

/// What a process is.
#[derive(Clone, Debug)]
pub(crate) struct Attestation {
    pub(crate) role: Role,
    pub(crate) pid: u32,
    pub(crate) report: Report,
    /// Threads that were read.
    pub(crate) tasks: usize,
    /// What the last one of them showed.
    pub(crate) task: Task,
    pub(crate) dumpable: bool,
    /// Most bytes of a core file, and most open descriptors.
    core: u64,
    open_files: u64,
    /// Open descriptors.
    descriptors: u64,
    /// It has ended, or is about to: no more is known of it.
    pub(crate) gone: bool,
    /// What is not as it must be; empty is good.
    pub(crate) mismatches: Vec<String>,
}

impl Attestation {
    /// Writes it as one line: what was read, and what the process says of itself.
    pub(crate) fn log(&self) {
        let Self { pid, report, .. } = self;
        let (role, uid) = (self.role.name(), self.task.uid());
        let (profile, sha256) = (&*report.profile, &*report.sha256);
        let (tasks, filters) = (self.tasks, self.task.filters);
        if self.mismatches.is_empty() {
            tracing::info!(
                role,
                pid,
                uid,
                tasks,
                filters,
                profile,
                sha256,
                landlock = report.landlock,
                seccomp = self.task.seccomp,
                no_new_privs = self.task.no_new_privs,
                capabilities = format!("{:x}", self.task.capabilities[2]),
                bounding = format!("{:x}", self.task.bounding),
                dumpable = self.dumpable,
                umask = format!("{:03o}", self.task.umask),
                core = self.core,
                open_files = self.open_files,
                descriptors = self.descriptors,
                outside_landlock = report.outside_landlock,
                "attested"
            );
        } else {
            let mismatches = self.mismatches.join("; ");
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

    fn unread(expected: &Expected) -> Self {
        Self {
            role: expected.role,
            pid: expected.pid,
            report: expected.report.clone(),
            tasks: 0,
            task: Task::default(),
            dumpable: true,
            core: 0,
            open_files: 0,
            descriptors: 0,
            gone: false,
            mismatches: Vec::new(),
        }
    }

    /// Finds what of the process as a whole is not as `expected` wants it, and in its securebits.
    fn compare(&mut self, expected: &Expected, bits: CapabilitiesSecureBits) {
        for (holds, what) in [
            (bits == locked(), format!("securebits are {bits:?}")),
            (self.core == 0, format!("core files of {} bytes", self.core)),
            (
                self.open_files <= expected.open_files,
                format!(
                    "up to {} descriptors and not {}",
                    self.open_files, expected.open_files
                ),
            ),
            (!self.dumpable, "it is dumpable".into()),
        ] {
            if !holds {
                self.mismatches.push(what);
            }
        }
    }
}

/// Reads every task of `expected.pid`, which is this process or a child of it.
pub(crate) fn attest(expected: &Expected) -> Attestation {
    let mut found = Attestation::unread(expected);
    let process = folder(expected.pid);
    let read = read(expected, &process, &mut found);
    let gone = match (&read, is_leaving(&process)) {
        (_, Ok(leaving)) => leaving,
        (Ok(()), Err(_ended)) => true,
        (Err(_), Err(_)) => !exists(expected.pid),
    };
    if gone {
        // What a process loses while it ends is no mismatch.
        found.gone = true;
        found.mismatches = vec!["it is gone".into()];
    } else if let Err(error) = read {
        found.mismatches.push(format!(
            "its /proc cannot be read ({error}): does /proc hide it (proc(5), hidepid; systemd: ProtectProc=default)?"
        ));
    }
    found.mismatches.sort();
    found.mismatches.dedup();
    found
}

/// Seccomp filters on this process.
pub(super) fn own_filters() -> io::Result<u32> {
    Ok(Task::read(&folder(std::process::id()))?.filters)
}

/// Whether `pid`, of root or of our own user, may be a process that we started, or one that such a process
/// started, whoever is its parent now; or it has ended. Landlock tells: our signals reach our own domain and
/// those within it (`LANDLOCK_SCOPE_SIGNAL`), which nobody below us can leave, and nobody else. So what may not
/// even be asked for (kill(2), signal 0) is somebody else's. No filter or parent of a process says so much:
/// administrators have filters too, and parents end.
pub(crate) fn may_be_below_us(pid: i32) -> bool {
    // Not in our process namespace, which all of ours are in.
    if pid == 0 {
        return false;
    }
    let asked = Pid::from_raw(pid).map(rustix::process::test_kill_process);
    asked != Some(Err(rustix::io::Errno::PERM))
}

fn folder(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

fn exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Whether a task runs no more of its program: it has ended, the kernel is taking it down (proc(5), `stat`;
/// linux/sched.h, PF_EXITING), or will, as its filter has ended it.
fn is_leaving(folder: &Path) -> io::Result<bool> {
    const PF_EXITING: u32 = 0x4;
    let stat = fs::read_to_string(folder.join("stat"))?;
    let mut fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ended = fields
        .next()
        .is_none_or(|state| state == "Z" || state == "X");
    let flags = fields.nth(5).and_then(|flags| flags.parse().ok());
    let exits = flags.is_none_or(|flags: u32| flags & PF_EXITING != 0);
    Ok(ended || exits || Task::read(folder)?.is_dead())
}

fn read(expected: &Expected, process: &Path, found: &mut Attestation) -> io::Result<()> {
    let own = Task::read(Path::new("/proc/self"))?;
    let ours = expected.pid == std::process::id();
    match &expected.profile {
        Some(profile) if profile.sha256 == expected.report.sha256 => {}
        declared => found.mismatches.push(format!(
            "its profile is {:?} and not {:?}",
            expected.report.sha256,
            declared.as_ref().map(|profile| &profile.sha256)
        )),
    }
    for entry in fs::read_dir(process.join("task"))? {
        let folder = entry?.path();
        let task = Task::read(&folder);
        // A thread that ends has no filter any more.
        if is_leaving(&folder).unwrap_or(true) {
            continue;
        }
        let task = task?;
        found.tasks += 1;
        task.compare(expected, &own, ours, &mut found.mismatches);
        found.task = task;
    }
    if found.tasks == 0 {
        return Err(io::Error::other("no task of it is there"));
    }
    let limits = fs::read_to_string(process.join("limits"))?;
    found.core = limit(&limits, "Max core file size")?;
    found.open_files = limit(&limits, "Max open files")?;
    // Since Linux 6.2 the size of the folder is the number of descriptors.
    found.descriptors = fs::metadata(process.join("fd"))?.len();
    let uid = expected.user.map_or(own.uid(), |user| user.uid);
    found.dumpable = match ours {
        true => rustix::process::dumpable_behavior()? != DumpableBehavior::NotDumpable,
        // What is not dumpable belongs to root here (proc(5), "/proc/pid"). Of a child of our own user and
        // rights we could also follow `exe` (ptrace(2), "PTRACE_MODE_READ_FSCREDS").
        false => {
            let belongs_to = fs::metadata(process.join("status"))?.uid();
            (belongs_to == uid && uid != 0) || fs::read_link(process.join("exe")).is_ok()
        }
    };
    // Everything that we start has ours: only who may bound may change them.
    let bits = match ours && expected.report.bounded {
        true => rustix::thread::capabilities_secure_bits()?,
        false => locked(),
    };
    found.compare(expected, bits);
    Ok(())
}

/// The soft and the hard limit, whichever is more (proc(5), `limits`); what is unlimited is the most.
fn limit(limits: &str, name: &str) -> io::Result<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name));
    let line = line.ok_or_else(|| io::Error::other(format!("no {name} in limits")))?;
    let both = line.split_whitespace().take(2);
    Ok(both
        .map(|limit| limit.parse().unwrap_or(u64::MAX))
        .max()
        .unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node of our own user's.
    fn expected() -> Expected {
        Expected {
            role: Role::Node,
            pid: std::process::id(),
            user: None,
            keeps_rights: false,
            profile: None,
            open_files: u64::MAX,
            report: Report::default(),
        }
    }

    #[test]
    fn each_thing_that_a_process_is_not_is_named() {
        let expected = Expected {
            open_files: 256,
            ..expected()
        };
        let found = |spoil: &dyn Fn(&mut Attestation), bits| {
            let mut found = Attestation {
                dumpable: false,
                open_files: 256,
                ..Attestation::unread(&expected)
            };
            spoil(&mut found);
            found.compare(&expected, bits);
            found.mismatches
        };
        assert_eq!(found(&|_| {}, locked()), [""; 0]);
        let weak = locked() - CapabilitiesSecureBits::NO_ROOT;
        let [bits] = &*found(&|_| {}, weak) else {
            panic!("not one")
        };
        assert!(bits.starts_with("securebits are "), "{bits}");
        type Spoilt = (fn(&mut Attestation), &'static str);
        let spoilt: [Spoilt; 3] = [
            (|found| found.core = 1, "core files of 1 bytes"),
            (
                |found| found.open_files = 257,
                "up to 257 descriptors and not 256",
            ),
            (|found| found.dumpable = true, "it is dumpable"),
        ];
        for (spoil, named) in spoilt {
            assert_eq!(found(&spoil, locked()), [named]);
        }
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files  64  512  files\n";
        assert_eq!(limit(limits, "Max open files").unwrap(), 512);
        let none = limits.replace("512", "unlimited");
        assert_eq!(limit(&none, "Max open files").unwrap(), u64::MAX);
        assert!(limit(limits, "Max core file size").is_err());
    }

    #[test]
    fn a_process_that_is_not_confined_is_found_out() {
        let found = attest(&expected());
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
    fn what_its_filter_has_ended_is_leaving_and_not_unconfined() {
        let folder = tempfile::tempdir().unwrap();
        let with = |mode: &str| {
            for name in ["stat", "status"] {
                let of_us = fs::read_to_string(Path::new("/proc/self").join(name)).unwrap();
                let lines = of_us.lines().map(|line| match line.split_once(':') {
                    Some(("Seccomp", _)) => format!("Seccomp:\t{mode}\n"),
                    _ => format!("{line}\n"),
                });
                fs::write(folder.path().join(name), lines.collect::<String>()).unwrap();
            }
            is_leaving(folder.path()).unwrap()
        };
        assert!(!with("0") && !with("2"));
        assert!(with("3"));
    }

    #[test]
    fn a_process_that_is_gone_is_not_good() {
        let found = attest(&Expected {
            // Above every process id (proc(5), `pid_max`).
            pid: 1 << 30,
            ..expected()
        });
        assert!(found.gone);
        assert_eq!(found.mismatches, ["it is gone"]);
    }
}
