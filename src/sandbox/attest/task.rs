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
