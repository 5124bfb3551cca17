//! A server as a tree of processes: started on its core, its CPU and memory read, ended by pid.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::pinning;

/// A server that runs. Dropping it ends the whole tree.
#[derive(Debug)]
pub struct Server {
    child: Child,
}

/// How long a server may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);

impl Server {
    /// Starts `program` on the servers' core, with both outputs to the file `log`.
    pub fn start(program: &Path, arguments: &[&str], environment: &[(&str, &Path)], log: &Path) -> anyhow::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let child = Command::new("taskset")
            .args(["-c", &pinning::server_core().to_string()])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child })
    }

    /// The same on any core.
    pub fn start_anywhere(program: &Path, arguments: &[&str], log: &Path) -> anyhow::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child })
    }

    /// The root of the tree; `taskset` has become the server by exec.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error when the server has gone.
    pub fn alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the server ended by itself: {status}"),
        }
    }

    /// Every process of the tree, the root first.
    pub fn tree(&self) -> anyhow::Result<Vec<u32>> {
        let mut parents = BTreeMap::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            // A process may have gone between the listing and this.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest);
            let parent = after_name.and_then(|rest| rest.split(' ').nth(1)).and_then(|pid| pid.parse::<u32>().ok());
            parents.extend(parent.map(|parent| (pid, parent)));
        }
        let mut tree = vec![self.pid()];
        let mut next = 0;
        while let Some(&parent) = tree.get(next) {
            tree.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        Ok(tree)
    }

    /// CPU time that each process of the tree has used so far, user and system, ended threads
    /// included, to the nanosecond (clock_getcpuclockid(3)).
    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        let mut used = BTreeMap::new();
        for pid in self.tree()? {
            let clock = clock_getcpuclockid(Pid::from_raw(pid.try_into()?)).context("a server process has gone")?;
            let time = Duration::from(clock_gettime(clock).context("a server process has gone")?);
            used.insert(pid, time);
        }
        Ok(Cpu(used))
    }

    /// Memory of each process of the tree.
    pub fn memory(&self) -> anyhow::Result<Vec<Memory>> {
        self.tree()?.into_iter().map(Memory::of).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let tree = self.tree().unwrap_or_else(|_| vec![self.pid()]);
        signal(self.pid(), Signal::SIGTERM);
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                _ => return,
            }
        }
        // It did not end by itself: all that it started go too.
        for pid in tree {
            signal(pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = pid.try_into() {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// CPU clocks of a tree at one moment.
#[derive(Debug)]
pub struct Cpu(BTreeMap<u32, Duration>);

impl Cpu {
    /// The time used since `earlier`, by all processes together.
    pub fn since(&self, earlier: &Self) -> anyhow::Result<Duration> {
        if !self.0.keys().eq(earlier.0.keys()) {
            bail!("the server replaced one of its processes during a round");
        }
        let each = self.0.iter().map(|(pid, now)| now.saturating_sub(earlier.0[pid]));
        Ok(each.sum())
    }

    /// The same for each process.
    pub fn each_since<'a>(&'a self, earlier: &'a Self) -> impl Iterator<Item = (u32, Duration)> + 'a {
        self.0.iter().map(|(pid, now)| (*pid, now.saturating_sub(earlier.0.get(pid).copied().unwrap_or_default())))
    }
}

/// What one process holds, in KiB.
#[derive(Debug)]
pub struct Memory {
    pub name: String,
    /// Resident, pages shared with others counted whole.
    pub rss: u64,
    /// Resident, each shared page counted in parts.
    pub pss: u64,
}

impl Memory {
    fn of(pid: u32) -> anyhow::Result<Self> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .context("cannot read a server's memory: run as the same user, or as root")?;
        let field = |name: &str| {
            rollup
                .lines()
                .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok())
                .with_context(|| format!("no {name} in smaps_rollup"))
        };
        Ok(Self { name: name_of(pid)?, rss: field("Rss:")?, pss: field("Pss:")? })
    }
}

/// What a process is called in the tables: `supervisor` stands for the one that was started.
pub fn name_of(pid: u32) -> anyhow::Result<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline"))?;
    let line = String::from_utf8_lossy(&line);
    let mut words = line.split(['\0', ' ']).filter(|word| !word.is_empty());
    let program = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default().trim_end_matches(':').to_owned();
    Ok(match words.next() {
        Some(role) if role.starts_with("role-") => role.trim_start_matches("role-").to_owned(),
        Some("run") => "supervisor".to_owned(),
        Some("software") => "software".to_owned(),
        Some(word) if program == "nginx" => word.to_owned(),
        _ => program,
    })
}
