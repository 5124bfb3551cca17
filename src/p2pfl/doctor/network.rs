//! The network namespaces of this host (network_namespaces(7)) and who listens in them (proc_pid_net(5)): a
//! container's learner listens in one of its own.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// `st` of a listening socket.
const LISTEN: &str = "0A";

/// A network namespace, seen through a process in it.
#[derive(Debug)]
pub(super) struct Network {
    /// That process's folder in /proc.
    through: PathBuf,
    /// Whether the doctor is in it.
    pub(super) ours: bool,
    /// Whether it has an interface beside `lo`.
    pub(super) leads_out: bool,
    pub(super) sockets: Vec<Socket>,
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) at: SocketAddr,
    pub(super) inode: u64,
}

/// What tells the network namespace of the process `folder` in /proc from others.
pub(super) fn name(folder: &Path) -> io::Result<PathBuf> {
    fs::read_link(folder.join("ns/net"))
}

impl Network {
    /// Looks at that of the process `folder` in /proc.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let mut sockets = sockets(&fs::read_to_string(folder.join("net/tcp"))?);
        match fs::read_to_string(folder.join("net/tcp6")) {
            Ok(table) => sockets.extend(self::sockets(&table)),
            // There is none on a host without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Self {
            through: folder.to_owned(),
            ours: name(folder)? == name(Path::new("/proc/self"))?,
            leads_out: leads_out(&fs::read_to_string(folder.join("net/dev"))?),
            sockets,
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

/// The listening sockets of a table in the form of /proc/net/tcp.
fn sockets(table: &str) -> Vec<Socket> {
    table.lines().skip(1).filter_map(socket).collect()
}

fn socket(line: &str) -> Option<Socket> {
    let mut words = line.split_whitespace();
    let local = words.nth(1)?;
    let state = words.nth(1)?;
    let inode = words.nth(5)?.parse().ok()?;
    let (ip, port) = local.split_once(':')?;
    // Words of 32 bits, each in the machine's order.
    let word = |index: usize| {
        let digits = ip.get(index * 8..index * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip: IpAddr = match ip.len() {
        8 => word(0)?.into(),
        32 => {
            let mut bytes = [0; 16];
            for index in 0..4 {
                bytes[index * 4..index * 4 + 4].copy_from_slice(&word(index)?);
            }
            bytes.into()
        }
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == LISTEN).then_some(Socket {
        // gRPC binds IPv4 addresses in their IPv6 form.
        at: SocketAddr::new(ip.to_canonical(), port),
        inode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of a kernel of a little-endian machine.
    #[cfg(target_endian = "little")]
    #[test]
    fn the_kernels_table_is_read() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 26177 1 0 100 0 0 10 0
   1: 02004D0A:1A0A 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31 1 0 100 0 0 10 0
   2: 02004D0A:1A0A 01004D0A:C350 01 00000000:00000000 00:00000000 00000000  1000        0 32 1 0 20 4 30 10 -1
   3: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 33 1 0 100 0 0 10 0
   4: nonsense";
        let found: Vec<_> = sockets(table)
            .iter()
            .map(|socket| (socket.at.to_string(), socket.inode))
            .collect();
        assert_eq!(
            found,
            [
                ("127.0.0.1:8080".to_owned(), 26177),
                ("10.77.0.2:6666".to_owned(), 31),
                ("127.0.0.1:80".to_owned(), 33),
            ]
        );
    }

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
