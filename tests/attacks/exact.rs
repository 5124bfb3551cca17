//! Every rule with conditions is exact: what it allows passes, and one bit beside it kills.

use std::collections::BTreeMap;
use std::process::Command;

use super::rules::{Arguments, Rule, shown};
use super::{
    EACCES, End, Ends, KILLED, attempts, side_by_side, with_a_name, with_application,
    with_unknown_module,
};
use crate::support::{Mesh, in_softhsm};

/// Numbers of this machine's calls, from the C library's headers.
pub fn numbers() -> BTreeMap<String, i64> {
    let output = Command::new("cc")
        .args(["-E", "-dM", "-include", "sys/syscall.h", "-x", "c"])
        .arg("/dev/null")
        .output()
        .expect("a C compiler");
    let text = String::from_utf8(output.stdout).expect("text");
    let numbers = text.lines().filter_map(|line| {
        let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        Some((name.to_owned(), number.parse().ok()?))
    });
    // Headers may be older than the kernel.
    [("mseal".to_owned(), 462)]
        .into_iter()
        .chain(numbers)
        .collect()
}

/// Arguments that do nothing even where the call is allowed: no descriptor, no memory, no length.
fn harmless(call: &str) -> Arguments {
    let none = u64::from(u32::MAX);
    match call {
        "fcntl" | "ioctl" | "getsockopt" | "setsockopt" | "sendto" | "sendmsg" | "sendmmsg"
        | "shutdown" => [none, 0, 0, 0, 0, 0],
        "mmap" => [0, 0, 0, 0, none, 0],
        // CLONE_THREAD without CLONE_SIGHAND is refused (clone(2)).
        "clone" => [0x1_0000, 0, 0, 0, 0, 0],
        _ => [0; 6],
    }
}

/// Arguments that `rule` is for.
fn allowed(rule: &Rule) -> Arguments {
    let mut arguments = harmless(&rule.call);
    for condition in &rule.conditions {
        if !rule.takes(&rule.call, &arguments) || rule.call != "clone" {
            arguments[condition.index] = condition.allowed();
        }
    }
    assert!(rule.takes(&rule.call, &arguments), "{rule:?}");
    arguments
}

/// What a profile does about a call.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    Passes,
    Answered(String),
    Killed,
}

fn verdict(rules: &[Rule], call: &str, arguments: &Arguments) -> Verdict {
    let all = || rules.iter().filter(|rule| rule.takes(call, arguments));
    match all().find_map(|rule| rule.answer.clone()) {
        Some(answer) => Verdict::Answered(answer),
        None if all().next().is_some() => Verdict::Passes,
        None => Verdict::Killed,
    }
}

/// Calls beside `rule`, each with one condition broken, about which something else is done.
fn beside(rules: &[Rule], rule: &Rule) -> Vec<Arguments> {
    let call = &rule.call;
    let within = verdict(rules, call, &allowed(rule));
    let mut found = Vec::new();
    for condition in &rule.conditions {
        let mut broken = Vec::new();
        for argument in condition.perturbed() {
            let mut arguments = allowed(rule);
            arguments[condition.index] = argument;
            if verdict(rules, call, &arguments) != within {
                broken.push(arguments);
            }
        }
        assert!(
            !broken.is_empty(),
            "{call}: {condition:?} keeps nothing out"
        );
        // The first and the last bit stand for those between.
        let last = broken.pop();
        found.extend(broken.into_iter().next().into_iter().chain(last));
    }
    found
}

fn raw(numbers: &BTreeMap<String, i64>, call: &str, arguments: &Arguments) -> String {
    let words: Vec<_> = arguments
        .iter()
        .map(|argument| argument.cast_signed().to_string())
        .collect();
    format!("raw {} {}", numbers[call], words.join(" "))
}

