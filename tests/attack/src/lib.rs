//! Attempts that a compromised role would make, by name. Each one is a single system call, made the way
//! an attacker makes it: raw, with arguments that would do harm if it were let through.

use std::ffi::CStr;

/// One attempt: its name and the number of its system call on this machine.
pub struct Attempt {
    pub name: &'static str,
    pub number: i64,
    arguments: Arguments,
}

type Arguments = [Argument; 6];

#[derive(Clone, Copy)]
enum Argument {
    Number(i64),
    Text(&'static CStr),
    /// A zeroed buffer of 4 KiB.
    Buffer,
    /// An address of IPv4 loopback, port 9.
    Inet,
    /// This process.
    Own,
    /// Its parent.
    Parent,
}

use Argument::{Buffer, Inet, Own, Parent};

const fn n(number: i64) -> Argument {
    Argument::Number(number)
}

const fn t(text: &'static CStr) -> Argument {
    Argument::Text(text)
}

macro_rules! attempts {
    ($($name:literal: $call:ident($($argument:expr),*);)*) => {
        [$(Attempt {
            name: $name,
            number: libc::$call,
            arguments: pad(&[$($argument),*]),
        }),*]
    };
}

const fn pad(given: &[Argument]) -> Arguments {
    let mut all = [Argument::Number(0); 6];
    let mut index = 0;
    while index < given.len() {
        all[index] = given[index];
        index += 1;
    }
    all
}

const AT_FDCWD: Argument = n(libc::AT_FDCWD as i64);
const RWX: i64 = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as i64;
const RX: i64 = (libc::PROT_READ | libc::PROT_EXEC) as i64;
const ANONYMOUS: i64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as i64;

/// The catalogue.
pub static CATALOGUE: [Attempt; 118] = attempts! {
    // Other programs and processes.
    "execve": SYS_execve(t(c"/bin/sh"), n(0), n(0));
    "execveat": SYS_execveat(AT_FDCWD, t(c"/bin/sh"), n(0), n(0), n(0));
    "fork": SYS_clone(n(libc::SIGCHLD as i64));
    "thread": SYS_clone(n((libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as i64));
    "new user namespace": SYS_clone(n((libc::CLONE_NEWUSER | libc::SIGCHLD) as i64));
    "clone3": SYS_clone3(Buffer, n(64));
    "ptrace parent": SYS_ptrace(n(libc::PTRACE_SEIZE as i64), Parent);
    "process_vm_readv": SYS_process_vm_readv(Parent, Buffer, n(1), Buffer, n(1));
    "process_vm_writev": SYS_process_vm_writev(Parent, Buffer, n(1), Buffer, n(1));
    "pidfd_open": SYS_pidfd_open(Parent);
    "pidfd_getfd": SYS_pidfd_getfd(n(0), n(0));
    "pidfd_send_signal": SYS_pidfd_send_signal(n(0), n(9));
    "kill parent": SYS_kill(Parent, n(9));
    "kill init": SYS_kill(n(1), n(0));
    "tkill": SYS_tkill(Parent, n(9));
    "tgkill parent": SYS_tgkill(Parent, Parent, n(9));
    "tgkill abort parent": SYS_tgkill(Parent, Parent, n(6));
    "kcmp": SYS_kcmp(Own, Parent, n(0), n(0), n(0));
    "process_madvise": SYS_process_madvise(n(0), Buffer, n(1), n(4));
    "setpgid": SYS_setpgid(n(0), n(0));
    "prlimit of parent": SYS_prlimit64(Parent, n(7), Buffer, n(0));
    // Files.
    "open for reading": SYS_openat(AT_FDCWD, t(c"/etc/passwd"), n(libc::O_RDONLY as i64));
    "open for writing": SYS_openat(AT_FDCWD, t(c"/tmp"), n((libc::O_WRONLY | libc::O_TMPFILE) as i64), n(0o600));
    "open memory of parent": SYS_openat(AT_FDCWD, t(c"/proc/self/mem"), n(libc::O_RDWR as i64));
    "openat2": SYS_openat2(AT_FDCWD, t(c"/etc/passwd"), Buffer, n(24));
    "open_by_handle_at": SYS_open_by_handle_at(n(0), Buffer, n(0));
    "name_to_handle_at": SYS_name_to_handle_at(AT_FDCWD, t(c"/"), Buffer, Buffer);
    "unlinkat": SYS_unlinkat(AT_FDCWD, t(c"/nonexistent"), n(0));
    "renameat2": SYS_renameat2(AT_FDCWD, t(c"/nonexistent"), AT_FDCWD, t(c"/nonexistent2"), n(0));
    "linkat": SYS_linkat(AT_FDCWD, t(c"/nonexistent"), AT_FDCWD, t(c"/nonexistent2"), n(0));
    "symlinkat": SYS_symlinkat(t(c"/etc"), AT_FDCWD, t(c"/nonexistent/x"));
    "mkdirat": SYS_mkdirat(AT_FDCWD, t(c"/nonexistent/x"), n(0));
    "mknodat": SYS_mknodat(AT_FDCWD, t(c"/tmp/fastness-attack"), n((libc::S_IFCHR | 0o600) as i64), n(0x101));
    "fchmodat": SYS_fchmodat(AT_FDCWD, t(c"/nonexistent"), n(0o777));
    "fchownat": SYS_fchownat(AT_FDCWD, t(c"/nonexistent"), n(0), n(0), n(0));
    "truncate": SYS_truncate(t(c"/nonexistent"), n(0));
    "statx": SYS_statx(AT_FDCWD, t(c"/etc/passwd"), n(0), n(0xfff), Buffer);
    "readlinkat": SYS_readlinkat(AT_FDCWD, t(c"/proc/self/exe"), Buffer, n(4096));
    "chdir": SYS_chdir(t(c"/"));
    "chroot": SYS_chroot(t(c"/"));
    "memfd_create": SYS_memfd_create(t(c"x"), n(0));
    "dup3": SYS_dup3(n(0), n(100), n(0));
    "fcntl F_SETFL": SYS_fcntl(n(0), n(libc::F_SETFL as i64), n(0));
    "fcntl F_DUPFD": SYS_fcntl(n(0), n(libc::F_DUPFD as i64), n(0));
    "ioctl TIOCSTI": SYS_ioctl(n(2), n(libc::TIOCSTI as i64), Buffer);
    // The network.
    "socket unix datagram": SYS_socket(n(libc::AF_UNIX as i64), n(libc::SOCK_DGRAM as i64), n(0));
    "socket unix": SYS_socket(n(libc::AF_UNIX as i64), n(libc::SOCK_STREAM as i64), n(0));
    "socket udp": SYS_socket(n(libc::AF_INET as i64), n(libc::SOCK_DGRAM as i64), n(0));
    "socket raw": SYS_socket(n(libc::AF_INET as i64), n(libc::SOCK_RAW as i64), n(1));
    "socket packet": SYS_socket(n(libc::AF_PACKET as i64), n(libc::SOCK_RAW as i64), n(0));
    "socket netlink": SYS_socket(n(libc::AF_NETLINK as i64), n(libc::SOCK_RAW as i64), n(12));
    "socket vsock": SYS_socket(n(libc::AF_VSOCK as i64), n(libc::SOCK_STREAM as i64), n(0));
    "socket alg": SYS_socket(n(libc::AF_ALG as i64), n(libc::SOCK_SEQPACKET as i64), n(0));
    "socket mptcp": SYS_socket(n(libc::AF_INET as i64), n(libc::SOCK_STREAM as i64), n(262));
    "socketpair": SYS_socketpair(n(libc::AF_UNIX as i64), n(libc::SOCK_STREAM as i64), n(0), Buffer);
    "bind": SYS_bind(n(0), Inet, n(16));
    "listen": SYS_listen(n(0), n(1));
    "sendmsg": SYS_sendmsg(n(0), Buffer, n(0));
    "recvmsg": SYS_recvmsg(n(0), Buffer, n(0));
    "setsockopt SO_REUSEPORT": SYS_setsockopt(n(0), n(1), n(15), Buffer, n(4));
    "getsockopt SO_PEERCRED": SYS_getsockopt(n(0), n(1), n(17), Buffer, Buffer);
    // Memory.
    "mmap writable and executable": SYS_mmap(n(0), n(4096), n(RWX), n(ANONYMOUS), n(-1), n(0));
    "mmap executable": SYS_mmap(n(0), n(4096), n(RX), n(ANONYMOUS), n(-1), n(0));
    "mmap of a file": SYS_mmap(n(0), n(4096), n(1), n(libc::MAP_PRIVATE as i64), n(0), n(0));
    "mprotect executable": SYS_mprotect(Buffer, n(4096), n(RX));
    "pkey_mprotect": SYS_pkey_mprotect(Buffer, n(4096), n(RX), n(-1));
    "remap_file_pages": SYS_remap_file_pages(Buffer, n(4096), n(0), n(0), n(0));
    "shmat": SYS_shmat(n(0), n(0), n(0));
    "madvise MADV_DODUMP": SYS_madvise(Buffer, n(4096), n(17));
    "userfaultfd": SYS_userfaultfd(n(0));
    "personality": SYS_personality(n(0x0040_0000));
    // Rights.
    "setuid": SYS_setuid(n(0));
    "setresgid": SYS_setresgid(n(0), n(0), n(0));
    "setgroups": SYS_setgroups(n(0), n(0));
    "capset": SYS_capset(Buffer, Buffer);
    "prctl PR_SET_DUMPABLE": SYS_prctl(n(libc::PR_SET_DUMPABLE as i64), n(1));
    "seccomp": SYS_seccomp(n(1), n(0), Buffer);
    "landlock_restrict_self": SYS_landlock_restrict_self(n(-1), n(0));
    // The kernel.
    "mount": SYS_mount(t(c"none"), t(c"/tmp"), t(c"tmpfs"), n(0), n(0));
    "umount2": SYS_umount2(t(c"/tmp"), n(0));
    "pivot_root": SYS_pivot_root(t(c"/"), t(c"/"));
    "unshare": SYS_unshare(n(libc::CLONE_NEWUSER as i64));
    "setns": SYS_setns(n(0), n(0));
    "bpf": SYS_bpf(n(0), Buffer, n(64));
    "perf_event_open": SYS_perf_event_open(Buffer, n(0), n(-1), n(-1), n(0));
    "io_uring_setup": SYS_io_uring_setup(n(8), Buffer);
    "keyctl": SYS_keyctl(n(0), n(-3), n(0));
    "add_key": SYS_add_key(t(c"user"), t(c"x"), Buffer, n(1), n(-3));
    "init_module": SYS_init_module(Buffer, n(4096), t(c""));
    "finit_module": SYS_finit_module(n(0), t(c""), n(0));
    "kexec_load": SYS_kexec_load(n(0), n(0), n(0), n(0));
    "reboot": SYS_reboot(n(0));
    "syslog": SYS_syslog(n(3), Buffer, n(4096));
    // The machine.
    "clock_settime": SYS_clock_settime(n(0), Buffer);
    "adjtimex": SYS_adjtimex(Buffer);
    "sethostname": SYS_sethostname(t(c"x"), n(1));
    "swapon": SYS_swapon(t(c"/nonexistent"), n(0));
    "acct": SYS_acct(t(c"/nonexistent"));
    "quotactl": SYS_quotactl(n(0), n(0), n(0), n(0));
    "vhangup": SYS_vhangup();
    "delete_module": SYS_delete_module(t(c"nonexistent"), n(0));
    "request_key": SYS_request_key(t(c"user"), t(c"x"), n(0), n(0));
    "fsopen": SYS_fsopen(t(c"tmpfs"), n(0));
    "open_tree": SYS_open_tree(AT_FDCWD, t(c"/"), n(0));
    "move_mount": SYS_move_mount(n(-1), t(c""), n(-1), t(c""), n(0));
    "mount_setattr": SYS_mount_setattr(AT_FDCWD, t(c"/"), n(0), Buffer, n(32));
    "fanotify_init": SYS_fanotify_init(n(0), n(0));
    "io_setup": SYS_io_setup(n(1), Buffer);
    "io_uring_enter": SYS_io_uring_enter(n(-1), n(1), n(0), n(0), n(0));
    "set_mempolicy": SYS_set_mempolicy(n(0), n(0), n(0));
    "move_pages": SYS_move_pages(Parent, n(0), n(0), n(0), n(0), n(0));
    "ioprio_set": SYS_ioprio_set(n(1), n(0), n(0));
    "sched_setscheduler": SYS_sched_setscheduler(n(0), n(1), Buffer);
    "rt_sigqueueinfo": SYS_rt_sigqueueinfo(Parent, n(9), Buffer);
    "pkey_alloc": SYS_pkey_alloc(n(0), n(0));
    "setxattr": SYS_setxattr(t(c"/nonexistent"), t(c"user.x"), Buffer, n(1), n(0));
    "setfsuid": SYS_setfsuid(n(0));
    "setreuid": SYS_setreuid(n(0), n(0));
};

/// What happens beside the catalogue: not a call, but an end that must look as it should.
pub const ENDS: [(&str, i32); 3] = [
    ("panic", libc::SIGABRT),
    ("segfault", libc::SIGSEGV),
    ("out of memory", libc::SIGABRT),
];

/// Words that a binary with this in it holds, and no other binary does.
pub const MARKS: [&str; 4] = [
    "FASTNESS_ATTACK",
    "this role was told to",
    "no attempt is called",
    "mmap writable and executable",
];

/// Makes the attempt `name`, or the call `raw NUMBER ARGUMENT…`, whose arguments are decimal numbers or
/// `buffer`. `Err`: the error that the kernel answered with (errno(3)). `parent`: process id of the
/// supervisor.
pub fn attempt(name: &str, parent: u32) -> Result<i64, i32> {
    match name {
        "panic" => panic!("this role was told to"),
        // SAFETY: none; the process is to end by it.
        "segfault" => unsafe { std::ptr::null_mut::<u8>().write_volatile(1) },
        // More than any machine has.
        "out of memory" => drop(std::hint::black_box(vec![0_u8; 1 << 60])),
        "bind a TCP port" => return bind_tcp(),
        "connect to another TCP port" => return connect_tcp(libc::AF_INET, 9),
        "connect to another TCP port over IPv6" => return connect_tcp(libc::AF_INET6, 9),
        "connect by sendto" => return fast_open(libc::SYS_sendto, 9),
        "connect by sendmsg" => return fast_open(libc::SYS_sendmsg, 9),
        "connect by sendmmsg" => return fast_open(libc::SYS_sendmmsg, 9),
        "fork" => return fork(),
        "sendmsg with a descriptor" => return hand_on(),
        "malloc trim" => return malloc_trim(),
        "silence channels" => return silence_channels(),
        "execve the loader" => {
            return execve(LOADER, &[c"x", c"/bin/sh", c"-c", ANOTHER_PROGRAM], None);
        }
        "execve itself with a library" => {
            let library = c"LD_PRELOAD=/nonexistent";
            return execve(
                c"/proc/self/exe",
                &[c"fastness", c"--version"],
                Some(library),
            );
        }
        #[cfg(target_arch = "x86_64")]
        // The same number in the x32 table (syscall(2), "Architecture-specific requirements").
        "x32 getpid" => return call(0x4000_0000 + libc::SYS_getpid, [0; 6]),
        #[cfg(target_arch = "x86_64")]
        "i386 getpid" => return i386_getpid(),
        _ => {}
    }
    if let Some(path) = name.strip_prefix("ask ") {
        return ask(path);
    }
    if let Some(name) = name.strip_prefix("connect abstract ") {
        return connect_unix(&format!("\0{name}")).map(|_| 0);
    }
    if let Some(port) = name.strip_prefix("deafen ") {
        return deafen(port.parse().expect("a port"), false);
    }
    if let Some(port) = name.strip_prefix("shut ") {
        return deafen(port.parse().expect("a port"), true);
    }
    let mut buffer = vec![0_u8; 4096];
    if let Some(port) = name.strip_prefix("connect to TCP port ") {
        return connect_tcp(libc::AF_INET, port.parse().expect("a port"));
    }
    if let Some(raw) = name.strip_prefix("raw ") {
        let mut words = [0; 7];
        for (word, text) in words.iter_mut().zip(raw.split(' ')) {
            *word = match text {
                "buffer" => buffer.as_mut_ptr() as i64,
                number => number.parse().expect("a number"),
            };
        }
        let [number, arguments @ ..] = words;
        return call(number, arguments);
    }
    let Some(found) = CATALOGUE.iter().find(|one| one.name == name) else {
        panic!("no attempt is called {name:?}")
    };
    // 127.0.0.1:9, family AF_INET.
    let inet: [u8; 16] = [2, 0, 0, 9, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let arguments = found.arguments.map(|argument| match argument {
        Argument::Number(number) => number,
        Argument::Text(text) => text.as_ptr() as i64,
        Argument::Buffer => buffer.as_mut_ptr() as i64,
        Argument::Inet => inet.as_ptr() as i64,
        Argument::Own => i64::from(std::process::id()),
        Argument::Parent => i64::from(parent),
    });
    call(found.number, arguments)
}

fn tcp(family: i32) -> Result<i64, i32> {
    let kind = i64::from(libc::SOCK_STREAM);
    call(libc::SYS_socket, [i64::from(family), kind, 0, 0, 0, 0])
}

/// 127.0.0.1 or ::1 with this port, and its length (ip(7), ipv6(7)).
fn loopback(family: i32, port: u16) -> ([u8; 28], i64) {
    let mut address = [0; 28];
    address[0] = family.to_le_bytes()[0];
    address[2..4].copy_from_slice(&port.to_be_bytes());
    match family {
        libc::AF_INET => {
            address[4..8].copy_from_slice(&[127, 0, 0, 1]);
            (address, 16)
        }
        _ => {
            address[23] = 1;
            (address, 28)
        }
    }
}

#[cfg(target_arch = "x86_64")]
const LOADER: &CStr = c"/lib64/ld-linux-x86-64.so.2";
#[cfg(not(target_arch = "x86_64"))]
const LOADER: &CStr = c"/lib/ld-linux-aarch64.so.1";

/// A shell that is to become another program ends with 126 where it may not (POSIX, "Exit Status for Commands").
const ANOTHER_PROGRAM: &CStr = c"exec /bin/true";

fn execve(path: &CStr, arguments: &[&CStr], variable: Option<&CStr>) -> Result<i64, i32> {
    let list = |texts: &[&CStr]| -> Vec<*const libc::c_char> {
        let ends = [std::ptr::null()];
        texts.iter().map(|text| text.as_ptr()).chain(ends).collect()
    };
    let (arguments, environment) = (list(arguments), list(variable.as_slice()));
    let addresses = [
        path.as_ptr() as i64,
        arguments.as_ptr() as i64,
        environment.as_ptr() as i64,
    ];
    let [path, arguments, environment] = addresses;
    call(libc::SYS_execve, [path, arguments, environment, 0, 0, 0])
}

/// A second process, which ends at once.
fn fork() -> Result<i64, i32> {
    match call(libc::SYS_clone, [i64::from(libc::SIGCHLD), 0, 0, 0, 0, 0])? {
        0 => call(libc::SYS_exit_group, [0; 6]),
        child => Ok(child),
    }
}

/// Connects to the unix socket at `path`, abstract if it begins with a zero.
fn connect_unix(path: &str) -> Result<i64, i32> {
    let (family, stream) = (i64::from(libc::AF_UNIX), i64::from(libc::SOCK_STREAM));
    let socket = call(libc::SYS_socket, [family, stream, 0, 0, 0, 0])?;
    let address = [&libc::AF_UNIX.to_ne_bytes()[..2], path.as_bytes()].concat();
    let length = i64::try_from(address.len()).expect("short");
    call(
        libc::SYS_connect,
        [socket, address.as_ptr() as i64, length, 0, 0, 0],
    )?;
    Ok(socket)
}

/// Asks whoever listens at `path`, in words that both of the administrator's sockets wait for more after:
/// `Ok` when they are answered, or waited for, an error when the connection is taken down.
fn ask(path: &str) -> Result<i64, i32> {
    let socket = connect_unix(path)?;
    let words: &[u8] = match path.ends_with(".unlock") {
        true => b"\0\0\0\x17{\"token\":\"\",\"pin\":null}",
        // The preface of HTTP/2, and settings (RFC 9113 section 3.4).
        false => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    };
    let length = i64::try_from(words.len()).expect("short");
    let quiet = i64::from(libc::MSG_NOSIGNAL);
    call(
        libc::SYS_sendto,
        [socket, words.as_ptr() as i64, length, quiet, 0, 0],
    )?;
    let mut answer = [0_u8; 64];
    match call(
        libc::SYS_recvfrom,
        [socket, answer.as_mut_ptr() as i64, 64, 0, 0, 0],
    )? {
        0 => Err(libc::ECONNRESET),
        length => Ok(length),
    }
}

/// Hands its standard input on: over it where it is a channel, as a keeper's and a node's is, or over a new one.
fn hand_on() -> Result<i64, i32> {
    match send_standard_input(0) {
        Err(libc::ENOTSOCK) => {
            let mut ends = [0_i32; 2];
            let (family, stream) = (i64::from(libc::AF_UNIX), i64::from(libc::SOCK_STREAM));
            let at = ends.as_mut_ptr() as i64;
            call(libc::SYS_socketpair, [family, stream, 0, at, 0, 0])?;
            send_standard_input(i64::from(ends[0]))
        }
        ended => ended,
    }
}

/// One byte and a descriptor (unix(7), `SCM_RIGHTS`).
fn send_standard_input(over: i64) -> Result<i64, i32> {
    #[repr(C)]
    struct Control {
        header: libc::cmsghdr,
        descriptor: i32,
    }
    let mut byte = *b"x";
    let mut bytes = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Control {
        header: libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + size_of::<i32>(),
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        },
        descriptor: 0,
    };
    let message = libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: &raw mut bytes,
        msg_iovlen: 1,
        msg_control: (&raw mut control).cast(),
        msg_controllen: size_of::<Control>(),
        msg_flags: 0,
    };
    call(
        libc::SYS_sendmsg,
        [over, &raw const message as i64, 0, 0, 0, 0],
    )
}

/// Takes far more memory than the allocator keeps, in blocks that it has in its arenas and in blocks that it maps,
/// and has it give all of that back (malloc_trim(3)).
fn malloc_trim() -> Result<i64, i32> {
    let take = |blocks: usize, bytes: usize| -> Vec<Vec<u8>> {
        (0..blocks).map(|_| vec![1; bytes]).collect()
    };
    for _ in 0..2 {
        let taken = (take(2048, 16 << 10), take(8, 4 << 20));
        drop(std::hint::black_box(taken));
    }
    // SAFETY: it touches nothing that is in use.
    Ok(i64::from(unsafe { libc::malloc_trim(0) }))
}

/// Family and port of what the descriptor is bound to.
fn name_of(descriptor: i64) -> Option<(i32, u16)> {
    let (mut name, mut length) = ([0_u8; 128], 128_u32);
    let (name_at, length_at) = (
        name.as_mut_ptr() as i64,
        std::ptr::from_mut(&mut length) as i64,
    );
    call(
        libc::SYS_getsockname,
        [descriptor, name_at, length_at, 0, 0, 0],
    )
    .ok()?;
    let family = i32::from(u16::from_ne_bytes([name[0], name[1]]));
    Some((family, u16::from_be_bytes([name[2], name[3]])))
}

/// Makes the listener on `port` deaf: by shutdown(2), or by connect(2) to nowhere.
fn deafen(port: u16, shut: bool) -> Result<i64, i32> {
    let listener = (0..1024).find(|one| name_of(*one) == Some((libc::AF_INET, port)));
    let listener = listener.expect("it listens");
    match shut {
        true => call(
            libc::SYS_shutdown,
            [listener, i64::from(libc::SHUT_RD), 0, 0, 0, 0],
        ),
        false => {
            let nowhere = [0_u8; 16];
            call(
                libc::SYS_connect,
                [listener, nowhere.as_ptr() as i64, 16, 0, 0, 0],
            )
        }
    }
}

/// Shuts down every unix socket that it has, for all who have a copy.
fn silence_channels() -> Result<i64, i32> {
    let unix = |one: &i64| name_of(*one).is_some_and(|(family, _)| family == libc::AF_UNIX);
    let mut silenced = 0;
    for one in (0..1024).filter(unix) {
        if call(
            libc::SYS_shutdown,
            [one, i64::from(libc::SHUT_WR), 0, 0, 0, 0],
        )
        .is_ok()
        {
            silenced += 1;
        }
    }
    Ok(silenced)
}

fn bind_tcp() -> Result<i64, i32> {
    let socket = tcp(libc::AF_INET)?;
    let (address, length) = loopback(libc::AF_INET, 0);
    call(
        libc::SYS_bind,
        [socket, address.as_ptr() as i64, length, 0, 0, 0],
    )
}

fn connect_tcp(family: i32, port: u16) -> Result<i64, i32> {
    let socket = tcp(family)?;
    let (address, length) = loopback(family, port);
    call(
        libc::SYS_connect,
        [socket, address.as_ptr() as i64, length, 0, 0, 0],
    )
}

/// tcp(7), `MSG_FASTOPEN`: the first bytes and the connection in one call, `number`, which is not connect(2).
fn fast_open(number: i64, port: u16) -> Result<i64, i32> {
    let socket = tcp(libc::AF_INET)?;
    let (mut address, length) = loopback(libc::AF_INET, port);
    let mut byte = libc::iovec {
        iov_base: b"x".as_ptr().cast_mut().cast(),
        iov_len: 1,
    };
    // SAFETY: zeros are a message without anything.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_name = address.as_mut_ptr().cast();
    message.msg_hdr.msg_namelen = length as u32;
    message.msg_hdr.msg_iov = &raw mut byte;
    message.msg_hdr.msg_iovlen = 1;
    let flags = i64::from(libc::MSG_FASTOPEN);
    let message = &raw const message as i64;
    let arguments = match number {
        libc::SYS_sendmsg => [socket, message, flags, 0, 0, 0],
        libc::SYS_sendmmsg => [socket, message, 1, flags, 0, 0],
        _ => [
            socket,
            byte.iov_base as i64,
            1,
            flags,
            address.as_ptr() as i64,
            length,
        ],
    };
    call(number, arguments)
}

fn call(number: i64, a: [i64; 6]) -> Result<i64, i32> {
    // SAFETY: every pointer is to memory of ours that is long enough for its call; what the call does
    // to the process is the test's subject.
    let returned = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    match returned {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        returned => Ok(returned),
    }
}

#[cfg(target_arch = "x86_64")]
fn i386_getpid() -> Result<i64, i32> {
    let mut number: i64 = 20;
    // SAFETY: the kernel's 32-bit entry keeps all registers but these.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") number, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    Ok(number)
}
