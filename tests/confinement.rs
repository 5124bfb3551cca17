//! Every process is confined, from outside as from inside, and the mesh does all its work so.
//! `attacks.rs` is what a compromised role can do.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde_json::Value;

use crate::support::node::{self, Node};
use crate::support::{FASTNESS, Mesh, Options, eventually, full_pipe, json, python, run, said};

/// A field of a task's status (proc(5)).
fn field(status: &str, name: &str) -> String {
    let line = status
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")))
        .unwrap_or_else(|| panic!("no {name}"));
    line.split_once(':').expect("a colon").1.trim().to_owned()
}

/// Looks at every task of a process, as the supervisor should have.
fn assert_confined(role: &str, pid: u32) -> usize {
    let mut tasks = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("it runs") {
        let status =
            fs::read_to_string(task.expect("a task").path().join("status")).expect("it runs");
        let context = format!("{role} {status}");
        assert_eq!(field(&status, "Seccomp"), "2", "{context}");
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{context}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(
                u64::from_str_radix(&field(&status, set), 16),
                Ok(0),
                "{set} of {context}"
            );
        }
        if rustix::process::geteuid().is_root() {
            assert_eq!(
                u64::from_str_radix(&field(&status, "CapBnd"), 16),
                Ok(0),
                "{context}"
            );
        }
        assert_eq!(field(&status, "Umask"), "0077", "{context}");
        tasks += 1;
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .expect("a limit");
    assert_eq!(
        core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(),
        ["0", "0"],
        "{role}"
    );
    tasks
}

fn attestations(node: &Node) -> Vec<Value> {
    node.status()["attestations"]
        .as_array()
        .expect("a list")
        .clone()
}

fn assert_all_confined(node: &Node) {
    let found = attestations(node);
    assert_eq!(found.len(), 3, "{found:?}");
    for one in &found {
        assert_eq!(one["mismatches"], serde_json::json!([]), "{one}");
        let (role, pid) = (
            one["role"].as_str().expect("text"),
            one["pid"].as_u64().expect("a number"),
        );
        let tasks = assert_confined(role, u32::try_from(pid).expect("a pid"));
        assert_eq!(one["tasks"].as_u64(), Some(tasks as u64), "{one}");
        assert_eq!(
            one["profile_sha256"].as_str().map(str::len),
            Some(64),
            "{one}"
        );
    }
}

/// No process of this node was killed for a call.
fn assert_no_violation(node: &Node) {
    let log = node.log();
    assert!(!log.contains("SIGSYS"), "{log}");
}

#[test]
fn every_task_of_every_role_is_confined_and_stays_so_when_it_is_replaced() {
    let mesh = Mesh::new();
    let (a, b) = mesh.start_both();
    assert_all_confined(&a);
    for role in ["keeper", "node"] {
        let old = a.pid(role);
        node::signal(old, Signal::KILL);
        a.wait_replaced(role, old);
        assert_all_confined(&a);
    }
    b.ping("a");
    let attested = a
        .log()
        .lines()
        .filter(|line| line.contains(" attested "))
        .count();
    assert!(attested >= 5, "each process has its line: {}", a.log());
    assert_no_violation(&a);
    assert_no_violation(&b);
}

#[test]
fn code_that_only_the_start_needed_is_given_back_by_sealed_processes() {
    let mesh = Mesh::new();
    let level = "[log]\nlevel = \"debug\"\n";
    mesh.section("a", level);
    let a = mesh.start("a");
    for role in ["supervisor", "node"] {
        eventually("it has settled", || {
            let log = a.log();
            let lines = log.lines().filter(|line| line.starts_with(role));
            let mut told = lines.filter_map(|line| line.split_once("settled bytes="));
            let bytes: usize = told.next()?.1.parse().ok()?;
            (bytes > 1 << 20).then_some(())
        });
    }
    assert_no_violation(&a);
}

#[test]
fn sealed_nodes_do_all_their_work() {
    let mesh = Mesh::new();
    let (a, b) = mesh.start_both();
    for (from, to) in [(&a, "b"), (&b, "a")] {
        from.ping(to);
        let moved = from
            .ask(&["ping", to, "--transfer", "64MiB"])
            .expect("it moves");
        assert_eq!(moved["bytes_received"], 64 << 20, "{moved}");
    }
    a.ask(&["reload"]).expect("it reloads");
    // A stopped process goes on where it was: timed waits are started again.
    for role in ["node", "keeper"] {
        let pid = a.pid(role);
        node::signal(pid, Signal::STOP);
        std::thread::sleep(Duration::from_millis(300));
        node::signal(pid, Signal::CONT);
    }
    for _ in 0..3 {
        let old = b.pid("node");
        node::signal(old, Signal::KILL);
        b.wait_replaced("node", old);
        b.ping("a");
        a.ping("b");
    }
    assert_all_confined(&a);
    assert_no_violation(&a);
    assert_no_violation(&b);
}

