//! Calls that no profile may allow, whoever wrote it: one that does is a mistake or worse.

use super::super::Role;

/// What `role` has no business with. For every role.
const ANYWHERE: &[&str] = &[
    // Other processes' memory and descriptors, and programs in the kernel.
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "process_mrelease",
    "kcmp",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    // Rings, which make calls that no filter sees.
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    // Files of no file system, which Landlock lets be programs.
    "memfd_create",
    // The kernel's keys.
    "keyctl",
    "add_key",
    "request_key",
    // Mounts, name spaces and files by other ways than their paths.
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "setns",
    "unshare",
    "open_by_handle_at",
    "fanotify_init",
    "mknod",
    "mknodat",
    // The machine itself.
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "swapon",
    "swapoff",
    "acct",
    "quotactl",
    "quotactl_fd",
    "syslog",
    "iopl",
    "ioperm",
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "sethostname",
    "setdomainname",
    "vhangup",
    "personality",
    "pkey_mprotect",
];

/// And for those that are sealed: processes, other users, sockets that listen, signals to others, shared
/// memory.
const SEALED: &[&str] = &[
    "execve",
    "execveat",
    "fork",
    "vfork",
    "kill",
    "tkill",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "pidfd_getfd",
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setfsuid",
    "setfsgid",
    "setgroups",
    "shmat",
    "listen",
    "bind",
];

/// And for those who hear strangers, while a keeper's module may: new files, threads, other processes.
const HEARING: &[&str] = &[
    "openat2",
    "creat",
    "clone",
    "clone3",
    "seccomp",
    "unlink",
    "unlinkat",
    "rename",
    "renameat2",
    "shmget",
    "capset",
    "pidfd_open",
    "pidfd_send_signal",
    "exit",
];

/// And for a node: files, descriptors from and to others.
const NODE: &[&str] = &[
    "open",
    "openat",
    "sendmsg",
    "sendmmsg",
    "recvmsg",
    "recvmmsg",
    "prctl",
    "socketpair",
];

/// What a supervisor may have with conditions alone: MSG_FASTOPEN connects past Landlock, and all roles are under its
/// filter too.
const CONDITIONED: &[&str] = &["sendto", "sendmsg", "sendmmsg"];

/// What a resolver may have with conditions alone.
const CONDITIONED_IN_A_RESOLVER: &[&str] = &[
    "open",
    "openat",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "socket",
    "setsockopt",
    "fcntl",
    "ioctl",
    "prctl",
    "mmap",
    "mprotect",
    "tgkill",
];

/// What a node may have with conditions alone.
const CONDITIONED_IN_A_NODE: &[&str] = &[
    "sendto",
    "mmap",
    "mprotect",
    "socket",
    "setsockopt",
    "shutdown",
    "fcntl",
    "tgkill",
];

/// Whether no profile of `role` may allow `call`.
pub(super) fn is_allowed_never(role: Role, call: &str) -> bool {
    let lists: &[&[&str]] = match role {
        Role::Supervisor => &[ANYWHERE],
        Role::Keeper => &[ANYWHERE, SEALED],
        Role::Node => &[ANYWHERE, SEALED, HEARING, NODE],
        Role::Resolver => &[ANYWHERE, SEALED, HEARING],
    };
    lists.iter().any(|list| list.contains(&call))
}

/// Whether a profile of `role` may allow `call` with conditions alone.
pub(super) fn needs_conditions(role: Role, call: &str) -> bool {
    match role {
        Role::Supervisor => CONDITIONED.contains(&call),
        Role::Keeper => false,
        Role::Node => CONDITIONED_IN_A_NODE.contains(&call),
        Role::Resolver => CONDITIONED_IN_A_RESOLVER.contains(&call),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::calls;
    use super::*;

    /// A misspelt one would forbid nothing.
    #[test]
    fn all_of_them_are_calls() {
        let forbidden = [ANYWHERE, SEALED, HEARING, NODE];
        let conditioned = [
            CONDITIONED,
            CONDITIONED_IN_A_NODE,
            CONDITIONED_IN_A_RESOLVER,
        ];
        for call in [forbidden.concat(), conditioned.concat()].concat() {
            assert!(calls::NAMES.lines().any(|name| name == call), "{call}");
        }
    }
}
