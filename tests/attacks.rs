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

#[path = "attacks/exact.rs"]
mod exact;
#[path = "attacks/rules.rs"]
mod rules;
mod support;
#[path = "attacks/used.rs"]
mod used;

use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use fastness_attack::{CATALOGUE, ENDS};

use support::{Mesh, Options, eventually};

const EPERM: i32 = 1;
const EBADF: i32 = 9;
const EACCES: i32 = 13;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const EPIPE: i32 = 32;
const ENOSYS: i32 = 38;
const ECONNRESET: i32 = 104;

/// Connections that are not connect(2).
const FAST_OPENS: [&str; 3] = [
    "connect by sendto",
    "connect by sendmsg",
    "connect by sendmmsg",
];

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// The kernel ended the process with this signal.
    Signal(i32),
    /// It became another program, which ended so.
    Exited(i32),
    /// The call did nothing but return this error.
    Errno(i32),
    /// The call did something.
    Returned,
}

const KILLED: End = End::Signal(31);

/// As many of a role's attempts have their call's number in the kernel's log, at least, where we may read it.
const NUMBERS: usize = 10;

/// What came of a role's attempts, in their order: those that returned, then the one that ended it.
struct Ends {
    ends: Vec<End>,
    /// The call that the kernel's log says the process was killed for, if it can be read.
    number: Option<i64>,
}

/// Runs a node whose `role` makes the attempts `names` when all of it was attested and serves.
fn attempts(mesh: &Mesh, role: &str, names: &[&str]) -> Ends {
    attempts_of(mesh, role, names, None).0
}

/// The same with another binary; and the log, and the supervisor's process.
fn attempts_of(
    mesh: &Mesh,
    role: &str,
    names: &[&str],
    binary: Option<PathBuf>,
) -> (Ends, String, u32) {
    let told = format!("{role}:{}", names.join(";"));
    let begun = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs_f64();
    let mut node = support::Node::spawn(
        "a",
        &mesh.path("a"),
        mesh.ports["a"],
        Options {
            environment: vec![("FASTNESS_ATTACK".to_owned(), told)],
            binary,
            violates: true,
            ..Options::default()
        },
    );
    let supervisor = node.supervisor();
    let (returned, signal) = eventually(&format!("{role} attempts {names:?}"), || {
        // Before the log is read: what it said last is then in there.
        let ended = node.has_ended();
        let log = node.log();
        let whole = log.rfind('\n').map_or("", |end| &log[..=end]);
        let lines = || whole.lines();
        let returned: Vec<End> = lines()
            .filter_map(|line| line.strip_prefix("attack "))
            .map(|told| match told.rsplit_once(": errno ") {
                Some((_, errno)) => End::Errno(errno.parse().expect("a number")),
                None => End::Returned,
            })
            .collect();
        if returned.len() >= names.len() {
            return Some((returned, None));
        }
        if role == "supervisor" {
            use std::os::unix::process::ExitStatusExt;
            let ended = ended?;
            let exited = || End::Exited(ended.code().unwrap_or_else(|| panic!("{log}")));
            return Some((
                returned,
                Some(ended.signal().map_or_else(exited, End::Signal)),
            ));
        }
        let gone = lines().find(|line| line.contains("status=") && line.contains(role))?;
        let signal = gone
            .split_once("signal: ")
            .unwrap_or_else(|| panic!("{log}"))
            .1;
        let signal = signal.split(' ').next()?.parse().expect("a number");
        Some((returned, Some(End::Signal(signal))))
    });
    let log = node.log();
    let pid = match role {
        "supervisor" => supervisor.to_string(),
        _ => attested_pid(&log, role),
    };
    let address = node.address();
    drop(node);
    // Its roles die with it, but not in the same moment.
    eventually("the port is free", || {
        std::net::TcpListener::bind(address).ok()
    });
    let ends = Ends {
        ends: returned.into_iter().chain(signal.clone()).collect(),
        number: signal
            .filter(|signal| *signal == KILLED)
            .and_then(|_| logged(&pid, begun)),
    };
    (ends, log, supervisor)
}

