//! openssl as a client that should be refused, and as a server that should not be trusted.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::files::FileIdentity;
use super::{Node, eventually};

/// What `openssl s_client` saw.
pub struct Intruder {
    /// All that it printed.
    pub said: String,
    /// The alert that the node sent, in openssl's words.
    pub alert: Option<String>,
    /// The reason in the node's log.
    pub logged: String,
}

impl Intruder {
    /// Dials `node` with `identity`, if any, and waits for the node's word.
    #[track_caller]
    pub fn dials(node: &Node, identity: Option<&FileIdentity>, arguments: &[&str]) -> Self {
        let before = node.log_length();
        let mut command = client(node.address());
        if let Some(identity) = identity {
            command
                .arg("-cert")
                .arg(&identity.certificate)
                .arg("-key")
                .arg(&identity.key);
        }
        let output = command
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("openssl");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let line = node.wait_log_after(before, "refused");
        Self {
            alert: alert_in(&said),
            logged: code_in(&line),
            said,
        }
    }
}

/// `openssl s_client`: TLS 1.3 and h2 unless the arguments say more; -ign_eof waits for the server's
/// last word, which comes after the client believes that it is done.
fn client(address: SocketAddr) -> Command {
    let mut command = Command::new("timeout");
    command.args([
        "50",
        "openssl",
        "s_client",
        "-ign_eof",
        "-connect",
        &address.to_string(),
    ]);
    command.args(["-alpn", "h2"]);
    command
}

fn alert_in(said: &str) -> Option<String> {
    let rest = &said[said.find(" alert ")? + 7..];
    Some(rest[..rest.find(':')?].to_owned())
}

/// The value of `code=` in a line of the log.
pub fn code_in(line: &str) -> String {
    let rest = line.split("code=").nth(1).expect("a refusal has its code");
    rest.trim_start_matches('"')
        .split('"')
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// `openssl s_server` with this identity; killed when dropped.
pub struct Server(Child);

/// Starts a server that a node may dial, on `port`.
#[track_caller]
pub fn s_server(port: u16, identity: &FileIdentity, folder: &Path, arguments: &[&str]) -> Server {
    let log = folder.join(format!("s_server-{port}.log"));
    let child = Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "--",
            "openssl",
            "s_server",
            "-accept",
            &format!("127.0.0.1:{port}"),
        ])
        .args(["-tls1_3", "-alpn", "h2", "-www", "-cert"])
        .arg(&identity.certificate)
        .arg("-key")
        .arg(&identity.key)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&log).expect("a log"))
        .stderr(Stdio::null())
        .spawn()
        .expect("setpriv");
    let server = Server(child);
    eventually("s_server accepts", || {
        std::fs::read_to_string(&log)
            .ok()
            .filter(|text| text.contains("ACCEPT"))
    });
    server
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
