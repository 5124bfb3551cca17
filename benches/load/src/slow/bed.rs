//! A node whose token is slow: SoftHSM behind the fault module, which is a test double.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::Slow;
use super::load::egress;
use super::peers::Peers;
use crate::client::Client;
use crate::process::{Server, name_of};

/// A node that serves, and its token's levers.
pub struct Bed {
    server: Server,
    fault: Fault,
    pub client: Client,
    pub dir: PathBuf,
}

/// A token: so many signatures at once, each so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub latency_ms: u32,
    pub sessions: u32,
}

impl Token {
    /// Signatures a second at best.
    pub fn capacity(self) -> f64 {
        f64::from(self.sessions) * 1000.0 / f64::from(self.latency_ms)
    }
}

const START_DEADLINE: Duration = Duration::from_secs(60);

impl Bed {
    /// Starts a node with every limit at its default, and returns when it has shaken hands.
    pub async fn start(slow: &Slow, token: Token, peers: &Peers) -> anyhow::Result<Self> {
        eprintln!("starting a node, {} sessions …", token.sessions);
        let dir = &slow.dir;
        let fault = Fault::new(slow)?;
        // Free now; whoever takes it before the node does makes the start fail, not the figures.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = dir.join("slow.toml");
        fs::write(&config, configuration(address, token, &fault.module, peers))?;
        fs::write(dir.join("slow.peers.toml"), fs::read_to_string(dir.join("peers.toml"))? + &peers.policy())?;
        fs::write(dir.join("slow.anchors.pem"), fs::read_to_string(dir.join("ca/ca.pem"))? + &peers.anchor)?;
        let log = dir.join("slow.log");
        let arguments = ["run", "--config", config.to_str().context("not UTF-8")?];
        let server = Server::start_anywhere(&slow.fastness, &arguments, &log)?;
        fs::write(dir.join("slow.pid"), server.pid().to_string())?;
        let client = Client::new(dir, address)?;
        let mut bed = Self { server, fault, client, dir: dir.clone() };
        let since = Instant::now();
        while let Err(error) = bed.client.handshake().await {
            bed.server.alive().with_context(|| format!("its log: {}", fs::read_to_string(&log).unwrap_or_default()))?;
            ensure!(since.elapsed() < START_DEADLINE, error);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Slow from now on: a start is not what is measured.
        bed.fault.order(&format!("set C_Sign delay={}ms sessions={}", token.latency_ms, token.sessions))?;
        Ok(bed)
    }

    /// Signatures that the module was asked for so far.
    pub fn signatures(&self) -> anyhow::Result<u64> {
        let counts: serde_json::Value = serde_json::from_str(&self.fault.order("counts --json")?)?;
        let sign = &counts["functions"]["C_Sign"];
        let of = |name: &str| sign[name].as_u64().unwrap_or(0);
        Ok(of("calls") - of("size_queries"))
    }

    /// Threads of the node's process now.
    pub fn node_threads(&self) -> anyhow::Result<usize> {
        for pid in self.server.tree()? {
            if name_of(pid).is_ok_and(|name| name == "node") {
                return Ok(fs::read_dir(format!("/proc/{pid}/task"))?.count());
            }
        }
        anyhow::bail!("the node's process is gone")
    }

    /// An error when the node has lost one of its processes.
    pub fn alive(&mut self) -> anyhow::Result<()> {
        self.server.alive()
    }
}

fn configuration(address: SocketAddr, token: Token, module: &Path, peers: &Peers) -> String {
    let egress = peers.names().map(|name| format!("{name} = \"unix:{}\"\n", egress(name)));
    let egress: String = egress.collect();
    format!(
        r#"id = "spiffe://bench.example/node"
listen = ["{address}"]
trust_anchors = "slow.anchors.pem"
peers = "slow.peers.toml"

[[token]]
module = {module:?}
uri = "pkcs11:token=node"
pin = "file:pin"
sessions = {sessions}
environment = {{ SOFTHSM2_CONF = "softhsm2.conf" }}

[token.server]
key = "pkcs11:object=server"
certificate = "node.server.pem"

[token.client]
key = "pkcs11:object=client"
certificate = "node.client.pem"

[application.egress]
{egress}"#,
        sessions = token.sessions
    )
}

/// The fault module before SoftHSM, without rules at first.
struct Fault {
    module: PathBuf,
    state: PathBuf,
    control: PathBuf,
}

impl Fault {
    fn new(slow: &Slow) -> anyhow::Result<Self> {
        let fault = Self {
            module: slow.dir.join("test-double.so"),
            state: slow.dir.join("test-double.state"),
            control: slow.fault_module.join("fault-ctl"),
        };
        fs::copy(slow.fault_module.join("libfastness_fault.so"), &fault.module)?;
        let settings = format!("module {}\nstate {}\n", slow.module.display(), fault.state.display());
        fs::write(slow.dir.join("test-double.so.conf"), settings)?;
        fault.order("create --mode 666 --replace")?;
        Ok(fault)
    }

    fn order(&self, order: &str) -> anyhow::Result<String> {
        let output = Command::new(&self.control).arg(&self.state).args(order.split(' ')).output()?;
        ensure!(output.status.success(), "fault-ctl {order}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}