/// The first process of `role` that was attested: none makes an attempt before.
fn attested_pid(log: &str, role: &str) -> String {
    let line = log
        .lines()
        .find(|line| line.contains("attested") && line.contains(&format!("role=\"{role}\"")))
        .unwrap_or_else(|| panic!("{role} was not attested: {log}"));
    let (_, pid) = line.split_once(" pid=").expect("a pid");
    pid.split(' ').next().expect("a pid").to_owned()
}

/// The call that the kernel's log says this process was killed for. The kernel leaves lines out when
/// many come at once.
fn logged(pid: &str, since: f64) -> Option<i64> {
    let output = Command::new("dmesg").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .rev()
        .find(|line| line.contains("type=1326") && line.contains(&format!(" pid={pid} ")))?;
    // Process ids come again: an older line is of another process.
    let (_, time) = line.split_once("audit(")?;
    let time: f64 = time.split(':').next()?.parse().ok()?;
    if time < since - 1.0 {
        return None;
    }
    line.split_once(" syscall=")?
        .1
        .split(' ')
        .next()?
        .parse()
        .ok()
}

/// As many nodes at once.
const AT_ONCE: usize = 3;

/// Calls `work` on each of `items`, several at a time; the results are in their order.
fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    let mut mine = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(item) = items.get(index) else {
                            return mine;
                        };
                        mine.push((index, work(item)));
                    }
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// A mesh whose `a` has an application at `a/app.sock`, which reaches `b` by `a/b.sock`.
fn with_application() -> Mesh {
    let mesh = Mesh::new();
    let section = "[application]\nmode = \"tcp\"\nupstream = \"unix:app.sock\"\n";
    mesh.section(
        "a",
        &format!("{section}egress = {{ b = \"unix:b.sock\" }}\n"),
    );
    mesh
}

/// A mesh whose `a` has a module that nobody knows: a test double around SoftHSM.
fn with_unknown_module() -> Mesh {
    let mesh = Mesh::new();
    support::FaultModule::before(&mesh);
    mesh
}

/// A mesh whose `a` knows `b` by a name.
fn with_a_name() -> Mesh {
    let mesh = Mesh::new();
    mesh.edit("a/peers.toml", "127.0.0.1:", "localhost:");
    mesh
}

/// Makes every attempt in `role`: what `declared` names ends so, all else with SIGSYS.
fn catalogue(mesh: fn() -> Mesh, role: &str, names: &[&str], declared: &[(&str, End)]) {
    assert!(names.len() >= 60, "{role}: {} attempts", names.len());
    let declared: BTreeMap<_, _> = declared.iter().cloned().collect();
    for name in declared.keys() {
        assert!(names.contains(name), "{name} is not attempted");
    }
    // A keeper that is killed in C_Login leaves SoftHSM's token torn: each attempt has its own.
    let once = |name: &str| {
        let Ends { ends, number } = attempts(&mesh(), role, &[name]);
        (ends.into_iter().next().expect("one end"), number)
    };
    let number_of = |name: &str| Some(CATALOGUE.iter().find(|one| one.name == name)?.number);
    let mut found = side_by_side(names, |name| once(name));
    // The kernel left out most numbers if other tests were killed in the same seconds: once more for those.
    let read = |found: &[(End, Option<i64>)]| {
        let all = names.iter().zip(found);
        all.filter(|(name, (_, number))| number.is_some() && number_of(name).is_some())
            .count()
    };
    if rustix::process::geteuid().is_root() {
        for (index, name) in names.iter().enumerate() {
            if read(&found) >= NUMBERS {
                break;
            }
            if found[index] == (KILLED, None) && number_of(name).is_some() {
                found[index] = once(name);
            }
        }
    }
    let (mut wrong, numbers) = (Vec::new(), read(&found));
    for (name, (end, number)) in names.iter().zip(found) {
        let wanted = declared.get(name).unwrap_or(&KILLED);
        println!(
            "{role:<10} {name:<32} {end:?}{}",
            number.map_or(String::new(), |number| format!(
                ", call {number} in the kernel's log"
            ))
        );
        if let (Some(number), Some(known)) = (number, number_of(name)) {
            assert_eq!(number, known, "{name}");
        }
        if end != *wanted {
            wrong.push(format!("{name}: {end:?}, declared is {wanted:?}"));
        }
    }
    println!(
        "{role}: {} attempts, {numbers} with the call's number from the kernel's log",
        names.len()
    );
    assert!(wrong.is_empty(), "{role}: {}", wrong.join("\n"));
    if rustix::process::geteuid().is_root() {
        assert!(
            numbers >= NUMBERS,
            "the kernel's log has too few of the calls' numbers"
        );
    }
}