fn exact(mesh: fn() -> Mesh, role: &str) {
    let numbers = numbers();
    let rules = shown(&mesh()).remove(role).expect("it is shown");
    let checked = || rules.iter().filter(|rule| !rule.conditions.is_empty());
    let calls = checked().flat_map(|rule| {
        let all = [allowed(rule)].into_iter().chain(beside(&rules, rule));
        all.map(|arguments| {
            let verdict = verdict(&rules, &rule.call, &arguments);
            (rule.call.as_str(), arguments, verdict)
        })
    });
    let (kill, pass): (Vec<_>, Vec<_>) =
        calls.partition(|(.., verdict)| *verdict == Verdict::Killed);
    // All that is let through or answered, in one life.
    let names: Vec<_> = pass
        .iter()
        .map(|(call, arguments, _)| raw(&numbers, call, arguments))
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let Ends { ends, .. } = attempts(&mesh(), role, &names);
    assert_eq!(ends.len(), pass.len(), "{role}: {pass:x?} ended {ends:?}");
    for ((call, arguments, verdict), end) in pass.iter().zip(&ends) {
        let denied = *end == End::Errno(EACCES);
        match verdict {
            Verdict::Answered(error) => assert!(
                denied && error == "EACCES",
                "{role} {call} {arguments:x?}: {end:?}, not {error}"
            ),
            _ => assert!(
                !denied && !matches!(end, End::Signal(_)),
                "{role} {call} {arguments:x?}: {end:?}"
            ),
        }
    }
    // And what is killed, a life each.
    let ended = side_by_side(&kill, |(call, arguments, _)| {
        let Ends { ends, number } = attempts(&mesh(), role, &[&raw(&numbers, call, arguments)]);
        assert!(number.is_none_or(|number| number == numbers[*call]));
        ends
    });
    let mut wrong = Vec::new();
    for ((call, arguments, _), ends) in kill.iter().zip(ended) {
        println!("{role:<10} {call:<16} {arguments:x?} {ends:?}");
        if ends != [KILLED] {
            wrong.push(format!("{call} {arguments:x?}: {ends:?}"));
        }
    }
    println!(
        "{role}: {} rules with conditions, {} calls passed or were answered, {} beside them were killed",
        checked().count(),
        pass.len(),
        kill.len()
    );
    assert!(wrong.is_empty(), "{role}: {}", wrong.join("\n"));
}

#[test]
fn what_stands_beside_the_nodes_rules_is_killed() {
    exact(with_application, "node");
}

#[test]
fn what_stands_beside_the_resolvers_rules_is_killed() {
    exact(with_a_name, "resolver");
}

#[test]
fn what_stands_beside_the_keepers_rules_is_killed() {
    exact(Mesh::new, "keeper");
}

#[test]
fn what_stands_beside_the_rules_for_an_unknown_modules_keeper_is_killed_or_answered() {
    if in_softhsm() {
        exact(with_unknown_module, "keeper");
    }
}

#[test]
fn what_stands_beside_the_supervisors_rules_is_killed() {
    exact(Mesh::new, "supervisor");
}

/// A supervisor that starts roles as users of their own becomes them, and nobody else.
#[test]
fn a_supervisor_with_users_becomes_no_other() {
    crate::support::as_root("only root starts roles as other users");
    let numbers = numbers();
    let other = [
        ("setuid", 0, 0),
        ("setuid", 65534, 0),
        ("setgid", 0, 0),
        ("setgroups", 1, 0),
        ("setresuid", 1, 1),
        ("setfsuid", 1, 0),
    ];
    let ended = side_by_side(&other, |(call, first, second)| {
        let mesh = Mesh::new();
        mesh.name_users("daemon", "bin");
        let raw = raw(&numbers, call, &[*first, *second, *second, 0, 0, 0]);
        attempts(&mesh, "supervisor", &[&raw]).ends
    });
    for (call, ends) in other.iter().zip(ended) {
        assert_eq!(ends, [KILLED], "{call:?}");
    }
    let mesh = Mesh::new();
    mesh.name_users("daemon", "bin");
    let own = [
        raw(&numbers, "setgroups", &[0; 6]),
        raw(&numbers, "setgid", &[2, 0, 0, 0, 0, 0]),
        raw(&numbers, "setuid", &[2, 0, 0, 0, 0, 0]),
    ];
    let own: Vec<_> = own.iter().map(String::as_str).collect();
    let Ends { ends, .. } = attempts(&mesh, "supervisor", &own);
    assert_eq!(ends, [End::Returned, End::Returned, End::Returned]);
}
