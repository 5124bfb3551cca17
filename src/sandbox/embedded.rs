//! The profiles that are part of the binary.

use std::env::consts::ARCH;

use serde::{Deserialize, Serialize};

use super::Role;
use super::profile::{Profile, ProfileError, sha256};
use super::rules::Given;
use super::users::User;

/// One profile's file for one kind of machine.
struct Embedded {
    name: &'static str,
    role: Role,
    arch: &'static str,
    text: &'static str,
}

macro_rules! embedded {
    ($($arch:literal: $($name:literal for $role:ident),*;)*) => {
        [$($(Embedded {
            name: $name,
            role: Role::$role,
            arch: $arch,
            text: include_str!(concat!("../../policies/seccomp/", $arch, "/", $name, ".json")),
        },)*)*]
    };
}

const ALL: [Embedded; 10] = embedded! {
    "x86_64": "supervisor" for Supervisor, "keeper" for Keeper, "keeper-softhsm" for Keeper, "keeper-kryoptic" for Keeper, "node" for Node;
    "aarch64": "supervisor" for Supervisor, "keeper" for Keeper, "keeper-softhsm" for Keeper, "keeper-kryoptic" for Keeper, "node" for Node;
};

/// What tokens say of their maker (CK_TOKEN_INFO `manufacturerID`).
const SOFTHSM: &str = "SoftHSM project";
const KRYOPTIC: &str = "Kryoptic Project";

/// A profile in a file of the administrator's, in the place of the one that is part of the binary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnProfile {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl OwnProfile {
    /// What is wrong with it as the profile of `role` on this machine.
    pub(crate) fn check(&self, role: Role) -> Result<(), ProfileError> {
        self.profile(role, &Given::default()).map(drop)
    }

    /// Digest of the file, hexadecimal.
    pub(crate) fn sha256(&self) -> String {
        sha256(&self.text)
    }

    fn profile(&self, role: Role, given: &Given) -> Result<Profile, ProfileError> {
        Profile::parse(&self.path, role, ARCH, &self.text, given)
    }
}

/// A keeper's token, by what it says of its maker (CK_TOKEN_INFO `manufacturerID`). One that lies gets
/// a profile that is too narrow for its module, and its keeper is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    SoftHsm,
    Kryoptic,
    /// Modules with sockets or threads of their own, and all that we have not tried.
    Other,
}

impl Maker {
    /// Each of them.
    pub(crate) const ALL: [Self; 3] = [Self::SoftHsm, Self::Kryoptic, Self::Other];

    pub(crate) fn of(manufacturer: &str) -> Self {
        match manufacturer {
            SOFTHSM => Self::SoftHsm,
            KRYOPTIC => Self::Kryoptic,
            _ => Self::Other,
        }
    }

    fn profile(self) -> &'static str {
        match self {
            Self::SoftHsm => "keeper-softhsm",
            Self::Kryoptic => "keeper-kryoptic",
            Self::Other => "keeper",
        }
    }
}

impl Profile {
    /// The supervisor's; it may start roles as `users`.
    pub(crate) fn supervisor(
        own: Option<&OwnProfile>,
        users: &[User],
    ) -> Result<Self, ProfileError> {
        let given = Given {
            users: users.to_vec(),
            ..Given::default()
        };
        Self::chosen("supervisor", Role::Supervisor, own, &given)
    }

    /// The node's; only beside an `application` does it open unix sockets.
    pub(crate) fn node(own: Option<&OwnProfile>, application: bool) -> Result<Self, ProfileError> {
        let given = Given {
            application,
            ..Given::default()
        };
        Self::chosen("node", Role::Node, own, &given)
    }

    /// A keeper's.
    pub(crate) fn keeper(maker: Maker, own: Option<&OwnProfile>) -> Result<Self, ProfileError> {
        Self::chosen(maker.profile(), Role::Keeper, own, &Given::default())
    }

