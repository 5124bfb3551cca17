//! What a compromised role can do: each attempt of the catalogue, from inside the real, sealed role,
//! while it serves. `cargo test --features attack-trigger --test attacks -- --nocapture` prints the
//! table.

#![expect(
    unreachable_pub,
    reason = "`pub` says what a test may use; the crate is one program"
)]
#![allow(
    dead_code,
    unused_imports,
    reason = "tests/support is for the other tests too"
)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

mod support;

use std::collections::BTreeMap;
use std::process::Command;

use fastness_attack::{CATALOGUE, ENDS};

use support::{Mesh, Options, eventually};

const EPERM: i32 = 1;
const EACCES: i32 = 13;
const ENOSYS: i32 = 38;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// The kernel ended the process with this signal.
    Signal(i32),
    /// The call did nothing but return this error.
    Errno(i32),
    /// The call did something.
    Returned,
}

const KILLED: End = End::Signal(31);

/// Runs a node whose `role` makes the attempt `name` when it serves; says how that ended, and the
/// number of the call that the kernel's log names, if it can be read.
fn attempt(mesh: &Mesh, role: &str, name: &str) -> (End, Option<i64>) {
    let environment = vec![("FASTNESS_ATTACK".to_owned(), format!("{role}:{name}"))];
    let begins = std::fs::metadata(mesh.path("a/log")).map_or(0, |log| log.len());
    let begins = usize::try_from(begins).expect("small");
    let mut node = support::Node::spawn(
        "a",
        &mesh.path("a"),
        mesh.ports["a"],
        Options {
            environment,
            ..Options::default()
        },
    );
    let supervisor = node.supervisor();
    let end = eventually(&format!("{role} attempts {name}"), || {
        let log = node.log();
        let said = log.get(begins..)?;
        let told = said
            .lines()
            .find_map(|line| line.strip_prefix(&format!("attack {name:?}: ")));
        if let Some(told) = told {
            return Some(match told.strip_prefix("errno ") {
                Some(errno) => End::Errno(errno.parse().expect("a number")),
                None => End::Returned,
            });
        }
        if role == "supervisor" {
            use std::os::unix::process::ExitStatusExt;
            return node
                .has_ended()
                .map(|status| End::Signal(status.signal().expect("it was killed")));
        }
        let gone = said
            .lines()
            .find(|line| line.contains("status=") && line.contains(role))?;
        let signal = gone
            .split_once("signal: ")
            .unwrap_or_else(|| panic!("{gone}"))
            .1;
        Some(End::Signal(
            signal.split(' ').next()?.parse().expect("a number"),
        ))
    });
    let log = node.log();
    let pid = match role {
        "supervisor" => Some(supervisor.to_string()),
        _ => log[begins..]
            .lines()
            .find(|line| line.contains("attested") && line.contains(&format!("role=\"{role}\"")))
            .map(|line| {
                line.split_once(" pid=")
                    .expect("a pid")
                    .1
                    .split(' ')
                    .next()
                    .expect("a pid")
                    .to_owned()
            }),
    };
    let address = node.address();
    drop(node);
    // Its roles die with it, but not in the same moment.
    eventually("the port is free", || {
        std::net::TcpListener::bind(address).ok()
    });
    let number = pid.filter(|_| end == KILLED).and_then(|pid| logged(&pid));
    (end, number)
}

/// The call that the kernel's log says this process was killed for. The kernel leaves lines out when
/// many come at once.
fn logged(pid: &str) -> Option<i64> {
    let output = Command::new("dmesg").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .rev()
        .find(|line| line.contains("type=1326") && line.contains(&format!(" pid={pid} ")))?;
    line.split_once(" syscall=")?
        .1
        .split(' ')
        .next()?
        .parse()
        .ok()
}

/// Makes every attempt in `role`: what `declared` names ends so, all else with SIGSYS.
fn catalogue(role: &str, names: &[&str], declared: &[(&str, End)]) {
    let declared: BTreeMap<_, _> = declared.iter().cloned().collect();
    for name in declared.keys() {
        assert!(names.contains(name), "{name} is not attempted");
    }
    let (mut wrong, mut numbers) = (Vec::new(), 0);
    for name in names {
        let wanted = declared.get(name).unwrap_or(&KILLED);
        // A keeper that is killed in C_Login leaves SoftHSM's token torn: each attempt has its own.
        let (end, number) = attempt(&Mesh::new(), role, name);
        let known = CATALOGUE
            .iter()
            .find(|one| one.name == *name)
            .map(|one| one.number);
        println!(
            "{role:<10} {name:<32} {end:?}{}",
            number.map_or(String::new(), |number| format!(
                ", call {number} in the kernel's log"
            ))
        );
        if let (Some(number), Some(known)) = (number, known) {
            assert_eq!(number, known, "{name}");
            numbers += 1;
        }
        if end != *wanted {
            wrong.push(format!("{name}: {end:?}, declared is {wanted:?}"));
        }
    }
    println!(
        "{role}: {} attempts, {} with the call's number from the kernel's log",
        names.len(),
        numbers
    );
    assert!(wrong.is_empty(), "{role}: {}", wrong.join("\n"));
}

