//! Several BPF programs as one filter: the kernel runs every filter of a process at every call whose arguments
//! some filter looks at (seccomp(2)), so few are better than many.

use seccompiler::{BpfProgram, SeccompAction, sock_filter};

/// Instructions that the kernel takes (linux/bpf_common.h, `BPF_MAXINSNS`).
pub(super) const LONGEST: usize = 4096;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use seccompiler::{
        SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    };

    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const KILL: u32 = 0x8000_0000;
    const ERRNO: u32 = 0x0005_0000;
    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;

    /// What `program` returns (seccomp(2), `struct seccomp_data`).
    fn end(program: &BpfProgram, arch: u32, number: u32, argument: u32) -> u32 {
        let word = |offset: u32| match offset {
            0 => number,
            4 => arch,
            16 => argument,
            _ => 0,
        };
        let (mut at, mut register) = (0, 0);
        loop {
            let one = &program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { one.jt } else { one.jf });
            match one.code {
                0x20 => register = word(one.k),
                JUMP => at += usize::try_from(one.k).unwrap(),
                0x15 => at += jump(register == one.k),
                0x35 => at += jump(register >= one.k),
                0x25 => at += jump(register > one.k),
                RETURN => return one.k,
                code => panic!("an instruction that nobody expects: {code:#x}"),
            }
        }
    }

    fn program(
        otherwise: SeccompAction,
        action: SeccompAction,
        calls: &[(i64, Option<u64>)],
    ) -> BpfProgram {
        let mut rules = BTreeMap::<i64, Vec<SeccompRule>>::new();
        for (call, argument) in calls {
            let conditions = rules.entry(*call).or_default();
            if let Some(value) = argument {
                let (length, is) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
                let condition = SeccompCondition::new(0, length, is, *value).unwrap();
                conditions.push(SeccompRule::new(vec![condition]).unwrap());
            }
        }
        let filter = SeccompFilter::new(rules, otherwise, action, TargetArch::x86_64);
        filter.unwrap().try_into().unwrap()
    }

    #[test]
    fn each_program_is_asked_where_those_before_it_allow() {
        let answers = |number, calls: &[_]| {
            program(SeccompAction::Allow, SeccompAction::Errno(number), calls)
        };
        let allowed = [(1, None), (2, Some(7)), (3, None), (4, None)];
        let allows = program(SeccompAction::KillProcess, SeccompAction::Allow, &allowed);
        let first = chained(&BpfProgram::new(), &answers(1, &[(3, Some(5)), (9, None)]));
        let all = chained(
            &chained(&first, &answers(13, &[(4, None), (3, Some(6))])),
            &allows,
        );
        for (number, argument, wanted) in [
            (1, 0, ALLOW),
            (2, 7, ALLOW),
            (2, 8, KILL),
            (3, 4, ALLOW),
            (3, 5, ERRNO | 1),
            (3, 6, ERRNO | 13),
            (4, 0, ERRNO | 13),
            (9, 0, ERRNO | 1),
            (10, 0, KILL),
            (0x4000_0001, 0, KILL),
        ] {
            let found = end(&all, X86_64, number, argument);
            assert_eq!(found, wanted, "call {number} with {argument}");
            assert_eq!(end(&all, I386, number, argument), KILL);
        }
    }
}
