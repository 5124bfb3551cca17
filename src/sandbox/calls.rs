//! Names of system calls, by the number that this machine gives them.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use seccompiler::TargetArch;
use serde_json::json;

/// Every name that Linux has for a call on one of our machines (syscalls(2)).
pub(super) const NAMES: &str = include_str!("calls.txt");

/// `BPF_JMP | BPF_JEQ | BPF_K`: the instruction that compares (linux/bpf_common.h).
const JUMP_IF_EQUAL: u16 = 0x15;

/// The names of calls by number, in the table of the very compiler that a profile goes through.
pub(super) fn names() -> BTreeMap<u64, &'static str> {
    let Ok(arch) = TargetArch::try_from(ARCH) else {
        return BTreeMap::new();
    };
    NAMES
        .lines()
        .filter_map(|name| Some((number(name, arch)?, name)))
        .collect()
}

/// The number of the call `name`: what a filter for it alone compares with, after the machine.
fn number(name: &str, arch: TargetArch) -> Option<u64> {
    let filter = json!({ "filter": {
        "mismatch_action": "kill_process", "match_action": "allow", "filter": [{ "syscall": name }],
    } });
    // A name that this machine has no call for is no error here.
    let map = seccompiler::compile_from_json(filter.to_string().as_bytes(), arch).ok()?;
    let program = map.get("filter")?;
    let mut compared = program.iter().filter(|step| step.code == JUMP_IF_EQUAL);
    compared.nth(1).map(|step| u64::from(step.k))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_the_numbers_of_this_machine() {
        let names = names();
        let known: [(u64, &str); 3] = match ARCH {
            "x86_64" => [(0, "read"), (59, "execve"), (257, "openat")],
            _ => [(63, "read"), (221, "execve"), (56, "openat")],
        };
        for (number, name) in known {
            assert_eq!(names.get(&number), Some(&name));
        }
        assert!(names.len() > 300, "{}", names.len());
    }
}
