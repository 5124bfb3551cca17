//! Where this process is connected to by TCP.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::SandboxError;
use crate::sockets::{self, Tcp};

/// The TCP ports at the other ends of this process's sockets, connected ones and those that are about to be.
pub(crate) fn connected_ports() -> Result<BTreeSet<u16>, SandboxError> {
    read().map_err(|cause| SandboxError::Refused {
        step: "asking where the module is connected to (/proc/self/fd, /proc/self/net)",
        since: "2.6.25",
        cause: Box::new(cause),
    })
}

fn read() -> io::Result<BTreeSet<u16>> {
    let this = Path::new("/proc/self");
    // Before the table, so that a socket which is connected in between is in both or in none.
    let own = sockets::inodes(this)?;
    let connected = |socket: &Tcp| {
        // A listener has no other end.
        (socket.remote.port() != 0 && own.contains(&socket.inode)).then(|| socket.remote.port())
    };
    Ok(sockets::tcp(this)?.iter().filter_map(connected).collect())
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