/// The whole catalogue, other ways into the kernel, and ends that are no attempt.
fn all() -> Vec<&'static str> {
    let mut names: Vec<_> = CATALOGUE.iter().map(|one| one.name).collect();
    #[cfg(target_arch = "x86_64")]
    names.extend(["x32 getpid", "i386 getpid"]);
    names.extend(FAST_OPENS);
    names.push("sendmsg with a descriptor");
    names.extend(ENDS.iter().map(|(name, _)| *name));
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
        Mesh::new,
        "node",
        &all(),
        &denied.into_iter().chain(ends()).collect::<Vec<_>>(),
    );
}

/// Who takes a nameserver's answers apart.
#[test]
fn a_sealed_resolver_reads_its_settings_and_asks() {
    let denied = [
        ("open for reading", End::Errno(EACCES)),
        ("clone3", End::Errno(ENOSYS)),
        ("tgkill abort parent", End::Errno(EPERM)),
        // How nameservers are asked, and how no daemon of this machine is.
        ("socket udp", End::Returned),
        ("socket unix", End::Errno(EACCES)),
        ("socket unix datagram", End::Errno(EACCES)),
        // Its channel is no file.
        ("mmap of a file", End::Errno(ENODEV)),
    ];
    catalogue(
        with_a_name,
        "resolver",
        &all(),
        &denied.into_iter().chain(ends()).collect::<Vec<_>>(),
    );
}

/// Of TCP ports it reaches a nameserver's.
#[test]
fn a_sealed_resolver_connects_to_no_other_tcp_port() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let names = [
        &*format!("connect to TCP port {port}"),
        "connect to another TCP port",
        "connect to another TCP port over IPv6",
    ];
    let denied = End::Errno(EACCES);
    let wanted = [denied.clone(), denied.clone(), denied];
    assert_eq!(attempts(&with_a_name(), "resolver", &names).ends, wanted);
}

/// Wherever it tries, a compromised node reaches the ports of its peers and no others.
#[test]
fn a_sealed_node_connects_to_the_ports_of_its_policy_alone() {
    let mesh = Mesh::new();
    let peer = std::net::TcpListener::bind(("127.0.0.1", mesh.ports["b"])).expect("its port");
    let other = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let to = |listener: &std::net::TcpListener| {
        let port = listener.local_addr().expect("bound").port();
        format!("connect to TCP port {port}")
    };
    let names = [
        &*to(&peer),
        &*to(&other),
        "connect to another TCP port",
        "connect to another TCP port over IPv6",
    ];
    let denied = End::Errno(EACCES);
    let wanted = [End::Returned, denied.clone(), denied.clone(), denied];
    assert_eq!(attempts(&mesh, "node", &names).ends, wanted);
}

#[test]
fn a_sealed_keeper_can_only_read_its_token() {
    let answered: &[&str] = match support::in_softhsm() {
        // Families that the supervisor's filter, which is on it too, allows; the others kill.
        true => &["socket unix", "socket unix datagram", "socket udp"],
        // No file is opened, for whatever.
        false => &["open for writing", "open memory of parent"],
    };
    let denied = [
        ("open for reading", End::Errno(EACCES)),
        ("clone3", End::Errno(ENOSYS)),
        ("tgkill abort parent", End::Errno(EPERM)),
    ];
    let denied = denied
        .into_iter()
        .chain(answered.iter().map(|name| (*name, End::Errno(EACCES))));
    // It has no TCP socket to begin with.
    let fast_opens = FAST_OPENS.map(|name| (name, End::Errno(EACCES)));
    let denied = denied.chain(fast_opens.into_iter().filter(|_| support::in_softhsm()));
    catalogue(
        Mesh::new,
        "keeper",
        &all(),
        &denied.chain(ends()).collect::<Vec<_>>(),
    );
}

