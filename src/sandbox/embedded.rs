//! The profiles that are part of the binary.

use super::Role;
use super::profile::{Profile, ProfileError};

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

const ALL: [Embedded; 8] = embedded! {
    "x86_64": "supervisor" for Supervisor, "keeper" for Keeper, "keeper-softhsm" for Keeper, "node" for Node;
    "aarch64": "supervisor" for Supervisor, "keeper" for Keeper, "keeper-softhsm" for Keeper, "node" for Node;
};

impl Profile {
    /// The supervisor's.
    pub(crate) fn supervisor() -> Result<Self, ProfileError> {
        Self::embedded("supervisor")
    }

    /// The node's.
    pub(crate) fn node() -> Result<Self, ProfileError> {
        Self::embedded("node")
    }

    /// A keeper's, by what its token says of its maker (CK_TOKEN_INFO `manufacturerID`). A token that
    /// lies gets a profile that is too narrow for its module, and its keeper is killed.
    pub(crate) fn keeper(manufacturer: &str) -> Result<Self, ProfileError> {
        Self::embedded(match manufacturer {
            "SoftHSM project" => "keeper-softhsm",
            _ => "keeper",
        })
    }

    fn embedded(name: &'static str) -> Result<Self, ProfileError> {
        let arch = std::env::consts::ARCH;
        let found = ALL.iter().find(|one| one.name == name && one.arch == arch);
        let found = found.ok_or_else(|| ProfileError::missing(name, arch))?;
        Self::parse(found.name, found.role, found.arch, found.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_of_every_machine_is_sound() {
        for one in &ALL {
            let profile = Profile::parse(one.name, one.role, one.arch, one.text).unwrap();
            assert!(!profile.filters.is_empty());
        }
    }

    #[test]
    fn the_sealed_roles_stay_as_narrow_as_they_were_measured() {
        assert!(Profile::node().unwrap().allowed.len() <= 36);
        assert!(Profile::keeper("SoftHSM project").unwrap().allowed.len() <= 28);
        assert_eq!(Profile::keeper("another").unwrap().name, "keeper");
    }

    #[test]
    fn a_faulty_profile_is_refused_with_its_fault() {
        let good = ALL[3].text;
        let refused = |text: &str, fault: &str| {
            let error = Profile::parse("node", Role::Node, "x86_64", text)
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
        refused(
            &with(r#"{"calls": ["recvmsg"], "answer": "EPREM", "why": "x"},"#),
            "unknown answer",
        );
        refused(&with(r#"{"calls": [], "why": "x"},"#), "names no call");
        refused(&good.replacen("kill_process", "allow", 1), "default");
        refused(&good.replacen("\"node\"", "\"keeper\"", 1), "role");
        refused(ALL[7].text, "aarch64");
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
