//! For tests alone (feature `attack-trigger`): a sealed role makes one attempt of a compromised one.

use super::Role;
use crate::telemetry;

#[cfg(not(debug_assertions))]
compile_error!("the feature `attack-trigger` is for tests: build without it, or without --release");

/// `ROLE:ATTEMPT`, in the supervisor's environment and handed on to its roles.
pub(crate) const VARIABLE: &str = "FASTNESS_ATTACK";

/// Process id of the supervisor, for its roles: asking for it would be a call too.
pub(crate) const PARENT: &str = "FASTNESS_ATTACK_PARENT";

/// Makes the attempt, if it is this role that was told to, and writes what came of it.
pub(crate) fn begin(role: Role) {
    let Ok(told) = std::env::var(VARIABLE) else {
        return;
    };
    let Some(name) = told
        .strip_prefix(role.name())
        .and_then(|rest| rest.strip_prefix(':'))
    else {
        return;
    };
    // The supervisor attests us meanwhile. A pause that every profile allows.
    std::thread::park_timeout(std::time::Duration::from_millis(100));
    let parent = std::env::var(PARENT).ok().and_then(|pid| pid.parse().ok());
    let outcome = match fastness_attack::attempt(
        name,
        parent.unwrap_or_else(std::os::unix::process::parent_id),
    ) {
        Ok(returned) => format!("it returned {returned}"),
        Err(errno) => format!("errno {errno}"),
    };
    let _ = telemetry::write_or_drop(format!("attack {name:?}: {outcome}\n").into_bytes());
}
