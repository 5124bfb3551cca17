//! One task, by what proc(5) says of it.

use std::fs;
use std::io;
use std::path::Path;

use super::super::{User, is_filtered, users};
use super::Expected;

/// The lines of proc(5) `status` that matter here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Task {
    pub(super) seccomp: u32,
    /// Those of its parents included.
    pub(crate) filters: u32,
    pub(super) no_new_privs: u32,
    pub(super) umask: u32,
    /// Real, effective, saved, of the file system.
    uids: Vec<u32>,
    gids: Vec<u32>,
    /// The others that it is in.
    groups: Vec<u32>,
    /// Process id of a debugger; 0 without one.
    tracer: u32,
    /// Inheritable, permitted, effective, ambient.
    pub(super) capabilities: [u64; 4],
    pub(super) bounding: u64,
}

impl Task {
    /// Whether its filter has ended it: it makes no call any more (SECCOMP_MODE_DEAD, kernel/seccomp.c).
    pub(super) fn is_dead(&self) -> bool {
        self.seccomp == 3
    }

    /// Its effective user.
    pub(crate) fn uid(&self) -> u32 {
        self.uids.get(1).copied().unwrap_or_default()
    }

    /// What is not as `expected` wants it. `own`: this process, which `ours` says it is.
    pub(super) fn compare(
        &self,
        expected: &Expected,
        own: &Self,
        ours: bool,
        mismatches: &mut Vec<String>,
    ) {
        let mut must = |holds: bool, what: String| {
            if !holds {
                mismatches.push(what);
            }
        };
        let seccomp = if is_filtered() { 2 } else { 0 };
        must(
            self.seccomp == seccomp,
            format!("Seccomp is {} and not {seccomp}", self.seccomp),
        );
        // Ours are on everything that we start.
        let before = if ours {
            expected.report.filters_before
        } else {
            own.filters
        };
        let filters = before + u32::from(is_filtered());
        must(
            self.filters >= filters,
            format!("{} seccomp filters and not {filters}", self.filters),
        );
        must(self.no_new_privs == 1, "NoNewPrivs is not set".into());
        must(
            self.umask == 0o077,
            format!("its umask is {:03o} and not 077", self.umask),
        );
        let uid = expected.user.map_or(own.uid(), |user| user.uid);
        must(
            self.uids.iter().all(|found| *found == uid),
            format!("uids are {:?} and not {uid}", self.uids),
        );
        if let Some(User { gid, .. }) = expected.user {
            must(
                self.gids.iter().all(|found| *found == gid),
                format!("gids are {:?} and not {gid}", self.gids),
            );
            must(
                self.groups.is_empty(),
                format!("it is in the groups {:?}", self.groups),
            );
        }
        // Only the supervisor keeps any, and only when it starts roles as other users.
        let rights = match ours && expected.keeps_rights {
            true => users::rights().bits(),
            false => 0,
        };
        let names = ["CapInh", "CapPrm", "CapEff", "CapAmb"];
        let declared = [0, rights, rights, 0];
        for ((name, declared), set) in names.into_iter().zip(declared).zip(self.capabilities) {
            must(
                set == declared,
                format!("{name} is {set:x} and not {declared:x}"),
            );
        }
        // Without the right to empty it, it is what we were started with, and worth nothing.
        let bounding = match ours && expected.report.bounded {
            true => 0,
            false => own.bounding,
        };
        must(
            self.bounding == bounding,
            format!("CapBnd is {:x} and not {bounding:x}", self.bounding),
        );
        must(
            self.tracer == 0,
            format!("process {} traces it", self.tracer),
        );
    }

