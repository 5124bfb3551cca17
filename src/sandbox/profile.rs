//! A role's system calls as reviewed data: every rule says why it is there, and a profile that says
//! something else than it seems to is refused.
//!
//! A file is seccompiler's, filters by name, with a reason in every `comment`. The filter with the role's
//! name kills the process (SIGSYS) at any call that none of its rules allows. seccompiler has one action a
//! filter: calls that fail with an error instead are in one of their own for each error, asked before the
//! one that kills; and so is what only some configurations need (`supervisor for each user`, `node with an
//! application`), which becomes part of the one that kills.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest;
use seccompiler::{BpfProgram, TargetArch};

use super::Role;
use super::filter::{LONGEST, chained};
use super::rules::{File, Given, Parts, Rule, Rules};

/// A profile that was checked and compiled.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// Its file's name without the ending, `keeper-softhsm`; the whole path of one that is not part of
    /// the binary.
    pub(crate) name: String,
    /// Digest of the file, hexadecimal.
    pub(crate) sha256: String,
    pub(crate) rules: Rules,
    answers: BpfProgram,
    allows: BpfProgram,
}

/// What is wrong with a profile.
#[derive(Debug, thiserror::Error)]
#[error("seccomp profile {name}: {}", problems.join("; "))]
pub(crate) struct ProfileError {
    name: String,
    problems: Vec<String>,
}

impl ProfileError {
    /// No profile of this name is part of the binary.
    pub(super) fn missing(name: &str, arch: &str) -> Self {
        Self {
            name: name.to_owned(),
            problems: vec![format!("there is none for {arch}")],
        }
    }
}

impl Profile {
    /// Checks and compiles the profile `name` of `role` in `text`, for a machine of kind `arch`, as
    /// the configuration has it (`given`).
    pub(crate) fn parse(
        name: &str,
        role: Role,
        arch: &str,
        text: &str,
        given: &Given,
    ) -> Result<Self, ProfileError> {
        let refuse = |problems| ProfileError {
            name: name.to_owned(),
            problems,
        };
        let file: File =
            serde_json::from_str(text).map_err(|error| refuse(vec![error.to_string()]))?;
        let target = TargetArch::try_from(arch).map_err(|error| refuse(vec![error.to_string()]))?;
        let (parts, mut problems) = Parts::of(file, role);
        // As it is: a name that stands twice is gone from what was read above.
        if let Err(error) = seccompiler::compile_from_json(text.as_bytes(), target) {
            problems.push(error.to_string());
        }
        if !problems.is_empty() {
            return Err(refuse(problems));
        }
        let rules = parts.given(given);
        let [answers, allows] = rules
            .compile(target)
            .map_err(|error| refuse(vec![error.to_string()]))?;
        let length = chained(&answers, &allows).len();
        if length > LONGEST {
            let longer =
                format!("its filter has {length} instructions: the kernel takes {LONGEST}");
            return Err(refuse(vec![longer]));
        }
        Ok(Self {
            name: name.to_owned(),
            sha256: sha256(text),
            rules,
            answers,
            allows,
        })
    }

    /// The filter.
    pub(super) fn filter(&self) -> BpfProgram {
        self.answering_before(&self.allows)
    }

    /// Its answers, and `then` for every other call.
    pub(super) fn answering_before(&self, then: &BpfProgram) -> BpfProgram {
        chained(&self.answers, then)
    }

    /// Calls that are allowed, with any arguments or with some.
    pub(crate) fn allowed(&self) -> BTreeSet<&str> {
        let rules = self.rules.allowed.iter();
        rules.map(|rule| rule.syscall.as_str()).collect()
    }

    /// Those of them whose arguments are checked.
    pub(crate) fn argument_checked(&self) -> BTreeSet<&str> {
        let checked = |rule: &&Rule| rule.args.is_some();
        let rules = self.rules.allowed.iter().filter(checked);
        rules.map(|rule| rule.syscall.as_str()).collect()
    }

