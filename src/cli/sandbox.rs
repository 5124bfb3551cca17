//! `fastness sandbox show`: what each role may do once it is sealed, for operators and auditors.

use serde::Serialize;

use super::{Exit, Failure, Format, output};
use crate::fault::chain;
use crate::sandbox::{Profile, ProfileError};

/// What to do about the confinement. There is no command that turns it off.
#[derive(Debug, clap::Subcommand)]
pub(super) enum SandboxCommand {
    /// Show the seccomp profile of each role, as compiled into this binary.
    ///
    /// Every other system call kills the process. What a running node's processes really are, Landlock
    /// included, is read back from /proc by `fastness status`.
    Show,
}

#[derive(Debug, Serialize)]
struct Shown {
    roles: Vec<Role>,
}

#[derive(Debug, Serialize)]
struct Role {
    role: &'static str,
    profile: &'static str,
    allowed: Vec<String>,
    argument_checked: Vec<String>,
    /// Calls that fail with this error and do nothing.
    answered: std::collections::BTreeMap<String, String>,
    landlock: &'static str,
    sha256: String,
}

/// Runs one command.
pub(super) fn run(command: &SandboxCommand, format: Format) -> Result<(), Failure> {
    let SandboxCommand::Show = command;
    let shown = show().map_err(|error| Failure::new(Exit::Failed, chain(&error)))?;
    if format == Format::Json {
        return output::json(&shown);
    }
    let mut lines = Vec::new();
    for role in &shown.roles {
        lines.push(format!(
            "{} (profile {}, sha256 {})\n  {} system calls allowed, {} of them with checked arguments; Landlock: {}",
            role.role,
            role.profile,
            role.sha256,
            role.allowed.len(),
            role.argument_checked.len(),
            role.landlock
        ));
        lines.push(format!("  allowed   {}", role.allowed.join(" ")));
        lines.push(format!("  checked   {}", role.argument_checked.join(" ")));
        let answered = role
            .answered
            .iter()
            .map(|(call, error)| format!("{call}={error}"));
        lines.push(format!(
            "  answered  {}",
            answered.collect::<Vec<_>>().join(" ")
        ));
    }
    output::text(&lines.join("\n"))
}

fn show() -> Result<Shown, ProfileError> {
    let token = "reads the token's files, writes and runs nothing, binds no TCP port";
    let roles = [
        (
            "supervisor",
            Profile::supervisor()?,
            "runs only its own binary, binds no TCP port once sealed",
        ),
        ("keeper", Profile::keeper("SoftHSM project")?, token),
        (
            "keeper",
            Profile::keeper("")?,
            "reads any file, writes and runs nothing, binds no TCP port",
        ),
        ("node", Profile::node()?, "no files, binds no TCP port"),
    ];
    let roles = roles.into_iter().map(|(role, profile, landlock)| Role {
        role,
        profile: profile.name,
        allowed: profile.allowed.into_iter().collect(),
        argument_checked: profile.argument_checked.into_iter().collect(),
        answered: profile.answered,
        landlock,
        sha256: profile.sha256,
    });
    Ok(Shown {
        roles: roles.collect(),
    })
}