/// Its own filter lets sendto(2) be: that of the supervisor is on it too.
#[test]
fn a_sealed_keeper_has_no_msg_fastopen() {
    let to = |flags: i32| {
        format!(
            "raw {} {} 0 0 {flags} 0 0",
            exact::numbers()["sendto"],
            u32::MAX
        )
    };
    let attempt = |flags| attempts(&Mesh::new(), "keeper", &[&to(flags)]).ends;
    assert_eq!(attempt(0), [End::Errno(EBADF)]);
    assert_eq!(attempt(0x2000_0000), [KILLED]);
}

/// The widest of the profiles: files are Landlock's to keep, and a module may have threads and sockets.
#[test]
fn a_sealed_keeper_of_an_unknown_module_starts_nothing_and_writes_no_file() {
    if !support::in_softhsm() {
        return;
    }
    let mut names = all();
    // Let through, and not always the same: a thread without a stack of its own runs into whoever started it,
    // and a buffer may be a whole page or not.
    names.retain(|name| !["thread", "madvise MADV_DODUMP"].contains(name));
    let declared = [
        ("open for reading", End::Errno(EACCES)),
        ("open for writing", End::Errno(EACCES)),
        ("open memory of parent", End::Errno(EACCES)),
        ("clone3", End::Errno(ENOSYS)),
        ("tgkill abort parent", End::Errno(EPERM)),
        // Files and sockets of a module's own.
        ("statx", End::Returned),
        ("readlinkat", End::Returned),
        ("fcntl F_SETFL", End::Returned),
        ("fcntl F_DUPFD", End::Returned),
        ("socket unix datagram", End::Returned),
        ("socket unix", End::Returned),
        ("socketpair", End::Returned),
        ("sendmsg", End::Returned),
        ("sendmsg with a descriptor", End::Returned),
        ("recvmsg", End::Returned),
        ("setsockopt SO_REUSEPORT", End::Returned),
        ("getsockopt SO_PEERCRED", End::Returned),
        // Its channel is no file.
        ("mmap of a file", End::Errno(ENODEV)),
    ];
    catalogue(
        with_unknown_module,
        "keeper",
        &names,
        &declared.into_iter().chain(ends()).collect::<Vec<_>>(),
    );
}

/// SoftHSM's profile opens files, and Landlock says which: those that are named for the token, too.
#[test]
fn of_a_softhsm_token_what_is_named_is_read_and_nothing_beside() {
    for (file, end) in [
        ("/etc/passwd", End::Returned),
        ("/etc/group", End::Errno(EACCES)),
    ] {
        let mesh = Mesh::new();
        mesh.edit(
            "a/node.toml",
            "pin = ",
            &format!("files = [{file:?}]\npin = "),
        );
        // Of /etc/passwd.
        let ends = attempts(&mesh, "keeper", &["open for reading"]).ends;
        assert_eq!(ends, [end], "{file}");
    }
}

