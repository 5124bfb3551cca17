//! The servers that are compared.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::Bench;
use crate::client::Client;
use crate::process::Server;

/// One of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Case {
    /// tonic and rustls, key in a file.
    Software,
    /// The product as shipped, key in SoftHSM.
    Fastness,
    /// The product without its system call filters.
    Unfiltered,
    /// nginx with OpenSSL's PKCS#11 engine, key in SoftHSM.
    NginxPkcs11,
    /// The product in front of an application.
    FastnessProxy,
    /// Envoy in front of it, key in a file.
    Envoy,
    /// nginx in front of it, key in a file.
    NginxProxy,
}

impl Case {
    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Software => "software",
            Self::Fastness => "fastness",
            Self::Unfiltered => "unfiltered",
            Self::NginxPkcs11 => "nginx-pkcs11",
            Self::FastnessProxy => "fastness-proxy",
            Self::Envoy => "envoy",
            Self::NginxProxy => "nginx-proxy",
        }
    }
}

/// A server that answers, and the client for it.
pub struct Running {
    pub case: Case,
    pub server: Server,
    pub client: Client,
}

/// Loading a module, logging in and checking keys take a second or two on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// Starts `case` and returns when it has shaken hands once.
pub async fn start(case: Case, bench: &Bench) -> anyhow::Result<Running> {
    eprintln!("starting {} …", case.name());
    let log = bench.dir.join(format!("{}.log", case.name()));
    let running = started(case, bench, &log).await;
    running.with_context(|| format!("{} does not serve; its log ends with\n{}", case.name(), tail(&log)))
}

async fn started(case: Case, bench: &Bench, log: &Path) -> anyhow::Result<Running> {
    // Free now; whoever takes it before the server does makes the start fail, not the figures.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let client = Client::new(&bench.dir, address)?;
    let server = launch(case, bench, address, log)?;
    fs::write(bench.dir.join(format!("{}.pid", case.name())), server.pid().to_string())?;
    let mut running = Running { case, server, client };
    let since = Instant::now();
    loop {
        running.server.alive()?;
        match running.client.handshake().await {
            Ok(settled) => {
                eprintln!("  {} answers: {}, {}", case.name(), settled.group, settled.suite);
                return Ok(running);
            }
            Err(error) if since.elapsed() > START_DEADLINE => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn launch(case: Case, bench: &Bench, address: SocketAddr, log: &Path) -> anyhow::Result<Server> {
    let dir = &bench.dir;
    let port = address.port().to_string();
    match case {
        Case::Software => {
            fs::write(dir.join("software.port"), port)?;
            let ourselves = std::env::current_exe()?;
            Server::start(&ourselves, &["software", "--dir", text(dir)?], &[], log)
        }
        Case::Fastness => {
            let config = dir.join("node.toml");
            fill(&dir.join("node.toml.in"), &config, &[("PORT", &port)])?;
            Server::start(&bench.fastness, &["run", "--config", text(&config)?], &[], log)
        }
        Case::FastnessProxy => {
            let config = dir.join("node-proxy.toml");
            fill(&dir.join("node-proxy.toml.in"), &config, &[("PORT", &port)])?;
            Server::start(&bench.fastness, &["run", "--config", text(&config)?], &[], log)
        }
        Case::Envoy => {
            let config = dir.join("envoy.yaml");
            fill(&dir.join("envoy.yaml.in"), &config, &[("PORT", &port)])?;
            let envoy = std::env::var_os("ENVOY").context("benches/run says where Envoy is")?;
            let arguments = ["-c", text(&config)?, "--concurrency", "1", "--log-level", "warn", "--use-dynamic-base-id"];
            Server::start(Path::new(&envoy), &arguments, &[], log)
        }
        Case::NginxProxy => {
            let config = dir.join("nginx-proxy.conf");
            fill(&dir.join("nginx-proxy.conf.in"), &config, &[("PORT", &port)])?;
            let error_log = dir.join("nginx.log");
            let arguments = ["-p", text(dir)?, "-e", text(&error_log)?, "-c", text(&config)?];
            Server::start(Path::new("nginx"), &arguments, &[], log)
        }
        Case::Unfiltered => {
            let binary = bench.unfiltered.as_deref().context("--unfiltered names no binary")?;
            let config = dir.join("unfiltered.toml");
            fill(&dir.join("node.toml.in"), &config, &[("PORT", &port)])?;
            // Both run at once, from one folder.
            let apart = format!("admin = \"unfiltered.sock\"\n{}", fs::read_to_string(&config)?);
            fs::write(&config, apart)?;
            Server::start(binary, &["run", "--config", text(&config)?], &[], log)
        }
        Case::NginxPkcs11 => {
            let config = dir.join("nginx.conf");
            fill(&dir.join("nginx.conf.in"), &config, &[("PORT", &port)])?;
            let softhsm = dir.join("softhsm2.conf");
            let environment = [("SOFTHSM2_CONF", softhsm.as_path()), ("PKCS11_MODULE_PATH", bench.module.as_path())];
            let error_log = dir.join("nginx.log");
            let arguments = ["-p", text(dir)?, "-e", text(&error_log)?, "-c", text(&config)?];
            Server::start(Path::new("nginx"), &arguments, &environment, log)
        }
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the temporary folder's name is not UTF-8")
}

/// Writes `template` to `file`, which nobody else may read, with the words in @ replaced.
fn fill(template: &Path, file: &Path, words: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut text = fs::read_to_string(template).with_context(|| format!("{}", template.display()))?;
    for (word, value) in words {
        text = text.replace(&format!("@{word}@"), value);
    }
    fs::copy(template, file)?;
    Ok(fs::write(file, text)?)
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