    fn chosen(
        name: &str,
        role: Role,
        own: Option<&OwnProfile>,
        given: &Given,
    ) -> Result<Self, ProfileError> {
        if let Some(own) = own {
            return own.profile(role, given);
        }
        let found = ALL.iter().find(|one| one.name == name && one.arch == ARCH);
        let found = found.ok_or_else(|| ProfileError::missing(name, ARCH))?;
        Self::parse(found.name, found.role, found.arch, found.text, given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every rule is there.
    fn everything() -> Given {
        Given {
            users: vec![User { uid: 1, gid: 1 }],
            application: true,
        }
    }

    #[test]
    fn a_node_without_an_application_has_fewer_rules() {
        let rules = |application| Profile::node(None, application).unwrap().rules.len();
        assert_eq!(rules(true), rules(false) + 2);
    }

    #[test]
    fn every_profile_of_every_machine_is_sound() {
        for one in &ALL {
            let profile =
                Profile::parse(one.name, one.role, one.arch, one.text, &everything()).unwrap();
            assert!(!profile.filter().is_empty());
        }
    }

    #[test]
    fn the_sealed_roles_stay_as_narrow_as_they_were_measured() {
        assert!(Profile::node(None, true).unwrap().allowed().len() <= 36);
        for (manufacturer, name, most) in [
            ("SoftHSM project", "keeper-softhsm", 28),
            ("Kryoptic Project", "keeper-kryoptic", 26),
            ("another", "keeper", 104),
        ] {
            let profile = Profile::keeper(Maker::of(manufacturer), None).unwrap();
            assert_eq!(profile.name, name);
            assert!(profile.allowed().len() <= most, "{name}");
        }
    }

    /// A role's filter is stacked on the supervisor's, which it was started under.
    #[test]
    fn no_rule_of_a_role_is_dead_because_the_supervisors_kills_first() {
        for one in &ALL {
            let profile =
                Profile::parse(one.name, one.role, one.arch, one.text, &everything()).unwrap();
            let above = ALL
                .iter()
                .find(|above| above.role == Role::Supervisor && above.arch == one.arch)
                .unwrap();
            let above = Profile::parse(
                above.name,
                above.role,
                above.arch,
                above.text,
                &everything(),
            )
            .unwrap();
            let dead: Vec<_> = profile
                .allowed()
                .into_iter()
                .filter(|call| !above.allowed().contains(call))
                .collect();
            assert!(dead.is_empty(), "{} for {}: {dead:?}", one.name, one.arch);
        }
    }

    #[test]
    fn a_profile_of_any_role_that_allows_what_none_needs_is_refused() {
        for (name, role, calls) in [
            (
                "supervisor",
                Role::Supervisor,
                &["ptrace", "mount", "init_module", "setns"][..],
            ),
            (
                "keeper",
                Role::Keeper,
                &["reboot", "setreuid", "tkill", "mknod", "bind"],
            ),
        ] {
            let good = ALL
                .iter()
                .find(|one| one.name == name && one.arch == "x86_64");
            let good = good.unwrap().text;
            for call in calls {
                let rule = format!(r#""rules": [{{"calls": ["{call}"], "why": "x"}},"#);
                let bad = good.replacen("\"rules\": [", &rule, 1);
                assert_ne!(bad, good);
                let error = Profile::parse(name, role, "x86_64", &bad, &everything()).unwrap_err();
                let expected = format!("{call} is never allowed in a {name}");
                assert!(error.to_string().contains(&expected), "{error}");
            }
        }
    }

    #[test]
    fn a_faulty_profile_is_refused_with_its_fault() {
        let text = |arch| {
            let node = ALL
                .iter()
                .find(|one| one.name == "node" && one.arch == arch);
            node.unwrap().text
        };
        let good = text("x86_64");
        let refused = |text: &str, fault: &str| {
            let error = Profile::parse("node", Role::Node, "x86_64", text, &everything())
                .unwrap_err()
                .to_string();
            assert!(error.contains(fault), "{error}");
        };
        let rule = r#"{"calls": ["recvfrom"], "why":"#;
        let with = |rules: &str| good.replacen(rule, &format!("{rules}\n{rule}"), 1);
        assert!(good.contains(rule));
        let empty =
            r#"{"role":"node","arch":"x86_64","run":"x","default":"kill_process","rules":[]}"#;
        refused(empty, "allows nothing");
        refused(
            &with(r#"{"calls": ["recvform"], "why": "typing"},"#),
            "recvform",
        );
        refused(&with(r#"{"calls": ["recvmsg"], "why": " "},"#), "no reason");
        refused(&with(r#"{"calls": ["recvmsg"]},"#), "no reason");
        refused(
            &with(r#"{"calls": ["mmap"], "why": "all of it"},"#),
            "beside one with",
        );
        refused(
            &with(r#"{"calls": ["recvmsg"], "args": [], "why": "x"},"#),
            "empty list",
        );
        let condition = r#"{"index": 0, "type": "dword", "op": "eq", "val": 1}"#;
        refused(
            &with(&format!(
                r#"{{"calls": ["recvmsg"], "args": [{condition}], "why": "x"}},"#
            )),
            "means",
        );
        refused(
            &with(r#"{"calls": ["recvmsg"], "why": "x"}, {"calls": ["recvmsg"], "why": "y"},"#),
            "two rules",
        );
        refused(
            &with(r#"{"calls": ["execve"], "why": "x"},"#),
            "never allowed",
        );
        for call in ["open", "clone", "sendmsg", "recvmsg", "prctl"] {
            refused(
                &with(&format!(r#"{{"calls": ["{call}"], "why": "x"}},"#)),
                &format!("{call} is never allowed in a node"),
            );
        }
        let args = r#""args": [
      {"index": 2, "type": "dword", "op": {"masked_eq": 4}, "val": 0, "means": "without PROT_EXEC"}
     ], "#;
        assert!(good.contains(args));
        refused(
            &good.replacen(args, "", 1),
            "mprotect is never allowed without conditions in a node",
        );
        refused(
            &with(r#"{"calls": ["getuid", "geteuid"], "why": "x"},"#),
            "37 calls: a node has at most 36",
        );
        refused(
            &with(r#"{"calls": ["recvmsg"], "answer": "EPREM", "why": "x"},"#),
            "unknown answer",
        );
        refused(&with(r#"{"calls": [], "why": "x"},"#), "names no call");
        refused(&good.replacen("kill_process", "allow", 1), "default");
        refused(&good.replacen("\"node\"", "\"keeper\"", 1), "role");
        refused(text("aarch64"), "aarch64");
        refused(
            &with(r#"{"calls": ["recvmsg"], "why": "x", "untried": " "},"#),
            "no reason",
        );
        refused("{", "EOF");
        refused(&good.replacen("\"why\"", "\"reason\"", 1), "unknown field");
        let index = r#"[{"index": 7, "type": "dword", "op": "eq", "val": 1, "means": "x"}]"#;
        refused(
            &with(&format!(
                r#"{{"calls": ["recvmsg"], "args": {index}, "why": "x"}},"#
            )),
            "argument",
        );
    }
}
