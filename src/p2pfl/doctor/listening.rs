//! Who listens on this host (proc_pid_net(5), /proc/net/tcp), and whether peers reach it without us.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Findings;
use crate::fault::Fault;

/// `st` of a listening socket.
const LISTEN: &str = "0A";
/// Part of the name of gRPC's library for Python, which P2PFL speaks with.
const GRPC: &str = "/cygrpc.";
/// What a client of HTTP/2 says first (RFC 9113 §3.4): the preface and empty SETTINGS.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Frame type SETTINGS, the first that a server sends.
const SETTINGS: u8 = 0x4;
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    at: SocketAddr,
    inode: u64,
}

/// The process behind one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    pid: u32,
    command: String,
    kind: Kind,
    /// Where it has P2PFL from.
    package: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fastness,
    /// Python with gRPC: P2PFL or its like.
    Learner,
    Other,
}

/// Looks at the listening sockets; returns where the learners that run have P2PFL from.
pub(super) fn examine(
    wanted: &[SocketAddr],
    findings: &mut Findings,
) -> io::Result<BTreeSet<PathBuf>> {
    let mut sockets = sockets(&fs::read_to_string("/proc/net/tcp")?);
    // There is none on a host without IPv6.
    if let Ok(text) = fs::read_to_string("/proc/net/tcp6") {
        sockets.extend(self::sockets(&text));
    }
    let owners = owners()?;
    let mut packages = BTreeSet::new();
    for address in wanted {
        if !sockets.iter().any(|socket| holds(socket.at, *address)) {
            findings.good(format!("{address}: nobody listens there now"));
        }
    }
    for socket in sockets {
        let owner = owners.get(&socket.inode);
        let asked_for = wanted.iter().any(|address| holds(socket.at, *address));
        let looks_so = match owner {
            Some(owner) => owner.kind == Kind::Learner,
            // Whose it is cannot be seen.
            None => true,
        };
        if asked_for || (wanted.is_empty() && looks_so) {
            judge(socket.at, owner, findings);
            packages.extend(owner.and_then(|owner| owner.package.clone()));
        }
    }
    Ok(packages)
}

fn judge(at: SocketAddr, owner: Option<&Owner>, findings: &mut Findings) {
    let Some(owner) = owner else {
        if !at.ip().is_loopback() {
            findings.faults.push(Fault::new(
                at.to_string(),
                "somebody listens there, and this user may not see who",
                "run the doctor as root",
            ));
        }
        return;
    };
    let who = format!("process {} ({})", owner.pid, owner.command);
    if owner.kind == Kind::Fastness {
        findings.good(format!("{at}: Fastness, process {}", owner.pid));
        return;
    }
    if at.ip().is_loopback() {
        findings.good(format!("{at}: {who}, for this host alone"));
        return;
    }
    let mend = "let it listen on a loopback address (127.77.0.N:port, the same on all hosts), or in a network namespace of its own (hsm-setup/own-network), and put Fastness in front: `[application] kind = \"p2pfl\"`";
    let problem = match speaks_plaintext(at) {
        true => format!("{who} listens there in plaintext: whoever reaches this host commands it"),
        false => {
            format!(
                "{who} listens there itself: its keys are in its memory and in files, and no certificate is bound to an address"
            )
        }
    };
    findings
        .faults
        .push(Fault::new(at.to_string(), problem, mend));
}

/// Whether what listens at `at` answers HTTP/2 without TLS. It is asked as any peer could ask it.
fn speaks_plaintext(at: SocketAddr) -> bool {
    let reachable = match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let asked = || -> io::Result<u8> {
        let address = SocketAddr::new(reachable, at.port());
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(HELLO)?;
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        Ok(head[3])
    };
    matches!(asked(), Ok(SETTINGS))
}

/// Whether a socket bound to `own` takes connections to `address`.
fn holds(own: SocketAddr, address: SocketAddr) -> bool {
    let same = own.ip() == address.ip().to_canonical();
    own.port() == address.port() && (own.ip().is_unspecified() || same)
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

/// Processes by the inodes of their sockets, as far as this user may see them.
fn owners() -> io::Result<BTreeMap<u64, Owner>> {
    let mut owners = BTreeMap::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // A process that is gone or not ours has none for us.
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let inodes: Vec<u64> = descriptors
            .flatten()
            .filter_map(|descriptor| {
                let target = fs::read_link(descriptor.path()).ok()?;
                let target = target.to_str()?.strip_prefix("socket:[")?;
                target.strip_suffix(']')?.parse().ok()
            })
            .collect();
        if inodes.is_empty() {
            continue;
        }
        let owner = describe(pid, &process.path());
        for inode in inodes {
            // Whoever inherited a socket of ours is not its owner.
            let known = owners.entry(inode).or_insert_with(|| owner.clone());
            if owner.kind == Kind::Fastness {
                *known = owner.clone();
            }
        }
    }
    Ok(owners)
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
        package: maps.lines().find_map(package_beside),
    }
}

/// P2PFL's folder beside that of gRPC, whose library is mapped by a line of /proc/PID/maps.
fn package_beside(line: &str) -> Option<PathBuf> {
    let (_, library) = line.split_once('/').filter(|_| line.contains(GRPC))?;
    // …/site-packages/grpc/_cython/cygrpc.….so
    let packages = Path::new("/").join(library);
    let package = packages.ancestors().nth(3)?.join("p2pfl");
    package.join("settings.py").is_file().then_some(package)
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
    fn a_socket_on_every_address_is_on_each() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(holds(at("0.0.0.0:6666"), at("192.0.2.1:6666")));
        assert!(holds(at("[::]:6666"), at("192.0.2.1:6666")));
        assert!(holds(at("192.0.2.1:6666"), at("[::ffff:192.0.2.1]:6666")));
        assert!(!holds(at("0.0.0.0:6667"), at("192.0.2.1:6666")));
        assert!(!holds(at("127.0.0.1:6666"), at("192.0.2.1:6666")));
    }

    #[test]
    fn our_own_listener_is_found_with_its_owner() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let socket = sockets(&table).into_iter().find(|socket| socket.at == at);
        let owners = owners().unwrap();
        let owner = &owners[&socket.unwrap().inode];
        assert_eq!(owner.pid, std::process::id());
    }
}
