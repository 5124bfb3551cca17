//! A role's system calls as reviewed data: every rule says why it is there, and a profile that says
//! something else than it seems to is refused.
//!
//! The format is seccompiler's, with `calls` (several under one reason), `why`, `means` and `answer`.
//! The filter kills the process (SIGSYS) at any call that no rule allows. A rule with an `answer` lets the
//! call fail with that error instead: seccompiler has one action a program, so each error is a program of
//! its own, before the one that kills.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest;
use seccompiler::{BpfProgram, TargetArch};

use super::Role;
use super::filter::{LONGEST, chained};
use super::rules::{File, Given, Rule};

/// A profile that was checked and compiled.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// Its file's name without the ending, `keeper-softhsm`; the whole path of one that is not part of
    /// the binary.
    pub(crate) name: String,
    /// Digest of the file, hexadecimal.
    pub(crate) sha256: String,
    pub(crate) rules: Vec<Rule>,
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
        let mut problems = file.problems(role, arch);
        let target = TargetArch::try_from(arch).map_err(|error| refuse(vec![error.to_string()]))?;
        let file = file.given(given);
        let [answers, allows] = file.compile(target).unwrap_or_else(|found| {
            problems.extend(found);
            Default::default()
        });
        let length = chained(&answers, &allows).len();
        if length > LONGEST {
            problems.push(format!(
                "its filter has {length} instructions: the kernel takes {LONGEST}"
            ));
        }
        if !problems.is_empty() {
            return Err(refuse(problems));
        }
        Ok(Self {
            name: name.to_owned(),
            sha256: sha256(text),
            rules: file.rules,
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
        self.of(|rule| rule.answer.is_none())
    }

    /// Those of them whose arguments are checked.
    pub(crate) fn argument_checked(&self) -> BTreeSet<&str> {
        self.of(|rule| rule.answer.is_none() && rule.args.is_some())
    }

    /// Calls that fail with an error and do nothing, with some or any arguments.
    pub(crate) fn answered(&self) -> BTreeMap<&str, &str> {
        let answers = |rule| -> Option<(&Rule, &str)> {
            let rule: &Rule = rule;
            Some((rule, rule.answer.as_deref()?))
        };
        self.rules
            .iter()
            .filter_map(answers)
            .flat_map(|(rule, answer)| rule.calls.iter().map(move |call| (call.as_str(), answer)))
            .collect()
    }

    fn of(&self, wanted: impl Fn(&Rule) -> bool) -> BTreeSet<&str> {
        self.rules
            .iter()
            .filter(|rule| wanted(rule))
            .flat_map(|rule| rule.calls.iter().map(String::as_str))
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
