//! Several BPF programs as one filter: the kernel runs every filter of a process at every call whose arguments
//! some filter looks at (seccomp(2)), so few are better than many.

use seccompiler::{BpfProgram, SeccompAction, sock_filter};

/// BPF_RET | BPF_K and BPF_JMP | BPF_JA (linux/bpf_common.h).
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;

/// One program that asks `first`, and `then` where `first` allows.
pub(super) fn chained(first: &BpfProgram, then: &BpfProgram) -> BpfProgram {
    let allow = u32::from(SeccompAction::Allow);
    let onward = |(position, instruction): (usize, &sock_filter)| {
        if instruction.code != RETURN || instruction.k != allow {
            return instruction.clone();
        }
        // A program has 4096 instructions at most.
        let over = u32::try_from(first.len() - position - 1).unwrap_or(u32::MAX);
        sock_filter {
            code: JUMP,
            k: over,
            ..instruction.clone()
        }
    };
    let first = first.iter().enumerate().map(onward);
    first.chain(then.iter().cloned()).collect()
}