/// The whole catalogue, other ways into the kernel, and ends that are no attempt.
fn all() -> Vec<&'static str> {
    let mut names: Vec<_> = CATALOGUE.iter().map(|one| one.name).collect();
    #[cfg(target_arch = "x86_64")]
    names.extend(["x32 getpid", "i386 getpid"]);
    names.extend(ENDS.iter().map(|(name, _)| *name));
    assert!(names.len() >= 60);
    names
}

fn ends() -> impl Iterator<Item = (&'static str, End)> {
    ENDS.iter()
        .map(|(name, signal)| (*name, End::Signal(*signal)))
}

#[test]
fn a_sealed_node_can_do_nothing() {
    let denied = [
        ("open for reading", End::Errno(EACCES)),
        ("open for writing", End::Errno(EACCES)),
        ("open memory of parent", End::Errno(EACCES)),
        ("clone3", End::Errno(ENOSYS)),
        // abort(3) may signal; Landlock says whom.
        ("tgkill abort parent", End::Errno(EPERM)),
    ];
    catalogue(
        "node",
        &all(),
        &denied.into_iter().chain(ends()).collect::<Vec<_>>(),
    );
}

#[test]
fn a_sealed_keeper_can_only_read_its_token() {
    let denied = [
        ("open for reading", End::Errno(EACCES)),
        ("clone3", End::Errno(ENOSYS)),
        // Families that the supervisor's filter, which is on it too, allows; the others kill.
        ("socket unix", End::Errno(EACCES)),
        ("socket udp", End::Errno(EACCES)),
        ("socket raw", End::Errno(EACCES)),
        ("socket mptcp", End::Errno(EACCES)),
        ("tgkill abort parent", End::Errno(EPERM)),
    ];
    catalogue(
        "keeper",
        &all(),
        &denied.into_iter().chain(ends()).collect::<Vec<_>>(),
    );
}

#[test]
fn the_supervisor_starts_nothing_but_itself() {
    let names = [
        "execve",
        "execveat",
        "new user namespace",
        "clone3",
        "ptrace parent",
        "process_vm_readv",
        "process_vm_writev",
        "kill parent",
        "kill init",
        "kcmp",
        "process_madvise",
        "mknodat",
        "open_by_handle_at",
        "chroot",
        "ioctl TIOCSTI",
        "socket packet",
        "socket vsock",
        "socket alg",
        "socket netlink",
        "bind a TCP port",
        "mmap writable and executable",
        "mprotect executable",
        "pkey_mprotect",
        "remap_file_pages",
        "userfaultfd",
        "personality",
        "setuid",
        "setresgid",
        "setgroups",
        "mount",
        "umount2",
        "pivot_root",
        "unshare",
        "setns",
        "bpf",
        "perf_event_open",
        "io_uring_setup",
        "keyctl",
        "add_key",
        "init_module",
        "finit_module",
        "kexec_load",
        "reboot",
        "syslog",
        "x32 getpid",
        "i386 getpid",
        "panic",
        "segfault",
    ];
    let denied = [
        ("execve", End::Errno(EACCES)),
        ("execveat", End::Errno(EACCES)),
        ("clone3", End::Errno(ENOSYS)),
        ("kill parent", End::Errno(EPERM)),
        ("kill init", End::Errno(EPERM)),
        ("bind a TCP port", End::Errno(EACCES)),
    ];
    catalogue(
        "supervisor",
        &names,
        &denied.into_iter().chain(ends()).collect::<Vec<_>>(),
    );
}

/// The positive control of `confinement::the_binary_holds_no_attack`.
#[test]
fn this_build_holds_the_trigger() {
    let binary = std::fs::read(support::FASTNESS).expect("the binary");
    assert!(binary.windows(15).any(|bytes| bytes == b"FASTNESS_ATTACK"));
}
