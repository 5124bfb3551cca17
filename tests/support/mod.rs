//! The real binary with tokens in a temporary folder.
//!
//! Tokens, keys and certificates are made once in a run (the [`Master`]); each test works on a copy
//! of its own, on ports of its own, and ends its processes by their ids.

pub mod fault;
pub mod files;
pub mod http2;
pub mod intruder;
pub mod kernel;
pub mod learner;
pub mod nameserver;
pub mod network;
pub mod node;
pub mod python;
pub mod rehearsal;
pub mod scalar;
pub mod shaker;
pub mod terminal;
pub mod token;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub use fault::FaultModule;
pub use files::FileCa;
pub use intruder::{Intruder, s_server};
pub use learner::Learner;
pub use network::Network;
pub use node::{Node, Options};
pub use python::{Judge, python};
pub use shaker::Shaker;
pub use token::Tokens;

/// The binary under test.
pub const FASTNESS: &str = env!("CARGO_BIN_EXE_fastness");

/// Whether the tokens of this run are SoftHSM's.
pub fn in_softhsm() -> bool {
    std::env::var_os("FASTNESS_TEST_TOKEN").is_none()
}

/// How long anything may take before a test says that it hangs. No test measures time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Polls `found` until it finds something.
#[track_caller]
pub fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < until, "it never happened: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends a test that only root can do: passing without having looked would say something untrue. Its name is in
/// `tests/needs-root`, so that `tests/run` starts it as root.
#[track_caller]
pub fn as_root(why: &str) {
    assert!(
        rustix::process::geteuid().is_root(),
        "{why}: run this test with sudo, as tests/run does"
    );
}

/// Runs `command`, which must succeed, and returns its standard output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", said(&output));
    String::from_utf8(output.stdout).expect("programs print text")
}