#[test]
fn the_supervisor_starts_nothing_but_itself() {
    let names = [
        "execve",
        "execve the loader",
        "execve itself with a library",
        "execveat",
        "fork",
        "open for reading",
        "open for writing",
        "memfd_create",
        "listen",
        "sendmsg with a descriptor",
        "mmap executable",
        "connect to another TCP port",
        "connect to another TCP port over IPv6",
        "connect by sendto",
        "connect by sendmsg",
        "connect by sendmmsg",
        "shmat",
        "capset",
        "seccomp",
        "pidfd_getfd",
        "open memory of parent",
        "prctl PR_SET_DUMPABLE",
        "socket raw",
        "socket mptcp",
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
        "clock_settime",
        "adjtimex",
        "sethostname",
        "swapon",
        "acct",
        "quotactl",
        "vhangup",
        "delete_module",
        "request_key",
        "fsopen",
        "open_tree",
        "move_mount",
        "mount_setattr",
        "fanotify_init",
        "io_setup",
        "io_uring_enter",
        "set_mempolicy",
        "move_pages",
        "ioprio_set",
        "sched_setscheduler",
        "rt_sigqueueinfo",
        "pkey_alloc",
        "setxattr",
        "setfsuid",
        "setreuid",
        "prlimit of parent",
        "tkill",
        "tgkill parent",
        "tgkill abort parent",
        "name_to_handle_at",
        "x32 getpid",
        "i386 getpid",
        "panic",
        "segfault",
        "out of memory",
    ];
    // Of a process that is not dumpable all in /proc is root's.
    let its_own = match rustix::process::geteuid().is_root() {
        true => End::Returned,
        false => End::Errno(EACCES),
    };
    let denied = [
        ("execve", End::Errno(EACCES)),
        // The kernel opens the loader as a program, so Landlock must let it be one; it then loads any other,
        // under the same filters, behind the same walls, and that one starts nothing.
        ("execve the loader", End::Exited(126)),
        ("execve itself with a library", End::Exited(0)),
        ("fork", End::Returned),
        // Files as its user, channels to the roles, and their libraries.
        ("open for reading", End::Returned),
        ("open for writing", End::Returned),
        ("sendmsg with a descriptor", End::Returned),
        ("mmap executable", End::Returned),
        // None of its roles'.
        ("connect to another TCP port", End::Errno(EACCES)),
        ("connect to another TCP port over IPv6", End::Errno(EACCES)),
        // Nothing to attach, to give up, to add or to copy: what is allowed here is harmless.
        ("shmat", End::Errno(EINVAL)),
        ("capset", End::Errno(EINVAL)),
        ("seccomp", End::Errno(EINVAL)),
        ("pidfd_getfd", End::Errno(EBADF)),
        ("open memory of parent", its_own),
        ("clone3", End::Errno(ENOSYS)),
        ("kill parent", End::Errno(EPERM)),
        ("kill init", End::Errno(EPERM)),
        ("tgkill parent", End::Errno(EPERM)),
        ("tgkill abort parent", End::Errno(EPERM)),
        ("bind a TCP port", End::Errno(EACCES)),
    ];
    catalogue(
        Mesh::new,
        "supervisor",
        &names,
        &denied.into_iter().chain(ends()).collect::<Vec<_>>(),
    );
}

