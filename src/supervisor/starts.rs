//! How a role is started: from our own binary, with these arguments and these variables. What they are stands in
//! memory that a sealed supervisor cannot change, and its system call filter knows the addresses: it takes no other
//! execve(2) (policies/seccomp/*/supervisor.json). SECURITY.md says how far that goes.

use std::ffi::CString;
use std::io;
use std::sync::OnceLock;

use fastness_secret_page::{Start, Starts};
use tokio::process::Command;

use super::resolver;
use crate::fault::{Fault, chain};
use crate::sandbox;

/// The role a process plays; its hidden command on our own command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Keeper,
    Node,
    Resolver,
}

impl Role {
    /// In the order in which their starts are settled.
    const ALL: [Self; 3] = [Self::Keeper, Self::Node, Self::Resolver];

    /// The argument that starts our binary in this role.
    pub(crate) const fn argument(self) -> &'static str {
        match self {
            Self::Keeper => "role-keeper",
            Self::Node => "role-node",
            Self::Resolver => "role-resolver",
        }
    }

    /// The variables that the C library has to find when the process begins. Those of a module come with the
    /// keeper's setup.
    fn environment(self) -> Option<String> {
        match self {
            Self::Keeper => None,
            Self::Node => Some(sandbox::allocator::pinned()),
            Self::Resolver => Some(resolver::OPTIONS.to_owned()),
        }
    }

    fn start(self) -> io::Result<Start> {
        let texts = ["fastness", self.argument()].map(CString::new);
        Ok(Start {
            program: c"/proc/self/exe".to_owned(),
            arguments: texts.into_iter().collect::<Result<_, _>>()?,
            environment: self
                .environment()
                .map(CString::new)
                .into_iter()
                .collect::<Result<_, _>>()?,
        })
    }

    /// A command that starts our binary in this role.
    pub(super) fn command(self) -> io::Result<Command> {
        let starts = settled().map_err(|error| io::Error::other(error.to_string()))?;
        let mut command = Command::new("/proc/self/exe");
        starts.instead_of(command.as_std_mut(), self as usize);
        Ok(command)
    }
}

/// Settles how roles are started, once a process: before it is sealed.
fn settled() -> Result<&'static Starts, &'static io::Error> {
    static STARTS: OnceLock<io::Result<Starts>> = OnceLock::new();
    let settle = || {
        let starts: Vec<Start> = Role::ALL
            .into_iter()
            .map(Role::start)
            .collect::<io::Result<_>>()?;
        Starts::settle(&starts)
    };
    STARTS.get_or_init(settle).as_ref()
}

/// Settles how roles are started, in a process that is to be sealed.
pub(super) fn settle() -> Result<(), Fault> {
    match settled() {
        Ok(_) => Ok(()),
        Err(error) => Err(Fault::new(
            "sandbox",
            format!(
                "how roles are started cannot be put beyond change: {}",
                chain(error)
            ),
            format!(
                "fastness needs {}, and no filter around it that refuses these calls",
                sandbox::NEEDS
            ),
        )),
    }
}

/// The arguments of each execve(2) that starts a role: addresses of a path, arguments and variables.
pub(crate) fn addresses() -> impl Iterator<Item = [usize; 3]> {
    (0..Role::ALL.len()).map(Starts::addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_supervisors_profiles_know_the_addresses_of_each_start_and_no_other() {
        for profile in [
            include_str!("../../policies/seccomp/x86_64/supervisor.json"),
            include_str!("../../policies/seccomp/aarch64/supervisor.json"),
        ] {
            let profile: serde_json::Value = serde_json::from_str(profile).unwrap();
            let rules = profile["supervisor"]["filter"].as_array().unwrap();
            let of_execve = rules.iter().filter(|rule| rule["syscall"] == "execve");
            let known: Vec<Vec<(u64, u64)>> = of_execve
                .map(|rule| {
                    let conditions = rule["args"].as_array().unwrap().iter();
                    conditions
                        .map(|condition| {
                            assert_eq!(condition["op"], "eq");
                            assert_eq!(condition["type"], "qword");
                            let number = |key: &str| condition[key].as_u64().unwrap();
                            (number("index"), number("val"))
                        })
                        .collect()
                })
                .collect();
            let expected: Vec<Vec<(u64, u64)>> = addresses()
                .map(|start| (0..).zip(start.map(|it| it as u64)).collect())
                .collect();
            assert_eq!(known, expected);
            assert!(rules.iter().all(|rule| rule["syscall"] != "execveat"));
        }
    }

    #[test]
    fn each_role_has_its_start() {
        for (number, role) in Role::ALL.into_iter().enumerate() {
            assert_eq!(role as usize, number);
            assert_eq!(
                role.start().unwrap().arguments[1].to_str(),
                Ok(role.argument())
            );
        }
    }
}
