//! The listening sockets: inherited from systemd when it bound them (systemd.socket(5),
//! sd_listen_fds(3)), else bound here, before any role starts.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use listenfd::ListenFd;
use rustix::io::FdFlags;

use super::socket_file::SocketFile;
use crate::config::{Application, Config, Place};
use crate::fault::Fault;

/// The sockets that the node serves.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    pub(super) peers: Vec<TcpListener>,
    pub(super) metrics: Option<TcpListener>,
    /// In the order of [`Application::listens`](crate::config::Application::listens).
    application: Vec<OwnedFd>,
    /// The files of those among them that are unix sockets.
    _files: Vec<SocketFile>,
}

impl Listeners {
    /// In the order in which the node gets them.
    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let peers = self.peers.iter().chain(&self.metrics);
        peers
            .map(AsFd::as_fd)
            .chain(self.application.iter().map(AsFd::as_fd))
    }

    /// A node that was taken over can stop a socket from listening, for us and for the nodes after it
    /// (connect(2) to AF_UNSPEC). Nothing here may listen again, so that is the end of this supervisor.
    pub(super) fn still_listen(&self) -> Result<(), Fault> {
        let silent = |socket: &BorrowedFd<'_>| {
            !rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
        };
        match self.all().find(silent) {
            None => Ok(()),
            Some(_) => Err(Fault::new(
                "listen",
                "the node that ended has made a socket deaf: it was taken over, or a program of its user was",
                "start the node again (systemd does), and find out what happened",
            )),
        }
    }

    /// Binds where the application is listened for.
    fn bind_application(&mut self, places: &Application, faults: &mut Vec<Fault>) {
        for place in places.listens() {
            let bound = match place {
                Place::Unix(path) => SocketFile::bind(path, "application", Some(places.user)).map(
                    |(file, listener)| {
                        self._files.push(file);
                        OwnedFd::from(listener)
                    },
                ),
                Place::Tcp(address) => TcpListener::bind(address)
                    .and_then(|listener| {
                        listener.set_nonblocking(true)?;
                        Ok(listener.into())
                    })
                    .map_err(|error| in_use("application", *address, &error)),
            };
            match bound {
                Ok(bound) => self.application.push(bound),
                Err(fault) => faults.push(fault),
            }
        }
    }
}

fn in_use(key: &str, address: SocketAddr, error: &io::Error) -> Fault {
    let mend = match error.kind() {
        io::ErrorKind::AddrInUse => "stop what uses it (`ss -ltnp`), or name another address",
        io::ErrorKind::AddrNotAvailable => {
            "name an address of this machine (`ip address`), or 0.0.0.0 for all of them"
        }
        io::ErrorKind::PermissionDenied => {
            "name a port from 1024 up, or let systemd listen (hsm-setup/systemd/fastness.socket)"
        }
        _ => "name another address",
    };
    Fault::new(key, format!("cannot listen on {address}: {error}"), mend)
}

/// Connections that the kernel keeps for us until we accept them; as many as Linux allows by default
/// (`net.core.somaxconn`), so that a burst of strangers does not keep a peer's SYN out.
const BACKLOG: i32 = 4096;

/// One listener for each configured address. An inherited socket that no address asks for is a
/// fault: somebody expects us to listen there.
pub(super) fn bind(config: &Config) -> Result<Listeners, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut inherited = inherited().unwrap_or_else(|error| {
        faults.push(Fault::new(
            "listen",
            format!("cannot take the inherited sockets: {error}"),
            "mend the .socket unit",
        ));
        Vec::new()
    });
    let mut listeners = Listeners::default();
    let places = config.listen.iter().map(|address| ("listen", address));
    for (key, address) in places.chain(config.metrics.iter().map(|address| ("metrics", address))) {
        let known = inherited.iter().position(|(bound, _)| bound == address);
        let listener = match known {
            Some(index) => Ok(inherited.swap_remove(index).1),
            None => TcpListener::bind(address),
        };
        let listening = listener.and_then(|listener| {
            listener.set_nonblocking(true)?;
            // Accepted sockets inherit it, which saves a call for each of them.
            rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
            // A second listen(2) only changes the backlog.
            rustix::net::listen(&listener, BACKLOG)?;
            Ok(listener)
        });
        match listening {
            Ok(listener) if key == "metrics" => listeners.metrics = Some(listener),
            Ok(listener) => listeners.peers.push(listener),
            Err(error) => faults.push(in_use(key, *address, &error)),
        }
    }
    if let Some(application) = &config.application {
        listeners.bind_application(application, &mut faults);
    }
    for (address, _) in inherited {
        faults.push(Fault::new(
            "listen",
            format!("an inherited socket listens on {address}, which is not configured"),
            "name it here, or take it out of the .socket unit",
        ));
    }
    if faults.is_empty() {
        Ok(listeners)
    } else {
        Err(faults)
    }
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    #[test]
    fn an_accepted_socket_does_not_delay_small_frames() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for nodelay in [false, true] {
            rustix::net::sockopt::set_tcp_nodelay(&listener, nodelay).unwrap();
            let _dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert_eq!(listener.accept().unwrap().0.nodelay().unwrap(), nodelay);
        }
    }
}