/// Both streams of `output`, for a test's message.
pub fn said(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// One JSON value from the standard output of a command with `--format json`.
#[track_caller]
pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// `fastness sandbox show` for node `a`.
#[track_caller]
pub fn show(mesh: &Mesh) -> Value {
    json(&run(Command::new(FASTNESS)
        .args(["sandbox", "show", "--format", "json", "--config"])
        .arg(mesh.path("a/node.toml"))))
}

/// A pipe that takes no byte more.
pub fn full_pipe() -> (std::io::PipeReader, Stdio) {
    let (unread, log) = std::io::pipe().expect("a pipe");
    let flags = rustix::fs::fcntl_getfl(&log).expect("its flags");
    rustix::fs::fcntl_setfl(&log, flags | rustix::fs::OFlags::NONBLOCK).expect("its flags");
    while rustix::io::write(&log, &[b'.'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&log, flags).expect("its flags");
    (unread, log.into())
}

/// A port that is free now, below those that the kernel gives to outgoing connections, and that no other
/// run of tests in this network takes.
pub fn free_port() -> u16 {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU16, Ordering};
    const FIRST: u16 = 20_000;
    const RUNS: u16 = 6;
    const COUNT: u16 = 2_000;
    /// Its abstract socket says that this run has the ports of its number.
    static RUN: LazyLock<(u16, UnixListener)> = LazyLock::new(|| {
        let claimed = |number| {
            let name = format!("fastness-test-ports-{number}");
            let address = SocketAddr::from_abstract_name(name).expect("a short name");
            Some((number, UnixListener::bind_addr(&address).ok()?))
        };
        let claimed = (0..RUNS).find_map(claimed);
        claimed.expect("not so many runs of tests at once")
    });
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + RUN.0 * COUNT + step;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A mesh of two, prepared but not started: an authority and the nodes `a` and `b`.
pub struct Mesh {
    /// Removed at the end.
    folder: TempDir,
    /// SPKI pins by `token/key`, such as `a/server`.
    pub pins: BTreeMap<String, String>,
    pub ports: BTreeMap<String, u16>,
    /// `[[peer]]` entries beside `a` and `b`, for both policies.
    pub others: Vec<String>,
}

/// A folder for the whole of this run. Statics are never dropped: what earlier runs left is removed by
/// the next one. Not in cargo's: as root we use no folder that the user who built us can change.
fn run_folder(kind: &str) -> PathBuf {
    let (shelf, kind) = (std::env::temp_dir(), format!("fastness-{kind}"));
    for entry in fs::read_dir(&shelf).expect("there is one").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(pid) = name
            .strip_prefix(&kind)
            .and_then(|rest| rest.strip_prefix('-'))
            && !Path::new("/proc").join(pid).exists()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let folder = shelf.join(format!("{kind}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

struct Master {
    folder: PathBuf,
    pins: BTreeMap<String, String>,
}

/// The trust domain of all tests.
pub fn id_of(name: &str) -> String {
    format!("spiffe://test.example/node/{name}")
}

impl Master {
    fn shared() -> &'static Self {
        static MASTER: OnceLock<Master> = OnceLock::new();
        MASTER.get_or_init(Self::make)
    }

    fn make() -> Self {
        let folder = run_folder("master");
        let mut pins = BTreeMap::new();
        let ca = Tokens::prepare(&folder.join("ca"), "ca");
        ca.keygen("root", "ca", "p256");
        run(ca
            .fastness()
            .args(["ca", "init", "--name", "Test root", "--dir"])
            .arg(folder.join("ca/authority"))
            .arg("--module")
            .arg(&ca.module)
            .args([
                "--key",
                "pkcs11:token=ca;object=root",
                "--pin",
                &ca.pin_source(),
            ]));
        for name in ["a", "b"] {
            let token = Tokens::prepare(&folder.join(name), name);
            for role in ["server", "client"] {
                for label in [role.to_owned(), format!("{role}-backup")] {
                    pins.insert(
                        format!("{name}/{label}"),
                        token.keygen(&label, role, "p256"),
                    );
                }
                issue(
                    &ca,
                    &folder,
                    &token,
                    role,
                    role,
                    &id_of(name),
                    &folder.join(name).join(format!("{role}.pem")),
                );
            }
        }
        Self { folder, pins }
    }
}

/// A certificate of the authority in `folder` for the key `label` of `token`.
fn issue(
    ca: &Tokens,
    folder: &Path,
    token: &Tokens,
    label: &str,
    profile: &str,
    id: &str,
    out: &Path,
) {
    let csr = out.with_extension("csr");
    token.csr(label, &csr);
    issue_from(ca, folder, &csr, profile, id, out);
}

fn issue_from(ca: &Tokens, folder: &Path, csr: &Path, profile: &str, id: &str, out: &Path) {
    run(ca
        .fastness()
        .args([
            "ca",
            "issue",
            "--profile",
            profile,
            "--id",
            id,
            "--ip",
            "127.0.0.1",
            "--pin",
            &ca.pin_source(),
        ])
        .arg("--dir")
        .arg(folder.join("ca/authority"))
        .arg("--csr")
        .arg(csr)
        .arg("--out")
        .arg(out));
}

impl Mesh {
    /// A copy of the run's tokens and certificates, with configurations.
    pub fn new() -> Self {
        let master = Master::shared();
        let folder = tempfile::Builder::new()
            .prefix("fastness-")
            .tempdir()
            .expect("a temporary folder");
        token::copy(&master.folder, folder.path());
        let ports = ["a", "b"].map(|name| (name.to_owned(), free_port()));
        let mesh = Self {
            folder,
            pins: master.pins.clone(),
            ports: ports.into(),
            others: Vec::new(),
        };
        mesh.configure();
        mesh
    }

    /// Writes `node.toml` and `peers.toml` of both nodes again.
    pub fn configure(&self) {
        for name in ["a", "b"] {
            self.write(&format!("{name}/node.toml"), &self.node_toml(name));
            self.write_peers(name);
        }
    }

    pub fn write_peers(&self, name: &str) {
        let peer = if name == "a" { "b" } else { "a" };
        let text = [self.peer(peer)]
            .into_iter()
            .chain(self.others.iter().cloned())
            .collect::<String>();
        self.write(&format!("{name}/peers.toml"), &text);
    }

    /// Gives the roles of `a` users of their own; the token is its keeper's, as far as we may give it.
    pub fn name_users(&self, keeper: &str, node: &str) {
        self.edit(
            "a/node.toml",
            "pin = ",
            &format!("user = {keeper:?}\npin = "),
        );
        let text = self.read("a/node.toml") + &format!("\n[sandbox]\nnode_user = {node:?}\n");
        self.write("a/node.toml", &text);
        if rustix::process::geteuid().is_root() {
            run(Command::new("chmod").arg("0711").args([
                self.path(""),
                self.path("a"),
                self.path("a/token"),
            ]));
            run(Command::new("chown")
                .args(["-R", keeper])
                .arg(self.path("a/token")));
            // The PIN is the supervisor's to open; it has to come by the token's folder.
            run(Command::new("chown")
                .arg("root")
                .arg(self.path("a/token/pin")));
        }
    }

    /// The folder that everything is in.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    /// Writes a file that only we may read.
    pub fn write(&self, inside: &str, text: &str) -> PathBuf {
        let path = self.path(inside);
        files::write_private(&path, text);
        path
    }

    pub fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).expect("it is there")
    }

    /// Replaces `from`, which must stand there, in a file.
    #[track_caller]
    pub fn edit(&self, inside: &str, from: &str, to: &str) {
        let text = self.read(inside);
        assert!(text.contains(from), "{inside} does not contain {from:?}");
        self.write(inside, &text.replacen(from, to, 1));
    }

    /// Adds a section to a node's configuration.
    pub fn section(&self, name: &str, text: &str) {
        let inside = format!("{name}/node.toml");
        self.write(&inside, &(self.read(&inside) + text));
    }

    pub fn tokens(&self, name: &str) -> Tokens {
        Tokens::of(&self.path(name), name)
    }

    pub fn node_toml(&self, name: &str) -> String {
        let token = self.tokens(name);
        let environment: String = token
            .environment
            .iter()
            .map(|(name, value)| format!("{name} = {value:?}\n"))
            .collect();
        format!(
            r#"id = "{id}"
listen = ["127.0.0.1:{port}"]
trust_anchors = "../ca/authority/ca.pem"
peers = "peers.toml"

[[token]]
module = {module:?}
uri = "pkcs11:token={name}"
pin = "file:token/pin"

[token.server]
key = "pkcs11:object=server"
certificate = "server.pem"

[token.client]
key = "pkcs11:object=client"
certificate = "client.pem"

[token.environment]
{environment}
[limits]
drain_ms = 60000
"#,
            id = id_of(name),
            port = self.ports[name],
            module = token.module,
        )
    }

    /// The `[[peer]]` of a node of this mesh.
    pub fn peer(&self, name: &str) -> String {
        let address = format!("127.0.0.1:{}", self.ports[name]);
        peer(name, Some(&address), |key| {
            self.pins[&format!("{name}/{key}")].clone()
        })
    }

    /// A certificate for a key of a token in this mesh, from the mesh's authority.
    pub fn issue(&self, token: &str, label: &str, profile: &str, id: &str, out: &str) -> PathBuf {
        let out = self.path(out);
        issue(
            &self.tokens("ca"),
            self.folder.path(),
            &self.tokens(token),
            label,
            profile,
            id,
            &out,
        );
        out
    }

    /// A certificate for a request that came in a file.
    pub fn issue_from(&self, csr: &Path, profile: &str, id: &str, out: &Path) {
        issue_from(
            &self.tokens("ca"),
            self.folder.path(),
            csr,
            profile,
            id,
            out,
        );
    }

    /// Starts a node and waits until it serves.
    pub fn start(&self, name: &str) -> Node {
        self.start_with(name, Options::default())
    }

    pub fn start_with(&self, name: &str, options: Options) -> Node {
        let node = Node::spawn(name, &self.path(name), self.ports[name], options);
        node.wait_ready();
        node
    }

    /// Both nodes, serving.
    pub fn start_both(&self) -> (Node, Node) {
        let spawn =
            |name: &str| Node::spawn(name, &self.path(name), self.ports[name], Options::default());
        let (a, b) = (spawn("a"), spawn("b"));
        a.wait_ready();
        b.wait_ready();
        (a, b)
    }

    /// `fastness check` of a node's configuration.
    pub fn check(&self, name: &str) -> Output {
        let mut command = Command::new(FASTNESS);
        command
            .args(["check", "--config"])
            .arg(self.path(&format!("{name}/node.toml")));
        command.output().expect("the binary runs")
    }
}

/// A `[[peer]]` entry; `pin` gives the pin of `server`, `server-backup`, `client`, `client-backup`.
pub fn peer(name: &str, address: Option<&str>, mut pin: impl FnMut(&str) -> String) -> String {
    let mut text = format!("[[peer]]\nname = \"{name}\"\nid = \"{}\"\n", id_of(name));
    if let Some(address) = address {
        text += &format!("addresses = [\"{address}\"]\n");
    }
    for role in ["server", "client"] {
        if role == "client" || address.is_some() {
            text += &format!(
                "[peer.{role}]\nactive = \"{}\"\nbackup = \"{}\"\n",
                pin(role),
                pin(&format!("{role}-backup"))
            );
        }
    }
    text + "\n"
}
