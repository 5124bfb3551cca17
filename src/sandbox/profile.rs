//! A role's system calls as reviewed data: every rule says why it is there, and a profile that says
//! something else than it seems to is refused.
//!
//! The format is seccompiler's, with `calls` (several under one reason), `why`, `means` and `answer`.
//! The compiled filters kill the process (SIGSYS) at any call that no rule allows. A rule with an
//! `answer` lets the call fail with that error instead: seccompiler has one action a filter, so each
//! error is a filter of its own, stacked on the first.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest;
use seccompiler::{BpfProgram, TargetArch};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Role;

/// A profile that was checked, and its compiled filters.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// Its file's name without the ending: `keeper-softhsm`.
    pub(crate) name: &'static str,
    /// Digest of the file, hexadecimal.
    pub(crate) sha256: String,
    /// Calls that are allowed, with any arguments or with some.
    pub(crate) allowed: BTreeSet<String>,
    /// Those of them whose arguments are checked.
    pub(crate) argument_checked: BTreeSet<String>,
    /// Calls that fail with an error and do nothing, with some or any arguments.
    pub(crate) answered: BTreeMap<String, String>,
    pub(super) filters: Vec<BpfProgram>,
}

/// What is wrong with a profile.
#[derive(Debug, thiserror::Error)]
#[error("seccomp profile {name}: {}", problems.join("; "))]
pub(crate) struct ProfileError {
    name: &'static str,
    problems: Vec<String>,
}

impl ProfileError {
    /// No profile of this name is part of the binary.
    pub(super) fn missing(name: &'static str, arch: &str) -> Self {
        Self {
            name,
            problems: vec![format!("there is none for {arch}")],
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    role: String,
    arch: String,
    /// What has run under it.
    run: String,
    default: String,
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    calls: Vec<String>,
    args: Option<Vec<Condition>>,
    answer: Option<String>,
    #[serde(default)]
    why: String,
}

/// One condition on an argument; all of a rule's must hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    index: u8,
    r#type: String,
    op: Value,
    val: u64,
    #[serde(default)]
    means: String,
}

/// Calls that a sealed role has no business with; a profile of a keeper or a node that allows one is
/// a mistake or worse.
const NEVER: [&str; 33] = [
    "execve",
    "execveat",
    "fork",
    "vfork",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_getfd",
    "kill",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "keyctl",
    "add_key",
    "request_key",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "setns",
    "unshare",
    "init_module",
    "finit_module",
    "kexec_load",
    "io_uring_setup",
    "setuid",
    "setresuid",
    "memfd_create",
    "pkey_mprotect",
    "shmat",
    "personality",
    "listen",
    "bind",
];

/// Errors that a rule may answer with (errno(3)).
const ANSWERS: [(&str, u32); 3] = [("EPERM", 1), ("EACCES", 13), ("ENOSYS", 38)];

impl Profile {
    /// Checks and compiles the profile `name` of `role` in `text`, for a machine of kind `arch`.
    pub(crate) fn parse(
        name: &'static str,
        role: Role,
        arch: &str,
        text: &str,
    ) -> Result<Self, ProfileError> {
        let refuse = |problems| ProfileError { name, problems };
        let file: File =
            serde_json::from_str(text).map_err(|error| refuse(vec![error.to_string()]))?;
        let mut problems = file.problems(role, arch);
        let target = TargetArch::try_from(arch).map_err(|error| refuse(vec![error.to_string()]))?;
        let filters = file.compile(target).unwrap_or_else(|found| {
            problems.extend(found);
            Vec::new()
        });
        if !problems.is_empty() {
            return Err(refuse(problems));
        }
        let of = |wanted: &dyn Fn(&Rule) -> bool| {
            file.rules
                .iter()
                .filter(|rule| wanted(rule))
                .flat_map(|rule| rule.calls.iter().cloned())
                .collect()
        };
        let answered = file
            .rules
            .iter()
            .filter_map(|rule| Some((rule, rule.answer.clone()?)));
        Ok(Self {
            name,
            sha256: hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref()),
            allowed: of(&|rule| rule.answer.is_none()),
            argument_checked: of(&|rule| rule.answer.is_none() && rule.args.is_some()),
            answered: answered
                .flat_map(|(rule, answer)| {
                    rule.calls
                        .iter()
                        .map(move |call| (call.clone(), answer.clone()))
                })
                .collect(),
            filters,
        })
    }
}