#[test]
fn a_token_that_changes_vanishes_and_comes_back_kills_nobody() {
    let mesh = Mesh::new();
    let (a, b) = mesh.start_both();
    let reconnect = || {
        let old = b.pid("node");
        node::signal(old, Signal::KILL);
        b.wait_replaced("node", old);
    };
    b.ping("a");
    // SoftHSM looks at its objects again when another program has written one.
    let tokens = mesh.tokens("a");
    tokens.keygen("another", "server", "p256");
    reconnect();
    b.ping("a");
    let (folder, away) = (mesh.path("a/token"), mesh.path("a/away"));
    fs::rename(&folder, &away).expect("it moves");
    reconnect();
    // The keeper may fail to sign now, and be replaced; none of that may end in SIGSYS.
    let _ = b.ask(&["ping", "a"]);
    fs::rename(&away, &folder).expect("it moves back");
    eventually("a signs again", || b.ask(&["ping", "a"]).ok());
    assert_no_violation(&a);
}

#[test]
fn other_processes_of_the_user_read_nothing_of_a_role() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    for role in ["supervisor", "keeper", "node"] {
        let process = format!("/proc/{}", a.pid(role));
        let look = format!(
            "for file in mem environ maps fd/0 exe cwd; do head -c1 {process}/$file >/dev/null 2>&1 && echo read $file; \
             readlink {process}/$file; done; true"
        );
        // A user without the capabilities that this test may have.
        let mut looker = Command::new("setpriv");
        if rustix::process::geteuid().is_root() {
            looker.args(["--bounding-set=-all", "--inh-caps=-all"]);
        }
        let looked = run(looker.args(["--no-new-privs", "--", "sh", "-c", &look]));
        assert_eq!(looked, "", "of {role}");
    }
}

#[test]
fn the_profiles_are_shown_and_are_those_of_the_running_processes() {
    let mesh = Mesh::new();
    let show = |format: &str| {
        let mut command = Command::new(FASTNESS);
        run(command
            .args(["sandbox", "show", "--format", format, "--config"])
            .arg(mesh.path("a/node.toml")))
    };
    let shown = json(&show("json"));
    let roles = shown["roles"].as_array().expect("a list");
    let of = |role: &str| {
        roles
            .iter()
            .find(|one| one["role"] == role)
            .unwrap_or_else(|| panic!("no {role} in {shown}"))
    };
    let count = |role: &str| of(role)["allowed"].as_array().expect("a list").len();
    assert!(count("node") <= 36, "{}", count("node"));
    if mesh
        .tokens("a")
        .module
        .to_string_lossy()
        .contains("softhsm")
    {
        assert!(count("keeper") <= 28, "{}", count("keeper"));
    }
    let a = mesh.start("a");
    for one in attestations(&a) {
        let declared = of(one["role"].as_str().expect("text"));
        assert_eq!(one["profile_sha256"], declared["sha256"], "{one}");
        assert_eq!(one["landlock"], declared["landlock"]["summary"], "{one}");
    }
    assert!(show("human").contains(&format!("{} system calls", count("node"))));
}

#[test]
fn a_log_that_nobody_reads_stalls_no_role() {
    let mesh = Mesh::new();
    let b = mesh.start("b");
    let (_unread, log) = full_pipe();
    let a = Node::spawn(
        "a",
        &mesh.path("a"),
        mesh.ports["a"],
        Options {
            log: Some(log),
            ..Options::default()
        },
    );
    eventually("a serves, unheard", || b.ask(&["ping", "a"]).ok());
    for role in ["keeper", "node"] {
        let old = a.pid(role);
        node::signal(old, Signal::KILL);
        a.wait_replaced(role, old);
        eventually("a serves again", || b.ask(&["ping", "a"]).ok());
    }
    assert_all_confined(&a);
}

/// `attacks.rs` shows how a role ends that gets no memory. The kernel's own end for want of it is a
/// SIGKILL, as above.
#[test]
fn roles_that_get_no_more_memory_break_no_rule() {
    let mesh = Mesh::new();
    let (a, b) = mesh.start_both();
    a.ping("b");
    for role in ["keeper", "node"] {
        let old = a.pid(role);
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        let pid = Pid::from_raw(i32::try_from(old).expect("a process id"));
        rustix::process::prlimit(pid, Resource::As, none).expect("a process of ours");
        // New handshakes, and more bytes than the node has room for.
        let other = b.pid("node");
        node::signal(other, Signal::KILL);
        b.wait_replaced("node", other);
        let _ = b.ask(&["ping", "a", "--transfer", "64MiB"]);
        eventually("a serves", || b.ask(&["ping", "a"]).ok());
    }
    // Who had enough goes on, and who had not ends as an abort.
    let log = a.log();
    for gone in log.lines().filter(|line| line.contains("status=")) {
        assert!(gone.contains("signal: 6"), "{gone}");
    }
    assert_all_confined(&a);
    assert_no_violation(&a);
}

