//! Rights that the process gives up for itself and for whatever it starts.

use std::io;

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use super::{Role, SandboxError};

/// Gives up every right but `kept`; a role other than the supervisor also ends with its parent. Says
/// whether it could empty the capability bounding set.
pub(super) fn give_up(role: Role, kept: CapabilitySet) -> Result<bool, SandboxError> {
    let refused = SandboxError::refused;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, none).map_err(refused("RLIMIT_CORE 0", "1.0"))?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let bounded = give_up_capabilities(kept)?;
    rustix::thread::set_no_new_privs(true).map_err(refused("no_new_privs", "3.5"))?;
    // No ptrace, no core, no /proc/PID/{mem,fd,environ,maps} for others of our user.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(refused("dumpable 0", "2.4"))?;
    fastness_secret_page::deny_write_execute().map_err(|cause| SandboxError::Refused {
        step: "no memory both writable and executable (PR_SET_MDWE)",
        since: "6.3",
        cause: Box::new(cause),
    })?;
    if role != Role::Supervisor {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(refused("a death signal with the parent", "2.1.57"))?;
    }
    Ok(bounded)
}

/// Root is nobody special, for good.
pub(super) fn locked() -> CapabilitiesSecureBits {
    CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED
}

/// The bounding set and securebits take `CAP_SETPCAP`: who lacks it has nothing to bound, as
/// no_new_privs keeps any program from giving it more.
fn give_up_capabilities(kept: CapabilitySet) -> Result<bool, SandboxError> {
    let refused = SandboxError::refused;
    let held = rustix::thread::capabilities(None).map_err(refused("capget", "2.2"))?;
    let may_bound = held.effective.contains(CapabilitySet::SETPCAP);
    if may_bound {
        for bit in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            // INVAL: the kernel knows no capability of this number.
            match rustix::thread::capability_is_in_bounding_set(capability) {
                Ok(true) => rustix::thread::remove_capability_from_bounding_set(capability)
                    .map_err(refused("an empty capability bounding set", "2.6.25"))?,
                Ok(false) => {}
                Err(_) => break,
            }
        }
        rustix::thread::set_capabilities_secure_bits(locked())
            .map_err(refused("securebits", "4.3"))?;
    }
    rustix::thread::clear_ambient_capability_set()
        .map_err(refused("an empty ambient set", "4.3"))?;
    let left = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, left)
        .map_err(refused("empty capability sets", "2.2"))?;
    Ok(may_bound)
}

/// Leaves every group but the primary one: what this process starts would be in them too.
pub(super) fn leave_groups() -> Result<(), SandboxError> {
    rustix::thread::set_thread_groups(&[]).map_err(SandboxError::refused("no other groups", "1.0"))
}

/// At most `most` descriptors, and no more than `ceiling` for what this process starts, or what is allowed
/// if that is less.
pub(super) fn limit_descriptors(most: u64, ceiling: u64) -> Result<(), SandboxError> {
    let now = rustix::process::getrlimit(Resource::Nofile);
    let allowed = |wanted: u64| now.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let limit = Rlimit {
        current: Some(allowed(most)),
        maximum: Some(allowed(ceiling)),
    };
    rustix::process::setrlimit(Resource::Nofile, limit)
        .map_err(SandboxError::refused("RLIMIT_NOFILE", "1.0"))
}

/// Open descriptors but the three standard streams: whoever started the supervisor may have left some, such
/// as the one of a PIN (`fd:N`).
pub(super) fn foreign_descriptors() -> Result<Vec<i32>, SandboxError> {
    let blame = |cause: io::Error| SandboxError::Refused {
        step: "closing inherited descriptors (/proc)",
        since: "2.2",
        cause: Box::new(cause),
    };
    let mut foreign: Vec<i32> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").map_err(blame)? {
        let name = entry.map_err(blame)?.file_name();
        foreign.extend(
            name.to_str()
                .and_then(|name| name.parse::<i32>().ok())
                .filter(|number| *number > 2),
        );
    }
    Ok(foreign)
}

/// Closes descriptors that nothing of ours has opened.
pub(super) fn close(foreign: impl IntoIterator<Item = i32>) {
    for number in foreign {
        // EBADF: the one that listed the folder.
        let _ = nix::unistd::close(number);
    }
}

/// Neither a core file nor an open /proc/PID, for a command that takes a PIN and is no role.
pub(super) fn hide() -> Result<(), SandboxError> {
    let refused = SandboxError::refused;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, none).map_err(refused("RLIMIT_CORE 0", "1.0"))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(refused("dumpable 0", "2.4"))
}

/// Entries of a folder in /proc.
pub(super) fn count(folder: &'static str) -> Result<usize, SandboxError> {
    let entries = std::fs::read_dir(folder).map_err(|cause| SandboxError::Refused {
        step: folder,
        since: "2.2",
        cause: Box::new(cause),
    })?;
    Ok(entries.count())
}
