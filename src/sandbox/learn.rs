//! Learning what a module calls: instead of the seal a filter that stops at every call for the one who
//! traces, and a draft of a profile from what was seen. A process that learns is not [`super::Confined`],
//! so it can never serve.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use serde::{Deserialize, Serialize};

use super::rules::learned;
use super::rules::{Rule, Rules};
use super::trace::SeenCall;
use super::{Maker, OwnProfile, Profile, ProfileError, SandboxError, Walled};

/// Proof that this process is behind its walls and that every call of it is seen. Made by
/// [`Walled::learn`] alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Learning(());

impl Walled {
    /// Instead of the seal: the errors that `profile` answers with, and every other call traced, on every
    /// thread at once. Without a tracer every call fails from here on.
    pub(crate) fn learn(self, profile: &Profile) -> Result<Learning, SandboxError> {
        let refused = |cause: Box<dyn std::error::Error + Send + Sync>| SandboxError::Refused {
            step: "the filter that learns",
            since: "4.8",
            cause,
        };
        let every = every_call_traced().map_err(refused)?;
        let filter = profile.answering_before(&every);
        seccompiler::apply_filter_all_threads(&filter).map_err(|error| refused(error.into()))?;
        Ok(Learning(()))
    }
}

fn every_call_traced() -> Result<BpfProgram, Box<dyn std::error::Error + Send + Sync>> {
    let filter = SeccompFilter::new(
        BTreeMap::new(),
        SeccompAction::Trace(0),
        SeccompAction::Allow,
        TargetArch::try_from(ARCH)?,
    )?;
    Ok(filter.try_into()?)
}

/// Where a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Standing {
    /// Every keeper of ours makes it, whatever its module.
    Ours,
    /// The module's; the profile that is in force today allows it.
    Known,
    /// The module's; today's profile would have ended the keeper.
    New,
}

/// One line of what was learned.
#[derive(Debug, Serialize)]
pub(crate) struct Learned {
    pub(crate) call: &'static str,
    /// Arguments that say what it is for: index and value.
    pub(crate) arguments: Vec<(u8, u64)>,
    pub(crate) times: u64,
    pub(crate) standing: Standing,
    /// The supervisor's own filter is on its keepers too; it lacks this call, so that one needs a
    /// `supervisor_profile` as well.
    pub(crate) supervisor_lacks_it: bool,
}

/// A profile that a person has to finish.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) text: String,
    pub(crate) calls: Vec<Learned>,
    /// Rules without a reason.
    pub(crate) without_reason: usize,
}

impl Draft {
    /// The draft for a token of `maker` whose keeper today has `own` or the one in the binary, from the
    /// calls `seen`.
    pub(crate) fn new(
        maker: Maker,
        own: Option<&OwnProfile>,
        seen: &BTreeMap<SeenCall, u64>,
    ) -> Result<Self, DraftError> {
        let today = Profile::keeper(maker, own)?.rules;
        let supervisor = Profile::supervisor(None, &[])?;
        let measured = Profile::keeper(Maker::SoftHsm, None)?.rules;
        let mut rules: Vec<Rule> = measured.allowed.into_iter().filter(Rule::is_ours).collect();
        let mut calls = Vec::new();
        let allowed = |rules: &[Rule], call: &SeenCall| {
            rules.iter().any(|rule| rule.allows(call.name, &call.args))
        };
        let base = rules.len();
        for (call, times) in seen {
            let standing = if allowed(&rules[..base], call) {
                Standing::Ours
            } else {
                rules.push(Rule::learned(call.name, &call.args));
                match allowed(&today.allowed, call) {
                    true => Standing::Known,
                    false => Standing::New,
                }
            };
            calls.push(Learned {
                call: call.name,
                arguments: call.args.clone(),
                times: *times,
                standing,
                supervisor_lacks_it: !supervisor.allowed().contains(call.name),
            });
        }
        Ok(Self {
            without_reason: rules.len() - base,
            // It ran with today's answers, so these belong to what was seen.
            text: learned::draft(&Rules {
                allowed: rules,
                answered: today.answered,
            })?,
            calls,
        })
    }
}

/// Why there is no draft.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DraftError {
    /// The profile in force is no good.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A bug in fastness.
    #[error("the draft cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}
