//! For tests alone (feature `attack-trigger`): a sealed role makes the attempts of a compromised one.
//!
//! The supervisor tells it to, once the node is ready: by then every role was attested and serves.

use super::Role;
use crate::telemetry;

#[cfg(not(debug_assertions))]
compile_error!("the feature `attack-trigger` is for tests: build without it, or without --release");

/// `ROLE:ATTEMPT;ATTEMPT…`, in the supervisor's environment.
pub(crate) const VARIABLE: &str = "FASTNESS_ATTACK";

/// What one role is to attempt, in this order.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Attack {
    attempts: Vec<String>,
    /// Process id of the supervisor: asking for it would be a call too.
    supervisor: u32,
}

impl Attack {
    /// What the environment says that `role` is to attempt.
    pub(crate) fn on(role: Role) -> Option<Self> {
        let told = std::env::var(VARIABLE).ok()?;
        let attempts = told.strip_prefix(role.name())?.strip_prefix(':')?;
        Some(Self {
            attempts: attempts.split(';').map(str::to_owned).collect(),
            supervisor: std::process::id(),
        })
    }

    /// Makes the attempts and writes what came of each. `parent`: whom to harm instead of the
    /// supervisor, for the supervisor itself.
    pub(crate) fn run(&self, parent: Option<u32>) {
        for name in &self.attempts {
            let outcome = match fastness_attack::attempt(name, parent.unwrap_or(self.supervisor)) {
                Ok(returned) => format!("it returned {returned}"),
                Err(errno) => format!("errno {errno}"),
            };
            telemetry::write_or_drop(format!("attack {name:?}: {outcome}\n").into_bytes());
        }
    }
}