    /// Calls that fail with an error and do nothing, with some or any arguments.
    pub(crate) fn answered(&self) -> BTreeMap<&str, &str> {
        let answers = self.rules.answered.iter();
        answers
            .flat_map(|(error, rules)| rules.iter().map(|rule| (rule.syscall.as_str(), *error)))
            .collect()
    }
}

/// Digest of a profile's text, hexadecimal.
pub(super) fn sha256(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::embedded::tests::{everything, text};
    use super::*;

    #[test]
    fn a_profile_of_any_role_that_allows_what_none_needs_is_refused() {
        for (name, role, calls) in [
            (
                "supervisor",
                Role::Supervisor,
                &["ptrace", "mount", "init_module", "setns"][..],
            ),
            (
                "keeper",
                Role::Keeper,
                &["reboot", "setreuid", "tkill", "mknod", "bind"],
            ),
        ] {
            let good = text(name, "x86_64");
            for call in calls {
                let rule = format!(r#""filter": [{{"syscall": "{call}", "comment": "x"}},"#);
                let bad = good.replacen("\"filter\": [", &rule, 1);
                assert_ne!(bad, good);
                let error = Profile::parse(name, role, "x86_64", &bad, &everything()).unwrap_err();
                let expected = format!("{call} is never allowed in a {name}");
                assert!(error.to_string().contains(&expected), "{error}");
            }
        }
    }

    #[track_caller]
    fn refused(role: Role, text: &str, fault: &str) {
        let error = Profile::parse("own", role, "x86_64", text, &everything())
            .unwrap_err()
            .to_string();
        assert!(error.contains(fault), "{error}");
    }

    #[test]
    fn a_faulty_rule_is_refused_with_its_fault() {
        let good = text("node", "x86_64");
        let rule = r#"{"syscall": "recvfrom", "comment":"#;
        assert!(good.contains(rule));
        let with = |rules: &str, fault: &str| {
            let bad = good.replacen(rule, &format!("{rules},\n{rule}"), 1);
            refused(Role::Node, &bad, fault);
        };
        with(
            r#"{"syscall": "recvform", "comment": "typing"}"#,
            "recvform",
        );
        with(
            r#"{"syscall": "getuid", "comment": " "}"#,
            "getuid: no reason",
        );
        with(r#"{"syscall": "getuid"}"#, "getuid: no reason");
        with(r#"{"comment": "x"}"#, "missing field `syscall`");
        with(r#"{"syscall": "getuid", "why": "x"}"#, "unknown field");
        with(
            r#"{"syscall": "mmap", "comment": "all of it"}"#,
            "beside one with",
        );
        let condition = |index: u8, more: &str| {
            format!(
                r#"{{"syscall": "getuid", "args": [{{"index": {index}, "type": "dword", "op": "eq", "val": 1{more}}}], "comment": "x"}}"#
            )
        };
        with(&condition(0, ""), "getuid: a condition does not say");
        with(&condition(7, r#", "comment": "x""#), "argument");
        with(&condition(0, r#", "means": "x""#), "unknown field");
        with(
            r#"{"syscall": "getuid", "args": [], "comment": "x"}"#,
            "getuid: an empty list of conditions",
        );
        with(
            r#"{"syscall": "getuid", "comment": "x"}, {"syscall": "getuid", "comment": "y"}"#,
            "two rules",
        );
        with(
            r#"{"syscall": "getuid", "comment": "x"}, {"syscall": "geteuid", "comment": "x"}"#,
            "37 calls: a node has at most 36",
        );
        for call in ["execve", "open", "clone", "sendmsg", "recvmsg", "prctl"] {
            with(
                &format!(r#"{{"syscall": "{call}", "comment": "x"}}"#),
                &format!("{call} is never allowed in a node"),
            );
        }
        let args = r#""args": [
        {"index": 2, "type": "dword", "op": {"masked_eq": 4}, "val": 0, "comment": "without PROT_EXEC"}
      ], "#;
        assert!(good.contains(args));
        refused(
            Role::Node,
            &good.replacen(args, "", 1),
            "mprotect is never allowed without conditions in a node",
        );
        for (role, name, calls) in [
            (Role::Node, "node", &["sendto"][..]),
            (
                Role::Supervisor,
                "supervisor",
                &["sendto", "sendmsg", "sendmmsg"],
            ),
        ] {
            for call in calls {
                let rule = format!(
                    r#"{{"{name}": {{"mismatch_action": "kill_process", "match_action": "allow", "filter": [{{"syscall": "{call}", "comment": "x"}}]}}}}"#
                );
                let fault = format!("{call} is never allowed without conditions in a {name}");
                refused(role, &rule, &fault);
            }
        }
        // In each of its filters.
        for (name, rules, fault) in [
            ("node with an application", "execve", "never allowed"),
            ("node with an application", "recvfrom", "two rules"),
            ("node answers EACCES", "recvfrom", "always answered"),
        ] {
            let begin = format!(r#""{name}": {{"#);
            let (before, after) = good.split_once(&begin).unwrap();
            let rules = format!(r#""filter": [{{"syscall": "{rules}", "comment": "x"}},"#);
            let after = after.replacen("\"filter\": [", &rules, 1);
            refused(Role::Node, &format!("{before}{begin}{after}"), fault);
        }
    }

    #[test]
    fn a_faulty_filter_is_refused_with_its_fault() {
        let good = text("node", "x86_64");
        let filter = |name: &str, actions: &str, rules: &str| {
            format!(r#""{name}": {{{actions}, "filter": [{rules}]}}"#)
        };
        let kill = r#""mismatch_action": "kill_process", "match_action": "allow""#;
        let rule = r#"{"syscall": "getuid", "comment": "x"}"#;
        let with = |name: &str, actions: &str, rules: &str| {
            good.replacen('{', &format!("{{{},", filter(name, actions, rules)), 1)
        };
        let file = |name: &str, rules: &str| format!("{{{}}}", filter(name, kill, rules));
        refused(Role::Node, "{", "EOF");
        refused(Role::Node, "{}", "it has no filter \"node\"");
        refused(Role::Node, &file("node", ""), "\"node\" has no rule");
        refused(
            Role::Node,
            &file("nodes", rule),
            "\"nodes\" is no filter of a node",
        );
        for (name, role) in [
            ("supervisor", Role::Node),
            ("node for each user", Role::Node),
            ("keeper with an application", Role::Keeper),
            ("keeper answers ENOENT", Role::Keeper),
        ] {
            let fault = format!("{name:?} is no filter of a {}", role.name());
            refused(role, &with(name, kill, rule), &fault);
        }
        refused(Role::Node, &with("node", kill, rule), "duplicate");
        refused(
            Role::Node,
            &with("node answers EPERM", kill, rule),
            "not \"allow\" and {\"errno\":1}",
        );
        let other = r#""mismatch_action": "allow", "match_action": {"errno": 2}"#;
        refused(
            Role::Node,
            &with("node answers EPERM", other, rule),
            "{\"errno\":2}, not",
        );
        for action in ["allow", "log", "trap", "kill_thread"] {
            let bad = good.replacen("\"kill_process\"", &format!("{action:?}"), 1);
            refused(
                Role::Node,
                &bad,
                &format!("\"node\" has the mismatch_action {action:?}"),
            );
        }
        let old = r#"{"role": "node", "arch": "x86_64", "run": "x", "default": "kill_process", "rules": []}"#;
        refused(Role::Node, old, "invalid type");
    }

    /// A number that stands for a user's has to be where a user's is asked for.
    #[test]
    fn a_faulty_rule_for_each_user_is_refused() {
        let good = text("supervisor", "x86_64");
        let (before, after) = good.split_once("\"supervisor for each user\"").unwrap();
        let with = |from: &str, to: &str, fault: &str| {
            assert!(after.contains(from));
            let after = after.replacen(from, to, 1);
            let bad = format!("{before}\"supervisor for each user\"{after}");
            refused(Role::Supervisor, &bad, fault);
        };
        with(
            "4294967295",
            "0",
            "setuid: setuid and setgid, and they alone",
        );
        with(
            "\"setgid\"",
            "\"setregid\"",
            "setregid: setuid and setgid, and they alone",
        );
    }
}
