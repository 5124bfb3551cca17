//! Who listens on this host, and whether peers reach it without us.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use super::Findings;
use super::network::Network;
use super::process::{Kind, Owner, Processes};
use crate::fault::Fault;

/// What a client of HTTP/2 says first (RFC 9113 §3.4): the preface and empty SETTINGS.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Frame type SETTINGS, the first that a server sends.
const SETTINGS: u8 = 0x4;
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Looks at the listening sockets; returns where the learners that run have P2PFL from.
pub(super) fn examine(
    wanted: &[SocketAddr],
    findings: &mut Findings,
) -> io::Result<BTreeSet<PathBuf>> {
    let seen = Processes::look()?;
    let everywhere = || {
        seen.networks
            .values()
            .flat_map(|network| &network.listeners)
    };
    let (found, missing): (Vec<&SocketAddr>, Vec<_>) = wanted
        .iter()
        .partition(|address| everywhere().any(|socket| holds(socket.local, **address)));
    // Who named the learners, and hears of each, need not see everybody.
    if !seen.unseen.is_empty() && (found.is_empty() || !missing.is_empty()) {
        findings.faults.push(unseen(seen.unseen.len()));
    } else {
        for address in missing {
            findings.good(format!("{address}: nobody listens there now"));
        }
    }
    let mut packages = BTreeSet::new();
    for network in seen.networks.values() {
        for socket in &network.listeners {
            let owner = seen.owners.get(&socket.inode);
            let asked_for = wanted.iter().any(|address| holds(socket.local, *address));
            let looks_so = match owner {
                Some(owner) => owner.kind == Kind::Learner,
                // Whose it is cannot be seen.
                None => true,
            };
            if asked_for || (wanted.is_empty() && looks_so) {
                judge(socket.local, network, owner, findings);
                packages.extend(owner.and_then(|owner| owner.package.clone()));
            }
        }
    }
    Ok(packages)
}

fn judge(at: SocketAddr, network: &Network, owner: Option<&Owner>, findings: &mut Findings) {
    let inside = at.ip().is_loopback() || !network.leads_out;
    let Some(owner) = owner else {
        if !inside {
            findings.faults.push(Fault::new(
                at.to_string(),
                "somebody listens there, and it cannot be seen who",
                see_more(),
            ));
        }
        return;
    };
    let place = match network.ours {
        true => "",
        false => " in another network namespace",
    };
    let who = format!("process {} ({}){place}", owner.pid, owner.command);
    if owner.kind == Kind::Fastness {
        findings.good(format!("{at}: Fastness, process {}{place}", owner.pid));
        return;
    }
    if inside {
        findings.good(format!("{at}: {who}, for what runs beside it alone"));
        return;
    }
    let mend = "let it listen on a loopback address (127.77.0.N:port, the same on all hosts), or in a network namespace of its own (hsm-setup/own-network), and put Fastness in front: `[application] kind = \"p2pfl\"`";
    let problem = match network.within(|| speaks_plaintext(at)) {
        Ok(true) => {
            format!("{who} listens there in plaintext: whoever reaches this host commands it")
        }
        Ok(false) => {
            format!(
                "{who} listens there itself: its keys are in its memory and in files, and no certificate is bound to an address"
            )
        }
        Err(error) => {
            format!(
                "{who} listens there itself; it could not be asked whether in plaintext: {error}"
            )
        }
    };
    findings
        .faults
        .push(Fault::new(at.to_string(), problem, mend));
}

/// So many processes that nothing is known of.
fn unseen(count: usize) -> Fault {
    let problem = format!(
        "{count} of its processes cannot be seen, nor the network namespaces that they may have: a learner among them is not found"
    );
    Fault::new("/proc", problem, see_more())
}

/// How to see what the kernel did not show.
fn see_more() -> &'static str {
    match rustix::process::geteuid().is_root() {
        false => "run the doctor as root",
        true => {
            "run the doctor outside of containers and with every capability (CAP_SYS_PTRACE), or name where this host's learners listen: --address IP:PORT"
        }
    }
}

/// Whether what listens at `at` answers HTTP/2 without TLS. It is asked as any peer could ask it.
fn speaks_plaintext(at: SocketAddr) -> io::Result<bool> {
    let reachable = match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let address = SocketAddr::new(reachable, at.port());
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    let mut answer = || -> io::Result<u8> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(HELLO)?;
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        Ok(head[3])
    };
    Ok(matches!(answer(), Ok(SETTINGS)))
}

/// Whether a socket bound to `own` takes connections to `address`.
fn holds(own: SocketAddr, address: SocketAddr) -> bool {
    let same = own.ip() == address.ip().to_canonical();
    own.port() == address.port() && (own.ip().is_unspecified() || same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_on_every_address_is_on_each() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(holds(at("0.0.0.0:6666"), at("192.0.2.1:6666")));
        assert!(holds(at("[::]:6666"), at("192.0.2.1:6666")));
        assert!(holds(at("192.0.2.1:6666"), at("[::ffff:192.0.2.1]:6666")));
        assert!(!holds(at("0.0.0.0:6667"), at("192.0.2.1:6666")));
        assert!(!holds(at("127.0.0.1:6666"), at("192.0.2.1:6666")));
    }
}
