//! Hosts of their own for a test: network namespaces on one bridge, made and removed with `ip netns`
//! (iproute2). Needs root.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Judge, run};

/// Namespaces of ours begin so, followed by the test process's id.
const PREFIX: &str = "fastness-";

/// A switch and the hosts on it; removed when dropped.
pub struct Network {
    prefix: String,
    hosts: Vec<String>,
    /// What keeps the processes' own namespace there.
    apart: Option<Judge>,
}

impl Network {
    /// Hosts with these names and the addresses 10.77.0.1, 10.77.0.2, …
    pub fn new(hosts: &[&str]) -> Self {
        super::as_root("only root makes network namespaces");
        remove_leftovers();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut network = Self {
            prefix: format!(
                "{PREFIX}{}-{}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            ),
            hosts: Vec::new(),
            apart: None,
        };
        network.add("switch");
        network.ip("switch", &["link", "add", "bridge", "type", "bridge"]);
        network.ip("switch", &["link", "set", "bridge", "up"]);
        for (index, host) in hosts.iter().enumerate() {
            network.add(host);
            let namespace = network.namespace(host);
            // `ip` takes a short word for the beginning of one of its own.
            let port = format!("port-{host}");
            let veth = "type veth peer name eth0 netns".split(' ');
            let words: Vec<_> = ["link", "add", &port]
                .into_iter()
                .chain(veth)
                .chain([&*namespace])
                .collect();
            network.ip("switch", &words);
            let words = ["link", "set", &port, "master", "bridge", "up"];
            network.ip("switch", &words);
            let address = format!("{}/24", address(index));
            network.ip(host, &["address", "add", &address, "dev", "eth0"]);
            network.ip(host, &["link", "set", "eth0", "up"]);
        }
        network
    }

    /// From here on, processes on the hosts see nobody but each other: they are in a PID namespace of their own.
    pub fn part(mut self) -> Self {
        let mut command = self.command("switch", "unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
        command.args(["sh", "-c", "echo apart; exec cat"]);
        let mut judge = Judge::start(&mut command);
        assert_eq!(judge.hear(), "apart");
        self.apart = Some(judge);
        self
    }

    fn add(&mut self, host: &str) {
        run(Command::new("ip").args(["netns", "add", &self.namespace(host)]));
        self.hosts.push(host.to_owned());
        self.ip(host, &["link", "set", "lo", "up"]);
    }

    /// Takes away a namespace at the end that somebody else made.
    pub fn adopt(&mut self, host: &str) {
        self.hosts.push(host.to_owned());
    }

    /// `ip` within a host.
    pub fn ip(&self, host: &str, arguments: &[&str]) -> String {
        run(Command::new("ip")
            .args(["-n", &self.namespace(host)])
            .args(arguments))
    }

    /// The name of a host's network namespace.
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// What a command begins with to run on a host.
    pub fn on(&self, host: &str) -> Vec<String> {
        let namespace = format!("--net=/run/netns/{}", self.namespace(host));
        let Some(apart) = &self.apart else {
            return vec!["nsenter".into(), namespace, "--".into()];
        };
        let own = |kind: &str, name: &str| format!("--{kind}=/proc/{}/ns/{name}", apart.pid());
        // Another mount namespace has another working directory; and nsenter, which becomes the parent, does not
        // end its child when it is killed.
        let words = [
            "sh",
            "-c",
            "exec nsenter --wdns=\"$PWD\" \"$@\"",
            "sh",
            &namespace,
            &own("pid", "pid_for_children"),
            &own("mount", "mnt"),
            "--",
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
        ];
        words.map(str::to_owned).into()
    }

    /// What `does` comes to on a host; what it opens stays there.
    pub fn within<T: Send>(&self, host: &str, does: impl FnOnce() -> T + Send) -> T {
        let namespace = Path::new("/run/netns").join(self.namespace(host));
        let namespace = File::open(namespace).expect("it was made");
        let moved = || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).expect("we are root");
            does()
        };
        std::thread::scope(|scope| scope.spawn(moved).join().expect("it ends"))
    }

    /// The same command on a host.
    pub fn moved(&self, host: &str, command: &Command) -> Command {
        let mut moved = self.command(host, command.get_program());
        moved.args(command.get_args());
        let set = command.get_envs();
        moved.envs(set.filter_map(|(name, value)| Some((name, value?))));
        moved
    }

    /// `program` on a host.
    pub fn command(&self, host: &str, program: impl AsRef<OsStr>) -> Command {
        let begins = self.on(host);
        let mut command = Command::new(&begins[0]);
        command.args(&begins[1..]).arg(program);
        command
    }
}

/// The address of the host with this index.
pub fn address(index: usize) -> String {
    format!("10.77.0.{}", index + 1)
}

fn remove(namespace: &str) {
    let _ = Command::new("ip")
        .args(["netns", "delete", namespace])
        .status();
}

/// Statics are never dropped and tests are killed: what earlier runs left is removed by the next one.
fn remove_leftovers() {
    let Ok(namespaces) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in namespaces.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(rest) = name.strip_prefix(PREFIX)
            && let Some((pid, _)) = rest.split_once('-')
            && !Path::new("/proc").join(pid).exists()
        {
            remove(&name);
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            remove(&self.namespace(host));
        }
    }
}