    pub(super) fn read(folder: &Path) -> io::Result<Self> {
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
            umask: u32::from_str_radix(field("Umask")?, 8).map_err(io::Error::other)?,
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
    use super::super::super::{Report, Role};
    use super::*;

    const GOOD: &str = "\
Name:\tfastness
Umask:\t0077
State:\tS (sleeping)
Tgid:\t71
Pid:\t72
PPid:\t70
TracerPid:\t0
Uid:\t990\t990\t990\t990
Gid:\t980\t980\t980\t980
FDSize:\t64
Groups:\t
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t0000000000000400
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t3
";

    fn expected(user: Option<User>) -> Expected {
        Expected {
            role: Role::Keeper,
            pid: 71,
            user,
            keeps_rights: false,
            profile: None,
            open_files: 0,
            report: Report::default(),
        }
    }

    /// Another process than ours, which is like `GOOD` but for its filters: one fewer.
    fn found(status: &str, expected: &Expected) -> Vec<String> {
        let own = Task {
            filters: 2,
            ..Task::parse(GOOD).unwrap()
        };
        let mut mismatches = Vec::new();
        let task = Task::parse(status).unwrap();
        task.compare(expected, &own, false, &mut mismatches);
        mismatches
    }

    /// `GOOD` with another value of `field`.
    fn with(field: &str, value: &str) -> String {
        let lines = GOOD.lines().map(|line| match line.split_once(':') {
            Some((name, _)) if name == field => format!("{field}:\t{value}\n"),
            _ => format!("{line}\n"),
        });
        let spoilt: String = lines.collect();
        assert_ne!(spoilt, GOOD, "{field}");
        spoilt
    }

    #[test]
    fn each_field_that_is_not_as_it_must_be_is_named() {
        let user = Some(User { uid: 990, gid: 980 });
        assert_eq!(found(GOOD, &expected(user)), [""; 0]);
        for (field, value, named) in [
            ("Seccomp", "0", "Seccomp is 0 and not 2"),
            ("Seccomp", "1", "Seccomp is 1 and not 2"),
            ("Seccomp_filters", "2", "2 seccomp filters and not 3"),
            ("NoNewPrivs", "0", "NoNewPrivs is not set"),
            ("Umask", "0022", "its umask is 022 and not 077"),
            (
                "Uid",
                "0 990 990 990",
                "uids are [0, 990, 990, 990] and not 990",
            ),
            (
                "Uid",
                "990 0 990 990",
                "uids are [990, 0, 990, 990] and not 990",
            ),
            (
                "Uid",
                "990 990 0 990",
                "uids are [990, 990, 0, 990] and not 990",
            ),
            (
                "Uid",
                "990 990 990 0",
                "uids are [990, 990, 990, 0] and not 990",
            ),
            (
                "Gid",
                "0 980 980 980",
                "gids are [0, 980, 980, 980] and not 980",
            ),
            (
                "Gid",
                "980 0 980 980",
                "gids are [980, 0, 980, 980] and not 980",
            ),
            (
                "Gid",
                "980 980 0 980",
                "gids are [980, 980, 0, 980] and not 980",
            ),
            (
                "Gid",
                "980 980 980 0",
                "gids are [980, 980, 980, 0] and not 980",
            ),
            ("Groups", "4 27", "it is in the groups [4, 27]"),
            ("CapInh", "1", "CapInh is 1 and not 0"),
            ("CapPrm", "20", "CapPrm is 20 and not 0"),
            ("CapEff", "20", "CapEff is 20 and not 0"),
            ("CapAmb", "1", "CapAmb is 1 and not 0"),
            ("CapBnd", "1ffffffffff", "CapBnd is 1ffffffffff and not 400"),
            ("CapBnd", "0", "CapBnd is 0 and not 400"),
            ("TracerPid", "7", "process 7 traces it"),
        ] {
            assert_eq!(found(&with(field, value), &expected(user)), [named]);
        }
        // More filters than ours are no harm.
        assert_eq!(
            found(&with("Seccomp_filters", "4"), &expected(user)),
            [""; 0]
        );
    }

    #[test]
    fn a_role_without_a_user_of_its_own_has_ours() {
        assert_eq!(found(GOOD, &expected(None)), [""; 0]);
        let other = with("Uid", "991 991 991 991");
        let named = "uids are [991, 991, 991, 991] and not 990";
        assert_eq!(found(&other, &expected(None)), [named]);
    }

    #[test]
    fn only_a_supervisor_with_users_keeps_rights_and_only_these() {
        let supervisor = |keeps_rights| Expected {
            keeps_rights,
            report: Report {
                bounded: true,
                filters_before: 2,
                ..Report::default()
            },
            ..expected(None)
        };
        let rights = format!("{:x}", users::rights().bits());
        let kept = with("CapPrm", &rights)
            .replace("CapEff:\t0000000000000000", &format!("CapEff:\t{rights}"))
            .replace("CapBnd:\t0000000000000400", "CapBnd:\t0");
        let found = |status: &str, keeps_rights| {
            let task = Task::parse(status).unwrap();
            let mut mismatches = Vec::new();
            task.compare(&supervisor(keeps_rights), &task, true, &mut mismatches);
            mismatches
        };
        assert_eq!(found(&kept, true), [""; 0]);
        let named = ["CapPrm", "CapEff"].map(|set| format!("{set} is {rights} and not 0"));
        assert_eq!(found(&kept, false), named);
        let none = with("CapBnd", "0");
        let named = ["CapPrm", "CapEff"].map(|set| format!("{set} is 0 and not {rights}"));
        assert_eq!(found(&none, true), named);
        let unbounded = kept.replace("CapBnd:\t0", "CapBnd:\t400");
        assert_eq!(found(&unbounded, true), ["CapBnd is 400 and not 0"]);
    }

    #[test]
    fn a_status_that_lacks_a_field_or_says_nonsense_is_no_task() {
        for field in [
            "Umask",
            "TracerPid",
            "Uid",
            "Gid",
            "Groups",
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
            "Seccomp_filters",
        ] {
            let renamed = GOOD.replace(&format!("\n{field}:"), "\nOther:");
            let error = Task::parse(&renamed).unwrap_err().to_string();
            assert_eq!(error, format!("no {field} in status"));
            assert!(Task::parse(&with(field, "x")).is_err(), "{field}");
        }
        assert!(Task::parse(&with("Uid", "990 990 990")).is_err());
        assert!(Task::parse(&with("Gid", "980 980 980 980 980")).is_err());
    }
}
