//! The listening sockets: inherited from systemd when it bound them (systemd.socket(5),
//! sd_listen_fds(3)), else bound here, before any role starts.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use rustix::io::FdFlags;

use crate::config::Config;
use crate::fault::Fault;

/// One listener for each configured address. An inherited socket that no address asks for is a
/// fault: somebody expects us to listen there.
pub(super) fn bind(config: &Config) -> Result<Vec<TcpListener>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut inherited = inherited().unwrap_or_else(|error| {
        faults.push(Fault::new("listen", format!("cannot take the inherited sockets: {error}"), "mend the .socket unit"));
        Vec::new()
    });
    let mut listeners = Vec::new();
    for address in &config.listen {
        let known = inherited.iter().position(|(bound, _)| bound == address);
        let listener = match known {
            Some(index) => Ok(inherited.swap_remove(index).1),
            None => TcpListener::bind(address),
        };
        match listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener)) {
            Ok(listener) => listeners.push(listener),
            Err(error) => faults.push(Fault::new(
                "listen",
                format!("cannot listen on {address}: {error}"),
                "stop what uses it (`ss -ltnp`), or name another address",
            )),
        }
    }
    for (address, _) in inherited {
        faults.push(Fault::new(
            "listen",
            format!("an inherited socket listens on {address}, which is not configured"),
            "name it here, or take it out of the .socket unit",
        ));
    }
    if faults.is_empty() { Ok(listeners) } else { Err(faults) }
}

/// TCP listeners that were handed to us, closed on exec: our roles get them in their own way.
fn inherited() -> io::Result<Vec<(SocketAddr, TcpListener)>> {
    let mut handed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..handed.len() {
        if let Some(listener) = handed.take_tcp_listener(index)? {
            rustix::io::fcntl_setfd(&listener, FdFlags::CLOEXEC)?;
            listeners.push((listener.local_addr()?, listener));
        }
    }
    Ok(listeners)
}
