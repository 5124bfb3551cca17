//! What the scripts install, on machines that have nothing: the package tools are stubs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::{root, said};

/// In every Debian: its essential packages.
const BASE: [&str; 14] = [
    "bash",
    "chmod",
    "chown",
    "cp",
    "dmesg",
    "find",
    "grep",
    "id",
    "prlimit",
    "sh",
    "sha256sum",
    "sleep",
    "timeout",
    "unshare",
];

/// But for this one, in which stands what is looked for.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .flat_map(|path| match path.is_dir() && !path.ends_with("target") {
            true => rust_files(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter(|path| !path.ends_with(file!()))
        .collect()
}

#[test]
fn every_tool_that_a_test_runs_is_debians_own_or_installed() {
    let install = fs::read_to_string(root().join("hsm-setup/install")).expect("the script");
    let mut tools = Vec::new();
    for folder in ["tests", "hsm-setup/fault-module/tests"] {
        for file in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&file).expect("source");
            for start in ["Command::new(", "hsm.run("] {
                for rest in text.split(start).skip(1) {
                    let Some(name) = rest.trim_start().strip_prefix('"') else {
                        continue;
                    };
                    let name = name.split('"').next().unwrap_or_default();
                    let words = match name {
                        "softhsm2-util" => "need softhsm2 ".to_owned(),
                        _ => format!("have {name} "),
                    };
                    let known = BASE.contains(&name) || install.contains(&words);
                    assert!(known, "{} runs {name}", file.display());
                    tools.push(name.to_owned());
                }
            }
        }
    }
    for tool in ["curl", "openssl", "ip"] {
        assert!(tools.iter().any(|it| it == tool), "{tool} is seen");
    }
}

/// A copy of the scripts on a machine of its own, where this crate wants a Rust that nobody has yet.
struct Machine {
    folder: TempDir,
}

const WANTED: &str = "99.0";

impl Machine {
    /// With a user id, an old cargo, and apt.
    fn new(user: u32) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let machine = Self { folder };
        for part in ["bin", "hsm-setup", "benches"] {
            fs::create_dir(machine.path(part)).expect("a folder");
        }
        for script in ["hsm-setup/install", "hsm-setup/lib.sh", "benches/run"] {
            fs::copy(root().join(script), machine.path(script)).expect("a copy");
        }
        let manifest = format!("rust-version = \"{WANTED}\"\n");
        fs::write(machine.path("Cargo.toml"), manifest).expect("a manifest");
        for tool in [
            "awk", "bash", "cat", "dirname", "env", "grep", "head", "sed", "sort", "tr",
        ] {
            symlink(format!("/usr/bin/{tool}"), machine.path("bin").join(tool)).expect("a link");
        }
        machine.stub("uname", "echo 6.12.1");
        machine.stub("id", &format!("echo {user}"));
        machine.stub("cargo", "echo cargo 98.9.0");
        let (log, cargo) = (machine.path("log"), machine.path("bin/cargo"));
        machine.stub(
            "apt-get",
            &format!(
                "echo \"apt-get $*\" >>{log}\n\
                 case \"$*\" in *' install '*) printf '#!/bin/sh\\necho cargo {WANTED}.1\\n' >{cargo} ;; esac",
                log = log.display(),
                cargo = cargo.display(),
            ),
        );
        machine
    }

    /// Has a package `cargo-web` of this version.
    fn offers(self, candidate: &str) -> Self {
        self.stub("apt-cache", &format!("echo '  Candidate: {candidate}'"));
        self
    }

    fn with_sudo(self) -> Self {
        let log = self.path("log");
        self.stub(
            "sudo",
            &format!("echo sudo >>{}\nexec \"$@\"", log.display()),
        );
        self
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    fn stub(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Output {
        Command::new("/bin/bash")
            .arg(self.path(script))
            .args(arguments)
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.folder.path())
            .output()
            .expect("bash")
    }

    /// What apt-get and sudo were asked for.
    fn asked(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

#[track_caller]
fn ends(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{}", said(output));
    for word in words {
        assert!(said(output).contains(word), "no {word:?}: {}", said(output));
    }
}

#[test]
fn an_old_cargo_is_replaced_by_debians_when_that_is_new_enough() {
    let offered = "99.1.0+dfsg1-1~deb12u1";
    for machine in [
        Machine::new(0).offers(offered),
        Machine::new(1000).offers(offered).with_sudo(),
    ] {
        let output = machine.run("hsm-setup/install", &[]);
        let words = ["rustc-web", "at least 99.0", "cargo-web", "install: done"];
        ends(&output, 0, &words);
        let asked = machine.asked();
        let install = asked.lines().last().expect("it was asked");
        assert!(install.contains(" install "), "{asked}");
        assert!(install.contains("rustc-web cargo-web"), "{asked}");
        assert_eq!(asked.contains("sudo"), machine.path("bin/sudo").exists());
        // Now it is there.
        let again = machine.run("hsm-setup/install", &[]);
        assert!(!said(&again).contains("cargo-web"), "{}", said(&again));
    }
}

#[test]
fn where_every_cargo_is_too_old_it_says_how_to_get_one_and_installs_nothing() {
    for (offered, seen) in [("1.85.0+dfsg3-1~deb12u3", "1.85.0"), ("(none)", "0")] {
        let machine = Machine::new(1000).offers(offered).with_sudo();
        fs::remove_file(machine.path("bin/cargo")).expect("no cargo at all");
        let output = machine.run("hsm-setup/install", &[]);
        let candidate = format!("candidate: {seen}");
        ends(
            &output,
            1,
            &["no cargo of at least 99.0", &candidate, "https://rustup.rs"],
        );
        assert!(
            !machine.asked().contains(" install "),
            "{}",
            machine.asked()
        );
    }
}

#[test]
fn without_sudo_or_apt_it_says_what_to_do_by_hand() {
    let machine = Machine::new(1000).offers("99.1.0");
    let output = machine.run("hsm-setup/install", &[]);
    let words = [
        "not root, and no sudo: as root, run: apt-get install",
        "cargo-web",
    ];
    ends(&output, 1, &words);
    assert_eq!(machine.asked(), "");
    fs::remove_file(machine.path("bin/apt-get")).expect("no apt");
    let output = machine.run("hsm-setup/install", &[]);
    ends(
        &output,
        1,
        &["no apt-get here", "Rust 99.0 or newer: https://rustup.rs"],
    );
}

#[test]
fn benchmarks_have_what_they_need_installed_and_take_no_old_cargo() {
    let nginx = Path::new("/usr/sbin/nginx").exists();
    for (benchmark, compared) in [("handshakes", true), ("rpc", false), ("outages", false)] {
        let machine = Machine::new(1000).offers("1.85.0").with_sudo();
        let output = machine.run("benches/run", &[benchmark]);
        ends(&output, 1, &["cargo-web", "https://rustup.rs"]);
        assert!(output.stdout.is_empty(), "figures alone: {}", said(&output));
        assert_eq!(
            said(&output).contains("nginx-light"),
            compared && !nginx,
            "{}",
            said(&output)
        );
    }
}
