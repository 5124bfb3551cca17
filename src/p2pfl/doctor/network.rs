//! The network namespaces of this host (network_namespaces(7)) and what listens in them: a container's learner
//! listens in one of its own.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::sockets::{self, Tcp};

/// A network namespace, seen through a process in it.
#[derive(Debug)]
pub(super) struct Network {
    /// That process's folder in /proc.
    through: PathBuf,
    /// Whether the doctor is in it.
    pub(super) ours: bool,
    /// Whether it has an interface beside `lo`.
    pub(super) leads_out: bool,
    pub(super) listeners: Vec<Tcp>,
}

/// What tells the network namespace of the process `folder` in /proc from others.
pub(super) fn name(folder: &Path) -> io::Result<PathBuf> {
    fs::read_link(folder.join("ns/net"))
}

impl Network {
    /// Looks at that of the process `folder` in /proc.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let listeners = sockets::tcp(folder)?;
        Ok(Self {
            through: folder.to_owned(),
            ours: name(folder)? == name(Path::new("/proc/self"))?,
            leads_out: leads_out(&fs::read_to_string(folder.join("net/dev"))?),
            listeners: listeners
                .into_iter()
                .filter(|socket| socket.listens)
                .collect(),
        })
    }

    /// What `ask` comes to in there.
    pub(super) fn within<T: Send>(
        &self,
        ask: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        if self.ours {
            return ask();
        }
        let there = File::open(self.through.join("ns/net"))?;
        // A thread is moved alone (setns(2)), and this one ends with its question.
        let moved = || {
            move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network))?;
            ask()
        };
        let asked = std::thread::scope(|scope| scope.spawn(moved).join());
        asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Whether a table in the form of /proc/net/dev has another interface than `lo`.
fn leads_out(table: &str) -> bool {
    let names = table.lines().filter_map(|line| line.split_once(':'));
    names.into_iter().any(|(name, _)| name.trim() != "lo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_with_lo_alone_leads_nowhere() {
        let table = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
";
        assert!(!leads_out(table));
        assert!(leads_out(&format!("{table}  eth0:       0       0\n")));
    }
}