/// Nothing that whoever started the node had open, or in the environment, is in any of its processes.
#[test]
fn what_was_left_open_or_in_the_environment_is_nobodys() {
    let mesh = Mesh::new();
    let stray = mesh.write("stray", "a secret of somebody else");
    // What the configuration speaks of is kept.
    mesh.edit("a/node.toml", "pin = \"file:token/pin\"", "pin = \"fd:8\"");
    let open = format!(
        "exec 8<'{}' 9<'{}'; exec \"$@\"",
        mesh.path("a/token/pin").display(),
        stray.display()
    );
    let a = Node::spawn(
        "a",
        &mesh.path("a"),
        mesh.ports["a"],
        Options {
            environment: vec![("STRAY".to_owned(), "a secret of somebody else".to_owned())],
            through: ["sh", "-c", &open, "sh"].map(str::to_owned).into(),
            ..Options::default()
        },
    );
    a.wait_ready();
    crate::support::as_root("only root sees the descriptors of others");
    for role in ["supervisor", "keeper", "node"] {
        let process = format!("/proc/{}", a.pid(role));
        let environment = fs::read(format!("{process}/environ")).expect("it runs");
        let environment = String::from_utf8_lossy(&environment).into_owned();
        assert!(!environment.contains("STRAY"), "{role}: {environment}");
        assert!(!environment.contains("PATH="), "{role}: {environment}");
        let open: Vec<_> = fs::read_dir(format!("{process}/fd"))
            .expect("it runs")
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .collect();
        assert!(open.len() > 3, "{role}: {open:?}");
        assert!(!open.contains(&stray), "{role}: {open:?}");
        let limits = fs::read_to_string(format!("{process}/limits")).expect("it runs");
        let most = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))
            .expect("a limit");
        let soft: u64 = most
            .split_whitespace()
            .next()
            .and_then(|soft| soft.parse().ok())
            .expect("a number");
        assert!(
            soft < if role == "node" { 10_000 } else { 600 },
            "{role}: {most}"
        );
    }
}

/// The positive control is in `attacks.rs`, which has a binary with that feature.
#[test]
fn only_a_binary_for_attacks_holds_the_trigger() {
    let binary = fs::read(FASTNESS).expect("the binary");
    for mark in fastness_attack::MARKS {
        let held = binary
            .windows(mark.len())
            .any(|bytes| bytes == mark.as_bytes());
        assert_eq!(held, cfg!(feature = "attack-trigger"), "{mark}");
    }
}

/// By the very build script that cargo asks: with the feature there is no release build to search.
#[test]
fn a_release_build_never_holds_the_trigger() {
    let builds = std::path::Path::new(env!("OUT_DIR"))
        .ancestors()
        .nth(2)
        .expect("the folder of all builds");
    let scripts = fs::read_dir(builds).expect("cargo makes it").flatten();
    let script = scripts
        .filter(|folder| {
            folder
                .file_name()
                .to_string_lossy()
                .starts_with("fastness-")
        })
        .map(|folder| folder.path().join("build-script-build"))
        .filter(|script| script.exists())
        .max_by_key(|script| script.metadata().and_then(|found| found.modified()).ok())
        .expect("it was built");
    for (profile, feature, refused) in [
        ("release", true, true),
        ("release", false, false),
        ("debug", true, false),
    ] {
        let out = tempfile::tempdir().expect("a folder");
        let mut build = Command::new(&script);
        build
            .current_dir(crate::support::root())
            .env_clear()
            .env("OUT_DIR", out.path())
            .env("PROFILE", profile);
        if feature {
            build.env("CARGO_FEATURE_ATTACK_TRIGGER", "1");
        }
        let output = build.output().expect("it runs");
        let said = crate::support::said(&output);
        assert_eq!(
            output.status.success(),
            !refused,
            "{profile} {feature}: {said}"
        );
        assert_eq!(
            said.contains("attack-trigger is for tests alone"),
            refused,
            "{said}"
        );
    }
}

#[test]
fn a_build_without_filters_is_refused_unless_it_is_wanted_twice_and_this_is_none() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(crate::support::root()).args([
        "build",
        "--locked",
        "--features",
        "dangerous-unfiltered-bench",
    ]);
    let output = cargo.output().expect("cargo starts");
    let said = crate::support::said(&output);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("is for `benches/run filters` alone"),
        "{said}"
    );
    let binary = fs::read(FASTNESS).expect("the binary");
    for word in [
        &b"SYSTEM CALL FILTERS"[..],
        b"leave out system call filters",
    ] {
        assert!(!binary.windows(word.len()).any(|bytes| bytes == word));
    }
}

/// Containers and systemd's units put filters on everything in them.
#[test]
fn an_administrator_under_a_filter_of_somebody_else_is_no_role() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    for arguments in [&["status"][..], &["reload"], &["unlock"]] {
        let mut command = python("filtered.py");
        command.arg(FASTNESS).args(arguments);
        command.arg("--admin").arg(mesh.path("a/admin.sock"));
        let output = command.output().expect("python runs");
        let said = said(&output);
        match arguments {
            // It is heard: nothing waits there.
            ["unlock"] => assert_eq!(output.status.code(), Some(3), "{said}"),
            _ => assert!(output.status.success(), "{said}"),
        }
    }
    assert!(!a.log().contains("refused"), "{}", a.log());
}
