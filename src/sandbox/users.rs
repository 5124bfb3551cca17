//! The users that roles run as, and who may change to them.

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// A user and its primary group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// The user `name` of this system (passwd(5)).
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        match nix::unistd::User::from_name(name) {
            Ok(Some(user)) if user.uid.is_root() => {
                Err("root may do what a role may not".to_owned())
            }
            Ok(Some(user)) => Ok(Self {
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
            }),
            Ok(None) => Err(format!("no user is called {name:?}")),
            Err(error) => Err(format!("the user {name:?} cannot be looked up: {error}")),
        }
    }
}

/// What a supervisor keeps when its roles have users of their own: to start them, and to end them.
pub(super) fn rights() -> CapabilitySet {
    CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL
}

/// Whether this process may give its roles users of their own.
pub(crate) fn may_change_users() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|held| held.effective.contains(rights()))
}

/// Why `fastness run` cannot give its roles users of their own, when it cannot.
pub(super) fn missing() -> Option<Fault> {
    (!may_change_users()).then(|| {
        Fault::new(
            "sandbox.node_user",
            "this process may not start roles as other users",
            "start it as root or with CAP_SETUID, CAP_SETGID and CAP_KILL (hsm-setup/systemd/users.conf), or leave `user` and `node_user` out",
        )
    })
}