/// Beside an application a node opens unix sockets, and where all roles have one user, nothing but us keeps it
/// from the administrator's.
#[test]
fn a_role_does_not_administrate() {
    let mesh = Mesh::new();
    mesh.section("a", "[application]\nupstream = \"unix:app.sock\"\n");
    let outside = format!("fastness-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&outside).expect("a short name");
    let _listener = UnixListener::bind_addr(&address).expect("it listens");
    let admin = mesh.path("a/admin.sock").display().to_string();
    let names = [
        format!("ask {admin}"),
        format!("ask {admin}.unlock"),
        format!("connect abstract {outside}"),
        "socket unix datagram".to_owned(),
    ];
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (Ends { ends, .. }, log, _) = attempts_of(&mesh, "node", &names, None);
    // Whether the refused connection is gone before or after what was asked is a matter of who is quicker.
    let refused = |end: &End| [End::Errno(ECONNRESET), End::Errno(EPIPE)].contains(end);
    assert!(ends[..2].iter().all(refused), "{ends:?}\n{log}");
    assert_eq!(ends[2..], [End::Errno(EPERM), KILLED], "{log}");
    let name = format!("connect abstract {outside}");
    let ends = attempts(&Mesh::new(), "supervisor", &[&name]).ends;
    assert_eq!(ends, [End::Errno(EPERM)]);
    let refused = |line: &&str| line.contains("refused: it came from a role");
    assert_eq!(log.lines().filter(refused).count(), 2, "{log}");
}

/// What a node shares with those after it: the channels are made anew, and a supervisor without its listener
/// does not pretend.
#[test]
fn what_a_node_does_to_its_channels_and_listeners_ends_with_it() {
    let mesh = Mesh::new();
    let b = mesh.start("b");
    let spawn = |attempt: String| {
        let a = support::Node::spawn(
            "a",
            &mesh.path("a"),
            mesh.ports["a"],
            Options {
                environment: vec![("FASTNESS_ATTACK".to_owned(), format!("node:{attempt}"))],
                ..Options::default()
            },
        );
        a.wait_ready();
        a.wait_log("attack ");
        a
    };
    let a = spawn("silence channels".to_owned());
    let first = |role| -> u32 { attested_pid(&a.log(), role).parse().expect("a number") };
    let (node, keeper) = (first("node"), first("keeper"));
    end(node);
    a.wait_replaced("node", node);
    a.wait_replaced("keeper", keeper);
    b.ping("a");
    drop(a);
    let port = mesh.ports["a"];
    let shut = attempts(
        &Mesh::new(),
        "node",
        &[&format!("raw {} 0 0 0 0 0 0", exact::numbers()["shutdown"])],
    );
    assert_eq!(shut.ends, [KILLED], "SHUT_RD");
    let mut a = spawn(format!("deafen {port}"));
    assert!(a.log().contains("it returned 0"), "{}", a.log());
    end(a.pid("node"));
    assert_eq!(a.wait_exit().code(), Some(1), "{}", a.log());
    assert!(a.log().contains("has made a socket deaf"), "{}", a.log());
}

/// A node that harmed itself may have ended already.
fn end(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("not 0");
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// What the supervisor starts has it too: nothing takes it back (PR_SET_MDWE, prctl(2)).
#[test]
fn no_memory_becomes_a_program() {
    let call = |option: u8| format!("raw {} {option} 0 0 0 0 0", exact::numbers()["prctl"]);
    const PR_GET_DUMPABLE: u8 = 3;
    const PR_GET_MDWE: u8 = 66;
    let (mdwe, dumpable) = (call(PR_GET_MDWE), call(PR_GET_DUMPABLE));
    let (Ends { ends, .. }, log, _) =
        attempts_of(&Mesh::new(), "supervisor", &[&mdwe, &dumpable], None);
    assert_eq!(ends, [End::Returned, End::Returned]);
    assert!(
        log.contains(&format!("attack {mdwe:?}: it returned 1\n")),
        "{log}"
    );
    assert!(
        log.contains(&format!("attack {dumpable:?}: it returned 0\n")),
        "{log}"
    );
}

/// What its allocator takes and gives back is among a sealed role's calls.
#[test]
fn a_role_whose_allocator_gives_memory_back_goes_on() {
    for role in ["node", "keeper"] {
        let mesh = Mesh::new();
        let b = mesh.start("b");
        let a = support::Node::spawn(
            "a",
            &mesh.path("a"),
            mesh.ports["a"],
            Options {
                environment: vec![("FASTNESS_ATTACK".to_owned(), format!("{role}:malloc trim"))],
                ..Options::default()
            },
        );
        a.wait_ready();
        let pid = a.pid(role);
        // It had something to give back.
        a.wait_log("attack \"malloc trim\": it returned 1");
        b.ping("a");
        a.ping("b");
        assert_eq!(a.pid(role), pid, "{}", a.log());
    }
}

/// What a panic says is dropped where the log takes nothing; the end does not wait for it.
#[test]
fn a_panic_with_a_full_log_ends_all_the_same() {
    for role in ["node", "keeper"] {
        let mesh = Mesh::new();
        let (_unread, log) = support::full_pipe();
        let node = support::Node::spawn(
            "a",
            &mesh.path("a"),
            mesh.ports["a"],
            Options {
                environment: vec![("FASTNESS_ATTACK".to_owned(), format!("{role}:panic"))],
                log: Some(log),
                ..Options::default()
            },
        );
        eventually("it is started again", || {
            let status = node.ask(&["status"]).ok()?;
            let processes = status["processes"].as_array()?.clone();
            let one = processes.iter().find(|one| one["role"] == role)?;
            (one["restarts"].as_u64()? >= 1).then_some(())
        });
    }
}

/// The positive control of `confinement::only_a_binary_for_attacks_holds_the_trigger`.
#[test]
fn this_build_holds_the_trigger() {
    let binary = std::fs::read(support::FASTNESS).expect("the binary");
    for mark in fastness_attack::MARKS {
        let mut windows = binary.windows(mark.len());
        assert!(windows.any(|bytes| bytes == mark.as_bytes()), "{mark}");
    }
}
