//! Sockets of processes, as proc(5) has them: no library, module or container has to say.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// A row of /proc/PID/net/tcp or tcp6 (proc_pid_net(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tcp {
    /// Its own end; IPv4 also where it was bound in its IPv6 form.
    pub(crate) local: SocketAddr,
    /// The other end, of port 0 while there is none.
    pub(crate) remote: SocketAddr,
    pub(crate) listens: bool,
    pub(crate) inode: u64,
}

/// `st` of a listening socket.
const LISTEN: &str = "0A";

/// The TCP sockets in the network namespace of the process `folder` in /proc.
pub(crate) fn tcp(folder: &Path) -> io::Result<Vec<Tcp>> {
    let mut all = table(&fs::read_to_string(folder.join("net/tcp"))?)?;
    match fs::read_to_string(folder.join("net/tcp6")) {
        Ok(text) => all.extend(table(&text)?),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(all)
}

/// Inodes of the sockets that the process `folder` in /proc has open.
pub(crate) fn inodes(folder: &Path) -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for entry in fs::read_dir(folder.join("fd"))? {
        let target = match fs::read_link(entry?.path()) {
            Ok(target) => target,
            // One of its threads has closed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let name = target.to_string_lossy();
        let inode = name
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'));
        inodes.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
    }
    Ok(inodes)
}

fn table(text: &str) -> io::Result<Vec<Tcp>> {
    let wrong = |line| io::Error::other(format!("a table of sockets has the line {line:?}"));
    let rows = text.lines().skip(1);
    rows.map(|line| row(line).ok_or_else(|| wrong(line)))
        .collect()
}

fn row(line: &str) -> Option<Tcp> {
    let mut words = line.split_ascii_whitespace();
    Some(Tcp {
        local: address(words.nth(1)?)?,
        remote: address(words.next()?)?,
        listens: words.next()? == LISTEN,
        inode: words.nth(5)?.parse().ok()?,
    })
}

fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
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
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    /// Lines of a kernel of a little-endian machine.
    #[cfg(target_endian = "little")]
    #[test]
    fn the_kernels_table_is_read() {
        let lines = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 26177 1 0 100 0 0 10 0
   1: 02004D0A:1A0A 01004D0A:C350 01 00000000:00000000 00:00000000 00000000  1000        0 32 1 0 20 4 30 10 -1
   2: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 33 1 0 100 0 0 10 0
";
        let found: Vec<_> = table(&format!("{HEAD}{lines}"))
            .unwrap()
            .iter()
            .map(|row| {
                (
                    row.local.to_string(),
                    row.remote.to_string(),
                    row.listens,
                    row.inode,
                )
            })
            .collect();
        let row = |local: &str, remote: &str, listens, inode| {
            (local.to_owned(), remote.to_owned(), listens, inode)
        };
        assert_eq!(
            found,
            [
                row("127.0.0.1:8080", "0.0.0.0:0", true, 26177),
                row("10.77.0.2:6666", "10.77.0.1:50000", false, 32),
                row("127.0.0.1:80", "[::]:0", true, 33),
            ]
        );
    }

    #[test]
    fn a_line_that_cannot_be_read_is_an_error() {
        for line in ["4: nonsense", "0: 0100007F:1F90 00000000:0000 0A"] {
            let error = table(&format!("{HEAD}{line}\n")).unwrap_err();
            assert!(error.to_string().contains(line), "{error}");
        }
    }
}
