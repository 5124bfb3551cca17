//! The processes of this host, as far as the doctor may see them: their sockets and their network namespaces.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::network::{self, Network};
use crate::sockets;

/// Part of the name of gRPC's library for Python, which P2PFL speaks with.
const GRPC: &str = "/cygrpc.";

/// What runs on this host.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// Each network namespace that one of them is in.
    pub(super) networks: BTreeMap<PathBuf, Network>,
    /// Processes by the inodes of their sockets.
    pub(super) owners: BTreeMap<u64, Owner>,
    /// Processes of which nothing can be seen.
    pub(super) unseen: BTreeSet<u32>,
}

/// The process behind a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) pid: u32,
    pub(super) command: String,
    pub(super) kind: Kind,
    /// Where it has P2PFL from.
    pub(super) package: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Fastness,
    /// Python with gRPC: P2PFL or its like.
    Learner,
    Other,
}

impl Processes {
    /// Looks at all of them.
    pub(super) fn look() -> io::Result<Self> {
        let mut seen = Self::default();
        let pids = fs::read_dir("/proc")?.flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // There is always a first one, listed or not (proc(5), hidepid).
        for pid in pids.chain([1]).collect::<BTreeSet<u32>>() {
            match seen.take(pid) {
                Ok(()) => {}
                // It is gone.
                Err(error) if is_gone(&error) && pid != 1 => {}
                Err(_) => {
                    seen.unseen.insert(pid);
                }
            }
        }
        Ok(seen)
    }

    fn take(&mut self, pid: u32) -> io::Result<()> {
        let folder = Path::new("/proc").join(pid.to_string());
        let name = network::name(&folder)?;
        if let Entry::Vacant(unseen) = self.networks.entry(name) {
            unseen.insert(Network::read(&folder)?);
        }
        let inodes = sockets::inodes(&folder)?;
        if inodes.is_empty() {
            return Ok(());
        }
        let owner = describe(pid, &folder);
        for inode in inodes {
            // Whoever inherited a socket of ours is not its owner.
            let known = self.owners.entry(inode).or_insert_with(|| owner.clone());
            if owner.kind == Kind::Fastness {
                *known = owner.clone();
            }
        }
        Ok(())
    }
}

fn is_gone(error: &io::Error) -> bool {
    let gone = rustix::io::Errno::SRCH.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(gone)
}

fn describe(pid: u32, folder: &Path) -> Owner {
    let exe = fs::read_link(folder.join("exe")).unwrap_or_default();
    let exe = exe.file_name().unwrap_or_default().to_string_lossy();
    let maps = fs::read_to_string(folder.join("maps")).unwrap_or_default();
    let ours = fs::read_link("/proc/self/exe").ok();
    let kind = if exe.starts_with("fastness") || ours == fs::read_link(folder.join("exe")).ok() {
        Kind::Fastness
    } else if maps.contains(GRPC) {
        Kind::Learner
    } else {
        Kind::Other
    };
    let command = fs::read(folder.join("cmdline")).unwrap_or_default();
    let words: Vec<_> = command
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .take(3)
        .map(|word| String::from_utf8_lossy(word).escape_debug().to_string())
        .collect();
    Owner {
        pid,
        command: words.join(" "),
        kind,
        package: maps
            .lines()
            .find_map(|line| package_beside(line, &files_of(folder))),
    }
}

/// Where the files of the process `folder` in /proc are for us: a container has others at the same paths.
fn files_of(folder: &Path) -> PathBuf {
    let mounts = |folder: &Path| fs::read_link(folder.join("ns/mnt")).ok();
    match mounts(folder) == mounts(Path::new("/proc/self")) {
        true => "/".into(),
        false => folder.join("root"),
    }
}

/// P2PFL's folder beside that of gRPC, whose library is mapped by a line of /proc/PID/maps, among `files`.
fn package_beside(line: &str, files: &Path) -> Option<PathBuf> {
    let (_, library) = line.split_once('/').filter(|_| line.contains(GRPC))?;
    // …/site-packages/grpc/_cython/cygrpc.….so
    let packages = files.join(library);
    let package = packages.ancestors().nth(3)?.join("p2pfl");
    package.join("settings.py").is_file().then_some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_listener_is_found_with_its_owner() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let seen = Processes::look().unwrap();
        let ours = seen.networks.values().find(|network| network.ours).unwrap();
        let mut sockets = ours.listeners.iter();
        let socket = sockets.find(|socket| socket.local == at).unwrap();
        assert_eq!(seen.owners[&socket.inode].pid, std::process::id());
    }
}
