//! A profile's file: its rules, what is wrong with them, and the filters they become.

pub(super) mod learned;
mod never;

use std::collections::{BTreeMap, BTreeSet};

use seccompiler::{BpfProgram, TargetArch};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Role;
use super::filter::chained;
use super::users::User;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    role: String,
    arch: String,
    /// What has run under it.
    run: String,
    default: String,
    pub(super) rules: Vec<Rule>,
}

/// What is done about some calls, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(super) calls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) args: Option<Vec<Condition>>,
    /// The calls fail with this error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<String>,
    #[serde(default)]
    why: String,
    /// It is there in these circumstances alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    when: Option<When>,
    /// Why it is there although no test uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    untried: Option<String>,
}

/// One condition on an argument; all of a rule's must hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Condition {
    index: u8,
    r#type: String,
    op: Value,
    val: Operand,
    #[serde(default)]
    means: String,
}

/// Circumstances that the configuration decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum When {
    /// There is an application beside the node.
    Application,
}

/// What of the configuration a profile depends on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    /// The users that roles are started as.
    pub(crate) users: Vec<User>,
    /// Whether there is an application beside the node.
    pub(crate) application: bool,
}

/// What an argument is compared with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Operand {
    Number(u64),
    Of(UserNumber),
}

/// A number that the configuration gives: a rule with it stands once for each role's user, and not at
/// all when the roles have none of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum UserNumber {
    #[serde(rename = "uid of a role")]
    Uid,
    #[serde(rename = "gid of a role")]
    Gid,
    #[serde(rename = "none")]
    None,
}

/// Calls that a node has at most.
const MOST_IN_A_NODE: usize = 36;

/// Errors that a rule may answer with (errno(3)).
const ANSWERS: [(&str, u32); 3] = [("EPERM", 1), ("EACCES", 13), ("ENOSYS", 38)];

impl File {
    /// What is wrong with it, as the profile of `role` on `arch`.
    pub(super) fn problems(&self, role: Role, arch: &str) -> Vec<String> {
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
        if role == Role::Node {
            let allowed = self.rules.iter().filter(|rule| rule.answer.is_none());
            let calls: BTreeSet<_> = allowed.flat_map(|rule| &rule.calls).collect();
            if calls.len() > MOST_IN_A_NODE {
                problems.push(format!(
                    "it allows {} calls: a node has at most {MOST_IN_A_NODE}",
                    calls.len()
                ));
            }
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

    /// The rules that are there when `given` is so, with the numbers of its users.
    pub(super) fn given(mut self, given: &Given) -> Self {
        self.rules = self
            .rules
            .into_iter()
            .filter(|rule| rule.when != Some(When::Application) || given.application)
            .flat_map(|rule| rule.for_users(&given.users))
            .collect();
        self
    }

    /// What it answers with errors, everything else allowed; and what it allows, everything else killed.
    pub(super) fn compile(&self, arch: TargetArch) -> Result<[BpfProgram; 2], Vec<String>> {
        let mut allowed: Vec<Value> = Vec::new();
        let mut answered: BTreeMap<u32, Vec<Value>> = BTreeMap::new();
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
                let Some(answer) = &rule.answer else {
                    allowed.push(compiled);
                    continue;
                };
                let number = ANSWERS.iter().find(|(name, _)| name == answer);
                let (_, number) =
                    number.ok_or_else(|| vec![format!("{call}: unknown answer {answer}")])?;
                answered.entry(*number).or_default().push(compiled);
            }
        }
        let compile = |default: Value, action: Value, rules: &[Value]| {
            let filter = json!({ "filter": { "mismatch_action": default, "match_action": action, "filter": rules } });
            let mut map = seccompiler::compile_from_json(filter.to_string().as_bytes(), arch)
                .map_err(|error| vec![error.to_string()])?;
            map.remove("filter")
                .ok_or_else(|| vec!["it compiled to nothing".to_owned()])
        };
        let mut answers = BpfProgram::new();
        for (number, rules) in &answered {
            let next = compile(json!("allow"), json!({ "errno": number }), rules)?;
            answers = chained(&answers, &next);
        }
        let allows = compile(json!("kill_process"), json!("allow"), &allowed)?;
        Ok([answers, allows])
    }
}

impl Rule {
    fn for_users(self, users: &[User]) -> Vec<Self> {
        let speaks = |condition: &Condition| matches!(condition.val, Operand::Of(_));
        if !self.args.iter().flatten().any(speaks) {
            return vec![self];
        }
        let mut rules: Vec<Self> = Vec::new();
        let mut seen = BTreeSet::new();
        for user in users {
            let mut rule = self.clone();
            let mut numbers = Vec::new();
            for condition in rule.args.iter_mut().flatten() {
                if let Operand::Of(what) = condition.val {
                    let number = match what {
                        UserNumber::Uid => user.uid,
                        UserNumber::Gid => user.gid,
                        UserNumber::None => 0,
                    };
                    condition.val = Operand::Number(number.into());
                    numbers.push(number);
                }
            }
            // Two tokens may have one user, and two users one group.
            if seen.insert(numbers) {
                rules.push(rule);
            }
        }
        rules
    }

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
        if self
            .untried
            .as_ref()
            .is_some_and(|why| why.trim().is_empty())
        {
            problems.push(format!("{named}: no reason (\"untried\")"));
        }
        if self.answer.is_some() {
            return;
        }
        let of = |call: &String| {
            let name = role.name();
            if never::is_allowed_never(role, call) {
                return Some(format!("{call} is never allowed in a {name}"));
            }
            let plain = self.args.is_none() && never::needs_conditions(role, call);
            plain.then(|| format!("{call} is never allowed without conditions in a {name}"))
        };
        problems.extend(self.calls.iter().filter_map(of));
    }
}

impl Condition {
    fn as_seccompiler(&self) -> Value {
        json!({ "index": self.index, "type": self.r#type, "op": self.op, "val": self.val })
    }
}