impl File {
    fn problems(&self, role: Role, arch: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if self.role != role.name() {
            problems.push(format!(
                "it is for role {:?}, not {:?}",
                self.role,
                role.name()
            ));
        }
        if self.arch != arch {
            problems.push(format!("it is for {}, not {arch}", self.arch));
        }
        if self.default != "kill_process" {
            problems.push("its default is not kill_process".into());
        }
        if self.run.trim().is_empty() {
            problems.push("it does not say what has run under it".into());
        }
        if !self.rules.iter().any(|rule| rule.answer.is_none()) {
            problems.push("it allows nothing: an empty filter would be no filter".into());
        }
        for rule in &self.rules {
            rule.problems(role, &mut problems);
        }
        let mut seen: BTreeMap<(&str, bool), (usize, usize)> = BTreeMap::new();
        for rule in &self.rules {
            for call in &rule.calls {
                let (plain, conditional) = seen.entry((call, rule.answer.is_some())).or_default();
                *if rule.args.is_some() {
                    conditional
                } else {
                    plain
                } += 1;
            }
        }
        for ((call, answer), (plain, conditional)) in &seen {
            if *plain > 1 {
                problems.push(format!("{call} stands in two rules without conditions"));
            }
            if *plain > 0 && *conditional > 0 {
                problems.push(format!("{call} stands in a rule without conditions beside one with: the first would be dropped"));
            }
            if *answer && *plain > 0 && seen.contains_key(&(*call, false)) {
                problems.push(format!(
                    "{call} is allowed and always answered with an error"
                ));
            }
        }
        problems
    }

    fn compile(&self, arch: TargetArch) -> Result<Vec<BpfProgram>, Vec<String>> {
        // The first filter lets an answered call through: of several filters the most severe action
        // counts, and killing is more severe than an error.
        let mut first: Vec<Value> = Vec::new();
        let mut errors: BTreeMap<u32, Vec<Value>> = BTreeMap::new();
        let plain: BTreeSet<&String> = self
            .rules
            .iter()
            .filter(|rule| rule.answer.is_none())
            .flat_map(|rule| &rule.calls)
            .collect();
        for rule in &self.rules {
            let args = rule.args.as_ref().map(|args| {
                args.iter()
                    .map(Condition::as_seccompiler)
                    .collect::<Vec<_>>()
            });
            for call in &rule.calls {
                let compiled = match &args {
                    Some(args) => json!({ "syscall": call, "args": args }),
                    None => json!({ "syscall": call }),
                };
                match &rule.answer {
                    None => first.push(compiled),
                    Some(answer) => {
                        let number = ANSWERS.iter().find(|(name, _)| name == answer);
                        let number = number
                            .map(|(_, number)| *number)
                            .ok_or_else(|| vec![format!("{call}: unknown answer {answer}")])?;
                        errors.entry(number).or_default().push(compiled.clone());
                        if !plain.contains(call) {
                            first.push(compiled);
                        }
                    }
                }
            }
        }
        let compile = |default: Value, action: Value, rules: &[Value]| {
            let filter = json!({ "filter": { "mismatch_action": default, "match_action": action, "filter": rules } });
            let mut map = seccompiler::compile_from_json(filter.to_string().as_bytes(), arch)
                .map_err(|error| vec![error.to_string()])?;
            map.remove("filter")
                .ok_or_else(|| vec!["it compiled to nothing".to_owned()])
        };
        let mut filters = Vec::new();
        for (number, rules) in &errors {
            filters.push(compile(json!("allow"), json!({ "errno": number }), rules)?);
        }
        // Last, because it may not allow seccomp(2) any more.
        filters.push(compile(json!("kill_process"), json!("allow"), &first)?);
        Ok(filters)
    }
}

impl Rule {
    fn problems(&self, role: Role, problems: &mut Vec<String>) {
        let named = self.calls.join(", ");
        if self.calls.is_empty() {
            problems.push("a rule names no call".into());
        }
        if self.why.trim().is_empty() {
            problems.push(format!("{named}: no reason (\"why\")"));
        }
        match self.args.as_deref() {
            Some([]) => problems.push(format!("{named}: an empty list of conditions")),
            Some(args) if args.iter().any(|arg| arg.means.trim().is_empty()) => {
                problems.push(format!(
                    "{named}: a condition does not say what its value means (\"means\")"
                ));
            }
            _ => {}
        }
        if role != Role::Supervisor && self.answer.is_none() {
            problems.extend(
                self.calls
                    .iter()
                    .filter(|call| NEVER.contains(&call.as_str()))
                    .map(|call| format!("{call} is never allowed in a {}", role.name())),
            );
        }
    }
}

impl Condition {
    fn as_seccompiler(&self) -> Value {
        json!({ "index": self.index, "type": self.r#type, "op": self.op, "val": self.val })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
