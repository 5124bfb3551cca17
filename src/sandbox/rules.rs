//! A profile's file: its filters by name, what is wrong with their rules, and what they become.

pub(super) mod learned;
mod never;

use std::collections::{BTreeMap, BTreeSet};

use seccompiler::{BpfProgram, TargetArch};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Role;
use super::filter::chained;
use super::users::User;

/// The filters of a file, by their names.
pub(super) type File = BTreeMap<String, Filter>;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    mismatch_action: Value,
    match_action: Value,
    filter: Vec<Rule>,
}

/// A call that something is done about, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) syscall: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) args: Option<Vec<Condition>>,
    #[serde(default)]
    pub(crate) comment: String,
}

/// One condition on an argument; all of a rule's must hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Condition {
    index: u8,
    r#type: String,
    op: Value,
    val: u64,
    /// What the value means.
    #[serde(default)]
    comment: String,
}

/// What a filter is for, which its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// What is always allowed.
    Always,
    /// What is allowed beside an application.
    Application,
    /// What is allowed once for each user that a role is started as.
    EachUser,
    /// What fails with this error and does nothing: its name and number (errno(3)).
    Answers(&'static str, u32),
}

/// What of the configuration a profile depends on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    /// The users that roles are started as.
    pub(crate) users: Vec<User>,
    /// Whether there is an application beside the node.
    pub(crate) application: bool,
}

/// The rules of a file by what they are for.
#[derive(Debug)]
pub(super) struct Parts(BTreeMap<Part, Vec<Rule>>);

/// The rules that are there as the configuration is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// Calls that are allowed; any other ends the process.
    pub(crate) allowed: Vec<Rule>,
    /// Calls that fail with an error, by its name, and do nothing.
    pub(crate) answered: BTreeMap<&'static str, Vec<Rule>>,
}

/// Calls that a node has at most.
const MOST_IN_A_NODE: usize = 36;

/// Errors that calls may be answered with (errno(3)).
const ANSWERS: [(&str, u32); 3] = [("EPERM", 1), ("EACCES", 13), ("ENOSYS", 38)];

/// In the place of a user's number: -1, which setuid(2) and setgid(2) refuse.
const OF_A_USER: u64 = 4_294_967_295;

impl Part {
    /// Those that a profile of `role` may have.
    fn all(role: Role) -> Vec<Self> {
        let own = match role {
            Role::Supervisor => Some(Self::EachUser),
            Role::Keeper | Role::Resolver => None,
            Role::Node => Some(Self::Application),
        };
        let answers = ANSWERS.map(|(error, number)| Self::Answers(error, number));
        [Self::Always]
            .into_iter()
            .chain(own)
            .chain(answers)
            .collect()
    }

    fn name(self, role: Role) -> String {
        let role = role.name();
        match self {
            Self::Always => role.to_owned(),
            Self::Application => format!("{role} with an application"),
            Self::EachUser => format!("{role} for each user"),
            Self::Answers(error, _) => format!("{role} answers {error}"),
        }
    }

    /// The filter of these rules.
    fn filter(self, filter: Vec<Rule>) -> Filter {
        let (otherwise, action) = match self {
            Self::Answers(_, number) => (json!("allow"), json!({ "errno": number })),
            _ => (json!("kill_process"), json!("allow")),
        };
        Filter {
            mismatch_action: otherwise,
            match_action: action,
            filter,
        }
    }
}

impl Parts {
    /// Sorts the filters of `file`, a profile of `role`; and what is wrong with them.
    pub(super) fn of(file: File, role: Role) -> (Self, Vec<String>) {
        let (mut parts, mut problems) = (BTreeMap::new(), Vec::new());
        for (name, filter) in file {
            let mut all = Part::all(role).into_iter();
            let Some(part) = all.find(|part| part.name(role) == name) else {
                let names = Part::all(role).into_iter();
                let names: Vec<_> = names.map(|part| format!("{:?}", part.name(role))).collect();
                problems.push(format!(
                    "{name:?} is no filter of a {}: those are {}",
                    role.name(),
                    names.join(", ")
                ));
                continue;
            };
            let Filter {
                mismatch_action,
                match_action,
                filter: rules,
            } = filter;
            if rules.is_empty() {
                problems.push(format!(
                    "{name:?} has no rule: an empty filter would be no filter"
                ));
            }
            let right = part.filter(rules);
            if mismatch_action != right.mismatch_action || match_action != right.match_action {
                problems.push(format!(
                    "{name:?} has the mismatch_action {mismatch_action} and the match_action {match_action}, not {} and {}",
                    right.mismatch_action, right.match_action
                ));
            }
            parts.insert(part, right.filter);
        }
        if !parts.contains_key(&Part::Always) {
            problems.push(format!("it has no filter {:?}", Part::Always.name(role)));
        }
        let parts = Self(parts);
        problems.extend(parts.problems(role));
        (parts, problems)
    }

