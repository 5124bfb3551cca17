//! Where this process is connected to by TCP, read from /proc: no library has to say.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use super::SandboxError;

/// The TCP ports at the other ends of this process's sockets, connected ones and those that are about to be.
pub(crate) fn connected_ports() -> Result<BTreeSet<u16>, SandboxError> {
    read().map_err(|cause| SandboxError::Refused {
        step: "asking where the module is connected to (/proc/self/fd, /proc/self/net)",
        since: "2.6.25",
        cause: Box::new(cause),
    })
}

fn read() -> io::Result<BTreeSet<u16>> {
    // Before the table, so that a socket which is connected in between is in both or in none.
    let own = own_sockets()?;
    let mut ports = of("tcp", &own)?;
    match of("tcp6", &own) {
        Ok(more) => ports.extend(more),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(ports)
}

/// Inodes of the sockets that are open here.
fn own_sockets() -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let target = match fs::read_link(entry?.path()) {
            Ok(target) => target,
            // A module's thread has closed it.
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

/// The ports in a table of proc(5) whose sockets are among `own`.
fn of(table: &str, own: &BTreeSet<u64>) -> io::Result<BTreeSet<u16>> {
    let text = fs::read_to_string(format!("/proc/self/net/{table}"))?;
    let mut ports = BTreeSet::new();
    for line in text.lines().skip(1) {
        let (inode, port) =
            row(line).ok_or_else(|| io::Error::other(format!("{table} has a line {line:?}")))?;
        // A listener has none.
        if port != 0 && own.contains(&inode) {
            ports.insert(port);
        }
    }
    Ok(ports)
}

/// Inode and other end's port: the tenth and the third field.
fn row(line: &str) -> Option<(u64, u16)> {
    let mut fields = line.split_ascii_whitespace();
    let (_, port) = fields.nth(2)?.rsplit_once(':')?;
    let inode = fields.nth(6)?.parse().ok()?;
    Some((inode, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn the_ports_of_open_connections_are_found_and_no_others() {
        let listen = |address| TcpListener::bind(address).unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let (four, six, idle) = (
            listen("127.0.0.1:0"),
            listen("[::1]:0"),
            listen("127.0.0.1:0"),
        );
        let ends = [
            TcpStream::connect(four.local_addr().unwrap()).unwrap(),
            TcpStream::connect((Ipv6Addr::LOCALHOST, port(&six))).unwrap(),
        ];
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        datagrams.connect(("127.0.0.1", port(&idle))).unwrap();
        let found = connected_ports().unwrap();
        assert!(found.contains(&port(&four)) && found.contains(&port(&six)));
        // Nobody is connected to it by TCP.
        assert!(!found.contains(&port(&idle)), "{found:?}");
        drop(ends);
        let found = connected_ports().unwrap();
        assert!(!found.contains(&port(&four)) && !found.contains(&port(&six)));
    }
}
