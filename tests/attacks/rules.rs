//! The rules of the profiles in force, as `fastness sandbox show` prints them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{Mesh, show};

/// A call with its arguments.
pub type Arguments = [u64; 6];

#[derive(Clone, Debug)]
pub struct Rule {
    pub call: String,
    pub conditions: Vec<Condition>,
    pub answer: Option<String>,
    /// Why nothing has to use it.
    pub untried: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Condition {
    pub index: usize,
    wide: bool,
    op: Op,
    val: u64,
}

#[derive(Clone, Debug)]
enum Op {
    Eq,
    Ne,
    Masked(u64),
}

impl Rule {
    fn parse(rule: &Value) -> Self {
        let text = |key: &str| rule[key].as_str().map(str::to_owned);
        Self {
            call: text("syscall").expect("a name"),
            conditions: rule["args"]
                .as_array()
                .map(|args| args.iter().map(Condition::parse).collect())
                .unwrap_or_default(),
            answer: text("answer"),
            untried: text("untried"),
        }
    }

    pub fn takes(&self, call: &str, arguments: &Arguments) -> bool {
        self.call == call
            && self
                .conditions
                .iter()
                .all(|condition| condition.holds(arguments[condition.index]))
    }
}

impl Condition {
    fn parse(condition: &Value) -> Self {
        let op = &condition["op"];
        Self {
            index: usize::try_from(condition["index"].as_u64().expect("a number")).expect("small"),
            wide: condition["type"] == "qword",
            op: match op.as_str() {
                Some("eq") => Op::Eq,
                Some("ne") => Op::Ne,
                _ => Op::Masked(op["masked_eq"].as_u64().unwrap_or_else(|| panic!("{op}"))),
            },
            val: condition["val"].as_u64().expect("a number"),
        }
    }

    fn holds(&self, argument: u64) -> bool {
        let argument = match self.wide {
            true => argument,
            false => argument & 0xffff_ffff,
        };
        match self.op {
            Op::Eq => argument == self.val,
            Op::Ne => argument != self.val,
            Op::Masked(mask) => argument & mask == self.val & mask,
        }
    }

    /// An argument that it allows.
    pub fn allowed(&self) -> u64 {
        match self.op {
            Op::Eq | Op::Masked(_) => self.val,
            // No command of a terminal, and of nothing else.
            Op::Ne => 0x7fff,
        }
    }

    /// Arguments that it does not allow: each one bit away, then all of its bits.
    pub fn perturbed(&self) -> Vec<u64> {
        let mask = match self.op {
            Op::Ne => return vec![self.val],
            Op::Eq => 0x8000_0003 | if self.wide { 1 << 40 } else { 0 },
            Op::Masked(mask) => mask,
        };
        (0..64)
            .map(|bit| 1_u64 << bit)
            .filter(|bit| mask & bit != 0)
            .chain([mask])
            .map(|bits| self.val ^ bits)
            .collect()
    }
}

/// Rules by role, for the configuration of `a`.
pub fn shown(mesh: &Mesh) -> BTreeMap<String, Vec<Rule>> {
    let shown = show(mesh);
    let roles = shown["roles"].as_array().expect("a list").iter();
    roles
        .map(|one| {
            let rules = one["rules"].as_array().expect("a list");
            (
                one["role"].as_str().expect("text").to_owned(),
                rules.iter().map(Rule::parse).collect(),
            )
        })
        .collect()
}
