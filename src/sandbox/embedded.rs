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

const ALL: [Embedded; 12] = embedded! {
    "x86_64": "supervisor" for Supervisor, "keeper" for Keeper, "keeper-softhsm" for Keeper, "keeper-kryoptic" for Keeper, "node" for Node, "resolver" for Resolver;
    "aarch64": "supervisor" for Supervisor, "keeper" for Keeper, "keeper-softhsm" for Keeper, "keeper-kryoptic" for Keeper, "node" for Node, "resolver" for Resolver;
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

    /// The resolver's.
    pub(crate) fn resolver(own: Option<&OwnProfile>) -> Result<Self, ProfileError> {
        Self::chosen("resolver", Role::Resolver, own, &Given::default())
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
pub(super) mod tests {
    use super::*;

    /// Every rule is there.
    pub(in crate::sandbox) fn everything() -> Given {
        Given {
            users: vec![User { uid: 1, gid: 1 }],
            application: true,
        }
    }

    /// Every profile, and for which kind of machine it is.
    pub(in crate::sandbox) fn all() -> Vec<(&'static str, Profile)> {
        let parse = |one: &Embedded| {
            Profile::parse(one.name, one.role, one.arch, one.text, &everything()).unwrap()
        };
        ALL.iter().map(|one| (one.arch, parse(one))).collect()
    }

    /// The file of a profile.
    pub(in crate::sandbox) fn text(name: &str, arch: &str) -> &'static str {
        let mut all = ALL.iter();
        let found = all.find(|one| one.name == name && one.arch == arch);
        found.unwrap().text
    }

    #[test]
    fn a_node_without_an_application_has_fewer_rules() {
        let rules = |application| {
            Profile::node(None, application)
                .unwrap()
                .rules
                .allowed
                .len()
        };
        assert_eq!(rules(true), rules(false) + 2);
    }

    #[test]
    fn a_supervisor_has_rules_for_each_user_once() {
        let user = |uid, gid| User { uid, gid };
        let rules = |users: &[User]| {
            Profile::supervisor(None, users)
                .unwrap()
                .rules
                .allowed
                .len()
        };
        let none = rules(&[]);
        assert_eq!(rules(&[user(2, 1)]), none + 3);
        // Two users of one group, one of them twice; no group is no group for each.
        assert_eq!(rules(&[user(2, 1), user(3, 1), user(2, 1)]), none + 4);
    }

    #[test]
    fn every_profile_of_every_machine_is_sound() {
        for (_, profile) in all() {
            assert!(!profile.filter().is_empty());
        }
    }

    /// Whoever reviews one needs nothing of ours: each filter compiles under the name that it has.
    #[test]
    fn every_file_as_it_is_goes_through_seccompiler() {
        for one in &ALL {
            let arch = one.arch.try_into().unwrap();
            let filters = seccompiler::compile_from_json(one.text.as_bytes(), arch).unwrap();
            let profile = Profile::parse(one.name, one.role, one.arch, one.text, &Given::default());
            let filter = profile.unwrap().filter();
            assert!(filter.ends_with(&filters[one.role.name()]), "{}", one.name);
        }
    }

    #[test]
    fn the_sealed_roles_stay_as_narrow_as_they_were_measured() {
        assert!(Profile::node(None, true).unwrap().allowed().len() <= 36);
        assert!(Profile::resolver(None).unwrap().allowed().len() <= 41);
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
        let all = all();
        for (arch, profile) in &all {
            let mut above = all.iter();
            let above = above.find(|(of, above)| of == arch && above.name == "supervisor");
            let above = above.unwrap().1.allowed();
            let allowed = profile.allowed().into_iter();
            let dead: Vec<_> = allowed.filter(|call| !above.contains(call)).collect();
            assert!(dead.is_empty(), "{} for {arch}: {dead:?}", profile.name);
        }
    }
}
