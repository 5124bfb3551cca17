//! A nameserver in the place of the machine's own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Mesh, Options};

/// Bytes before the questions (RFC 1035 §4.1.1).
const HEADER: usize = 12;
/// In the flags: cut off, ask over TCP.
const TRUNCATED: u8 = 0x02;

/// Says 127.0.0.1 for every name, or nothing. `many.…` is 127.0.0.2 and `::1` as well, `long.…` is answered over TCP
/// alone, and `dead….` never.
pub struct NameServer {
    pub silent: Arc<AtomicBool>,
    address: String,
}

impl NameServer {
    /// In the place of the machine's own for the node that is started with what comes with it; for root.
    pub fn start(mesh: &Mesh) -> (Self, Options) {
        let bind = |last: u8| {
            let address = format!("127.53.0.{last}");
            let socket = UdpSocket::bind((&*address, 53)).ok()?;
            Some((socket, TcpListener::bind((&*address, 53)).ok()?, address))
        };
        let (socket, listener, address) = (1..=254).find_map(bind).expect("a free address");
        let silent = Arc::new(AtomicBool::new(false));
        let server = Self {
            silent: Arc::clone(&silent),
            address,
        };
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                let is_dead = packet[HEADER + 1..].starts_with(b"dead");
                if !silent.load(Ordering::Relaxed) && !is_dead {
                    let _ = socket.send_to(&answer(&packet[..length], true), from);
                }
            }
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // The resolver closes it when it likes.
                let _ = over_tcp(stream);
            }
        });
        let options = server.options(mesh, &[]);
        (server, options)
    }

    /// The same node's, with nameservers at the addresses `before` that are asked first.
    pub fn options(&self, mesh: &Mesh, before: &[&str]) -> Options {
        let all = before.iter().copied().chain([self.address.as_str()]);
        let lines: String = all.map(|it| format!("nameserver {it}\n")).collect();
        let resolver = mesh.write("resolv.conf", &lines);
        let order = mesh.write("nsswitch.conf", "hosts: files dns\n");
        // Each role may have a user of its own.
        for file in [&resolver, &order] {
            let anybody = PermissionsExt::from_mode(0o644);
            std::fs::set_permissions(file, anybody).expect("its mode");
        }
        let in_place = "mount --bind \"$1\" /etc/resolv.conf && mount --bind \"$2\" /etc/nsswitch.conf \
                        && shift 2 && exec \"$@\"";
        let (resolver, order) = (resolver.display(), order.display());
        let through = ["unshare", "--mount", "sh", "-c", in_place, "sh"].map(str::to_owned);
        Options {
            through: through
                .into_iter()
                .chain([resolver.to_string(), order.to_string()])
                .collect(),
            ..Options::default()
        }
    }
}

/// Questions and answers with their lengths before them (RFC 1035 §4.2.2).
fn over_tcp(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut question)?;
        let answer = answer(&question, false);
        let length = u16::try_from(answer.len()).expect("a short answer");
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())?;
    }
}

/// The answer to a question (RFC 1035 §4.1).
fn answer(question: &[u8], datagram: bool) -> Vec<u8> {
    let name = question[HEADER..].iter().position(|byte| *byte == 0);
    let end = HEADER + name.expect("a name ends") + 5;
    let first = &question[HEADER + 1..];
    let is_v4 = question[end - 4..end] == [0, 1, 0, 1];
    let truncated = datagram && first.starts_with(b"long");
    let addresses: &[&[u8]] = match (is_v4, first.starts_with(b"many")) {
        _ if truncated => &[],
        (true, false) => &[&[127, 0, 0, 1]],
        (true, true) => &[&[127, 0, 0, 1], &[127, 0, 0, 2]],
        (false, false) => &[],
        (false, true) => &[&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]],
    };
    let mut answer = question[..end].to_vec();
    let flags = 0x81 | if truncated { TRUNCATED } else { 0 };
    let count = u8::try_from(addresses.len()).expect("a few");
    answer[2..HEADER].copy_from_slice(&[flags, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
    for address in addresses {
        let kind = if is_v4 { 1 } else { 28 };
        let length = u8::try_from(address.len()).expect("an address");
        answer.extend([0xc0, 0x0c, 0, kind, 0, 1, 0, 0, 0, 1, 0, length]);
        answer.extend(*address);
    }
    answer
}