    fn problems(&self, role: Role) -> Vec<String> {
        let mut problems = Vec::new();
        let rules = || {
            let all = self.0.iter();
            all.flat_map(|(part, rules)| rules.iter().map(move |rule| (*part, rule)))
        };
        for (part, rule) in rules() {
            rule.problems(role, part, &mut problems);
        }
        let is_answer = |part| matches!(part, Part::Answers(..));
        let allowed = rules().filter(|(part, _)| !is_answer(*part));
        let calls: BTreeSet<_> = allowed.map(|(_, rule)| &rule.syscall).collect();
        if role == Role::Node && calls.len() > MOST_IN_A_NODE {
            problems.push(format!(
                "it allows {} calls: a node has at most {MOST_IN_A_NODE}",
                calls.len()
            ));
        }
        let mut seen: BTreeMap<(&str, bool), (usize, usize)> = BTreeMap::new();
        for (part, rule) in rules() {
            let of_it = (rule.syscall.as_str(), is_answer(part));
            let (plain, conditional) = seen.entry(of_it).or_default();
            *if rule.args.is_some() {
                conditional
            } else {
                plain
            } += 1;
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

    /// The rules that are there when `given` is so, with the numbers of its users.
    pub(super) fn given(self, given: &Given) -> Rules {
        let mut there = Rules::default();
        for (part, rules) in self.0 {
            match part {
                Part::Always => there.allowed.extend(rules),
                Part::Application if given.application => there.allowed.extend(rules),
                Part::Application => {}
                Part::EachUser => {
                    let users = given.users.iter();
                    for rule in users.flat_map(|user| rules.iter().map(|rule| rule.of(*user))) {
                        // Two tokens may have one user, and two users one group.
                        if !there.allowed.contains(&rule) {
                            there.allowed.push(rule);
                        }
                    }
                }
                Part::Answers(error, _) => {
                    there.answered.insert(error, rules);
                }
            }
        }
        there
    }
}

impl Rules {
    /// Each of them, with the error that answers its call.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Option<&'static str>, &Rule)> {
        let answers = self.answered.iter();
        let answered =
            answers.flat_map(|(error, rules)| rules.iter().map(|rule| (Some(*error), rule)));
        self.allowed.iter().map(|rule| (None, rule)).chain(answered)
    }

    /// The filters that they are: what is allowed, then the answers.
    fn filters(&self) -> Vec<(Part, Filter)> {
        let answers = ANSWERS.into_iter().filter_map(|(error, number)| {
            let rules = self.answered.get(error)?;
            Some((Part::Answers(error, number), rules))
        });
        let all = [(Part::Always, &self.allowed)].into_iter().chain(answers);
        all.map(|(part, rules)| (part, part.filter(rules.clone())))
            .collect()
    }

    /// What is answered with errors, everything else allowed; and what is allowed, everything else killed.
    pub(super) fn compile(&self, arch: TargetArch) -> Result<[BpfProgram; 2], seccompiler::Error> {
        let [mut answers, mut allows] = [BpfProgram::new(), BpfProgram::new()];
        for (part, filter) in self.filters() {
            let file = json!({ "filter": filter }).to_string();
            for program in seccompiler::compile_from_json(file.as_bytes(), arch)?.into_values() {
                match part {
                    Part::Answers(..) => answers = chained(&answers, &program),
                    _ => allows = program,
                }
            }
        }
        Ok([answers, allows])
    }
}

/// What of `user` a call is about.
fn number_in(call: &str, user: User) -> Option<u32> {
    match call {
        "setuid" => Some(user.uid),
        "setgid" => Some(user.gid),
        _ => None,
    }
}

impl Rule {
    /// The rule for `user`.
    fn of(&self, user: User) -> Self {
        let mut rule = self.clone();
        if let Some(number) = number_in(&self.syscall, user) {
            let conditions = rule.args.iter_mut().flatten();
            for condition in conditions.filter(|condition| condition.val == OF_A_USER) {
                condition.val = number.into();
            }
        }
        rule
    }

    fn problems(&self, role: Role, part: Part, problems: &mut Vec<String>) {
        let call = &self.syscall;
        if self.comment.trim().is_empty() {
            problems.push(format!("{call}: no reason (\"comment\")"));
        }
        if self.args.as_ref().is_some_and(Vec::is_empty) {
            problems.push(format!("{call}: an empty list of conditions"));
        }
        let mut conditions = self.args.iter().flatten();
        if conditions.any(|one| one.op["masked_eq"] == 0) {
            problems.push(format!("{call}: a condition compares no bit (masked_eq 0)"));
        }
        let mut conditions = self.args.iter().flatten();
        if conditions.any(|one| one.comment.trim().is_empty()) {
            problems.push(format!(
                "{call}: a condition does not say what its value means (\"comment\")"
            ));
        }
        if part == Part::EachUser {
            let mut conditions = self.args.iter().flatten();
            let compared = conditions.any(|one| one.val == OF_A_USER);
            let takes_one = number_in(call, User { uid: 0, gid: 0 }).is_some();
            if compared != takes_one {
                problems.push(format!(
                    "{call}: setuid and setgid, and they alone, are compared with {OF_A_USER}, which stands for the number of a user"
                ));
            }
        }
        if matches!(part, Part::Answers(..)) {
            return;
        }
        let name = role.name();
        if never::is_allowed_never(role, call) {
            problems.push(format!("{call} is never allowed in a {name}"));
        } else if self.args.is_none() && never::needs_conditions(role, call) {
            problems.push(format!(
                "{call} is never allowed without conditions in a {name}"
            ));
        }
    }
}
