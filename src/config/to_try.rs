//! What `fastness check` tries of a configuration that has faults.

use std::collections::BTreeSet;

use super::Config;
use crate::fault::Fault;

/// What may be faulty of a token that is tried all the same: another key, or a number that has a default.
const HARMLESS: [&str; 8] = [
    "server",
    "server.key",
    "server.certificate",
    "client",
    "client.key",
    "client.certificate",
    "sessions",
    "probe_ms",
];
/// What may be faulty in `[sandbox]` while tokens are tried: it is of other roles.
const OF_OTHERS: [&str; 4] = [
    "node_user",
    "node_profile",
    "dial_ports",
    "resolver_profile",
];
/// What says of keepers how they are confined, should it stand in a wrong place.
const MISPLACED: [&str; 5] = [
    "user",
    "profile",
    "node_user",
    "resolver_user",
    "supervisor_profile",
];

/// What can be tried of a configuration that has faults.
pub(crate) struct ToTry {
    pub(crate) config: Config,
    /// The tokens that are left out: `token[0]`.
    pub(crate) untried: BTreeSet<String>,
}

impl Config {
    /// Without the tokens whose faults would bring about others: a keeper is started as the user, with the PIN,
    /// the module and the profiles that somebody named, or not at all.
    pub(super) fn that_can_be_tried(mut self, faults: &[Fault]) -> ToTry {
        let mut untried: BTreeSet<String> = faults.iter().filter_map(token_at_fault).collect();
        if faults.iter().any(confines_keepers) {
            untried.extend(self.tokens.iter().map(|token| token.place.clone()));
            // We confine ourselves by what is trusted.
            self.profile = None;
        }
        self.tokens.retain(|token| !untried.contains(&token.place));
        // The resolver has a user and a profile of its own.
        if faults.iter().any(|fault| fault.key.starts_with("sandbox")) {
            self.hosts.clear();
        }
        ToTry {
            config: self,
            untried,
        }
    }
}

/// The token that `fault` keeps from being opened.
fn token_at_fault(fault: &Fault) -> Option<String> {
    let (place, inside) = fault.key.split_once('.')?;
    (place.starts_with("token[") && !HARMLESS.contains(&inside)).then(|| place.to_owned())
}

/// Whether `fault` leaves it open how keepers are confined.
fn confines_keepers(fault: &Fault) -> bool {
    if let Some(inside) = fault.key.strip_prefix("sandbox") {
        let name = inside.trim_start_matches('.').split('[').next();
        return !name.is_some_and(|name| OF_OTHERS.contains(&name));
    }
    let name = fault.key.rsplit('.').next();
    !fault.key.starts_with("token[") && name.is_some_and(|name| MISPLACED.contains(&name))
}
