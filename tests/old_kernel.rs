//! A kernel that lacks a part of the confinement: no role starts, and what is missing is named with the version that
//! has it.

use crate::support::kernel::without;
use crate::support::{Mesh, Node, Options, said};

const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;

/// `check` says it beforehand; a run says the same and has started no role.
fn nothing_starts(rule: &str, errno: i32, words: &[&str]) {
    let mesh = Mesh::new();
    let (checked, ended, log) = without(rule, errno, || {
        let checked = mesh.check("a");
        let mut a = Node::spawn("a", &mesh.path("a"), mesh.ports["a"], Options::default());
        (checked, a.wait_exit(), a.log())
    });
    assert_eq!(checked.status.code(), Some(3), "{}", said(&checked));
    assert_eq!(ended.code(), Some(3), "{log}");
    for text in [said(&checked), log] {
        for word in words {
            assert!(text.contains(word), "no {word:?}: {text}");
        }
        assert!(!text.contains("attested"), "{text}");
    }
    let all = mesh.check("a");
    assert!(all.status.success(), "{}", said(&all));
}

#[test]
fn without_landlock_nothing_starts() {
    nothing_starts(
        r#"{"syscall": "landlock_create_ruleset"}"#,
        ENOSYS,
        &["Landlock with its scopes (since Linux 6.12)"],
    );
}

#[test]
fn without_mdwe_nothing_starts() {
    const PR_SET_MDWE: u32 = 65;
    let rule = format!(
        r#"{{"syscall": "prctl", "args": [{{"index": 0, "type": "dword", "op": "eq", "val": {PR_SET_MDWE}}}]}}"#
    );
    nothing_starts(&rule, EINVAL, &["(PR_SET_MDWE) (since Linux 6.3)"]);
}

#[test]
fn without_seccomp_nothing_starts() {
    nothing_starts(
        r#"{"syscall": "seccomp"}"#,
        ENOSYS,
        &[
            "the seccomp filter (since Linux 3.17)",
            "CONFIG_SECCOMP_FILTER",
        ],
    );
}
