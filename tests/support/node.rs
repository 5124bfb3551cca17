//! A node under test: its supervisor's process, its log, its commands.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::{FASTNESS, eventually, json, said};

/// How a node is started.
#[derive(Default)]
pub struct Options {
    /// Another binary than `fastness` itself.
    pub binary: Option<PathBuf>,
    /// What its environment has beside the test's.
    pub environment: Vec<(String, String)>,
    /// Where it logs to instead of a file.
    pub log: Option<Stdio>,
    /// What its command begins with, such as [`Network::on`](super::Network::on) a host.
    pub through: Vec<String>,
    /// A filter may kill one of its processes: everywhere else that fails the test.
    pub violates: bool,
}

/// A started node; killed when dropped.
pub struct Node {
    name: String,
    folder: PathBuf,
    port: u16,
    /// Where its own lines of the log begin: an earlier node may have written there.
    begins: usize,
    violates: bool,
    supervisor: Option<Child>,
}

impl Node {
    /// Starts `folder/node.toml`, logging to `folder/log`.
    pub fn spawn(name: &str, folder: &Path, port: u16, options: Options) -> Self {
        let begins = fs::metadata(folder.join("log"))
            .map_or(0, |log| usize::try_from(log.len()).expect("small"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .expect("a log");
        let binary = options.binary.unwrap_or_else(|| FASTNESS.into());
        // The kernel kills it with the test's thread, however that ends.
        let supervisor = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(options.through)
            .arg(binary)
            .envs(options.environment)
            .args(["run", "--config"])
            .arg(folder.join("node.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(options.log.unwrap_or_else(|| log.into()))
            .spawn()
            .expect("setpriv is part of util-linux");
        Self {
            name: name.into(),
            folder: folder.into(),
            port,
            begins,
            violates: options.violates,
            supervisor: Some(supervisor),
        }
    }

    /// A node in `folder` that somebody else started and ends.
    pub fn attached(name: &str, folder: &Path, port: u16) -> Self {
        Self {
            name: name.into(),
            folder: folder.into(),
            port,
            begins: 0,
            violates: false,
            supervisor: None,
        }
    }

    /// Waits until it serves.
    #[track_caller]
    pub fn wait_ready(&self) {
        self.wait_log("READY");
    }

    /// Waits for a line of the log with `needle` in it.
    #[track_caller]
    pub fn wait_log(&self, needle: &str) -> String {
        self.wait_log_after(self.begins, needle)
    }

    /// Waits for such a line behind the first `skip` bytes: see [`Node::log_length`].
    #[track_caller]
    pub fn wait_log_after(&self, skip: usize, needle: &str) -> String {
        eventually(&format!("{}'s log says {needle:?}", self.name), || {
            let log = self.log();
            let found = log
                .get(skip..)?
                .lines()
                .find(|line| line.contains(needle))?;
            Some(found.to_owned())
        })
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).expect("the log")
    }

    pub fn log_length(&self) -> usize {
        self.log().len()
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// A command of the administrator to this node.
    pub fn admin(&self, arguments: &[&str]) -> Output {
        Command::new(FASTNESS)
            .args(arguments)
            .arg("--admin")
            .arg(self.folder.join("admin.sock"))
            .output()
            .expect("the binary runs")
    }

    /// The same, answered with one JSON value.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value, Output> {
        let output = self.admin(&[arguments, &["--format", "json"]].concat());
        if output.status.success() {
            Ok(json(&String::from_utf8_lossy(&output.stdout)))
        } else {
            Err(output)
        }
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        self.ask(&["status"])
            .unwrap_or_else(|output| panic!("{}", said(&output)))
    }

    /// Pings until it works: a peer that has just lost its connection waits a little.
    #[track_caller]
    pub fn ping(&self, peer: &str) -> Value {
        eventually(&format!("{} reaches {peer}", self.name), || {
            self.ask(&["ping", peer]).ok()
        })
    }

    /// Process id of `supervisor`, `keeper` or `node`.
    pub fn pid(&self, role: &str) -> u32 {
        pid_in(&self.status(), role)
    }

    /// Waits for another process in `role` than `old`, and until the node is ready again.
    #[track_caller]
    pub fn wait_replaced(&self, role: &str, old: u32) -> u32 {
        eventually(&format!("the {role} of {} is replaced", self.name), || {
            let status = self.ask(&["status"]).ok()?;
            let pid = pid_in(&status, role);
            (pid != 0 && pid != old && status["state"] == "ready").then_some(pid)
        })
    }

    pub fn supervisor(&self) -> u32 {
        self.supervisor
            .as_ref()
            .expect("it was not waited for")
            .id()
    }

    /// How the supervisor ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.supervisor
            .as_mut()
            .expect("it was not waited for")
            .try_wait()
            .expect("our child")
    }

    /// Waits until the supervisor has ended.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let ended = eventually(&format!("{} ends", self.name.clone()), || self.has_ended());
        self.supervisor = None;
        ended
    }

    /// That no filter killed a process which nobody meant to break.
    fn assert_no_violation(&self, supervisor: Option<ExitStatus>) {
        if self.violates {
            return;
        }
        let killed = supervisor.and_then(|status| status.signal());
        assert_ne!(
            killed,
            Some(Signal::SYS.as_raw()),
            "the supervisor's filter"
        );
        // Its folder may be gone already.
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let found = log
            .get(self.begins..)
            .and_then(|own| own.lines().find(|line| line.contains("SIGSYS")));
        assert_eq!(found, None, "{}'s log", self.name);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let ended = self.supervisor.take().and_then(|mut supervisor| {
            let _ = supervisor.kill();
            supervisor.wait().ok()
        });
        if std::thread::panicking() {
            // Its folder may be gone already.
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            eprintln!("--- log of {} ---\n{log}", self.name);
        } else {
            self.assert_no_violation(ended);
        }
    }
}

/// Process id of a role in a status; 0 while it has none.
pub fn pid_in(status: &Value, role: &str) -> u32 {
    let processes = status["processes"].as_array().expect("processes");
    let process = processes
        .iter()
        .find(|process| process["role"] == role)
        .expect("every role is listed");
    u32::try_from(process["pid"].as_u64().unwrap_or_default()).expect("a process id")
}

/// Sends a signal to a process of a test.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("not 0");
    rustix::process::kill_process(pid, signal).expect("the process is there");
}

/// Kills a process that may have ended by itself.
pub fn kill_if_there(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("not 0");
    let killed = rustix::process::kill_process(pid, Signal::KILL);
    assert!(
        matches!(killed, Ok(()) | Err(rustix::io::Errno::SRCH)),
        "{killed:?}"
    );
}

/// Whether a process is there and not just a zombie.
pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .trim_start()
            .starts_with('Z')
    })
}
