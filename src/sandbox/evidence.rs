//! What our tests show of the profiles that are part of the binary. No filter depends on it.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use serde::Deserialize;

use super::rules::Rule;

const TEXT: &str = include_str!("../../policies/seccomp/evidence.json");

/// Of one profile; empty of an administrator's own.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Evidence {
    /// What has run under it, by the kind of machine.
    run: BTreeMap<String, String>,
    untried: Vec<Untried>,
}

/// Rules that no test uses, on one kind of machine or on all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Untried {
    calls: Vec<String>,
    /// The rules'.
    comment: String,
    /// Why they are there all the same.
    why: String,
}

impl Evidence {
    /// Of the profile `name`.
    pub(crate) fn of(name: &str) -> Result<Self, serde_json::Error> {
        let mut all: BTreeMap<String, Self> = serde_json::from_str(TEXT)?;
        Ok(all.remove(name).unwrap_or_default())
    }

    /// What has run under it on a machine like this.
    pub(crate) fn run(&self) -> Option<&str> {
        self.run.get(ARCH).map(String::as_str)
    }

    /// Why `rule` is there, if no test uses it.
    pub(crate) fn untried(&self, rule: &Rule) -> Option<&str> {
        let found = self.untried.iter().find(|one| one.is_about(rule));
        found.map(|one| one.why.as_str())
    }
}

impl Untried {
    fn is_about(&self, rule: &Rule) -> bool {
        self.comment == rule.comment && self.calls.contains(&rule.syscall)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::embedded;
    use super::*;

    fn all() -> BTreeMap<String, Evidence> {
        serde_json::from_str(TEXT).unwrap()
    }

    #[test]
    fn it_is_of_every_profile_and_of_no_other() {
        let all = all();
        let found: BTreeSet<_> = all
            .iter()
            .flat_map(|(name, one)| one.run.keys().map(|arch| (name.as_str(), arch.as_str())))
            .collect();
        let profiles = embedded::tests::all();
        let wanted = profiles
            .iter()
            .map(|(arch, profile)| (profile.name.as_str(), *arch));
        assert_eq!(found, wanted.collect());
        for text in all.values().flat_map(|one| one.run.values()) {
            assert!(!text.trim().is_empty());
        }
    }

    #[test]
    fn what_is_untried_is_a_rule_and_has_a_reason() {
        let profiles = embedded::tests::all();
        for (name, one) in all() {
            let rules: Vec<_> = profiles
                .iter()
                .filter(|(_, profile)| profile.name == name)
                .flat_map(|(_, profile)| profile.rules.all())
                .collect();
            for untried in &one.untried {
                assert!(!untried.why.trim().is_empty(), "{name}: {untried:?}");
                assert!(!untried.calls.is_empty(), "{name}: {untried:?}");
                for call in &untried.calls {
                    let is_it = |rule: &Rule| rule.syscall == *call && untried.is_about(rule);
                    let found = rules.iter().any(|(_, rule)| is_it(rule));
                    assert!(found, "{name}: {call} {untried:?}");
                }
            }
        }
    }
}
