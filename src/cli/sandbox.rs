//! `fastness sandbox`: what each role may do, from the profiles that are part of this binary.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::{Failure, Format, output};
use crate::config::Config;
use crate::fault::{Fault, chain};
use crate::sandbox::{NEEDS, Profile, ProfileError, Role, Walls};

/// `fastness sandbox …`
#[derive(Debug, clap::Subcommand)]
pub(super) enum SandboxCommand {
    /// Show what each role of a node may do: system calls, Landlock, digests of the profiles.
    ///
    /// With a configuration, for its tokens. `fastness status` shows what the running processes really
    /// are.
    Show(ShowArgs),
}

/// Whose roles.
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The node's configuration.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What SoftHSM's tokens say of their maker.
const SOFTHSM: &str = "SoftHSM project";

/// What one role may do.
#[derive(Debug, Serialize)]
struct Shown {
    role: &'static str,
    /// Its token, for a keeper.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    profile: &'static str,
    allowed: Vec<String>,
    argument_checked: Vec<String>,
    /// Calls that fail with an error; any other call ends the process.
    answered: BTreeMap<String, String>,
    landlock: String,
    sha256: String,
}

impl Shown {
    fn new(role: Role, token: Option<String>, profile: Profile, walls: &Walls) -> Self {
        Self {
            role: role.name(),
            token,
            profile: profile.name,
            allowed: profile.allowed.into_iter().collect(),
            argument_checked: profile.argument_checked.into_iter().collect(),
            answered: profile.answered,
            landlock: walls.to_string(),
            sha256: profile.sha256,
        }
    }

    fn describe(&self) -> String {
        let of = self
            .token
            .as_ref()
            .map_or(String::new(), |token| format!(" of {token}"));
        let star = |call: &String| {
            if self.argument_checked.contains(call) {
                format!("{call}*")
            } else {
                call.clone()
            }
        };
        let allowed: Vec<_> = self.allowed.iter().map(star).collect();
        let answered: Vec<_> = self
            .answered
            .iter()
            .map(|(call, error)| format!("{call} ({error})"))
            .collect();
        [
            format!(
                "{}{of}: profile {}, SHA-256 {}",
                self.role, self.profile, self.sha256
            ),
            format!(
                "  {} system calls, {} with checked arguments (*):",
                allowed.len(),
                self.argument_checked.len()
            ),
            format!("    {}", allowed.join(" ")),
            format!("  refused with an error: {}", answered.join(", ")),
            "  any other ends the process".to_owned(),
            format!("  Landlock: {}", self.landlock),
        ]
        .join("\n")
    }
}

pub(super) fn run(command: &SandboxCommand, format: Format) -> Result<(), Failure> {
    let SandboxCommand::Show(args) = command;
    let config = args.config.as_deref().map(Config::load).transpose();
    let config = config.map_err(|faults| Failure::faults("mend the faults above", faults))?;
    let shown = roles(config.as_ref()).map_err(|error| {
        Failure::faults(
            "this binary cannot confine",
            vec![Fault::new("sandbox", chain(&*error), "")],
        )
    })?;
    if format == Format::Json {
        return output::json(&serde_json::json!({ "roles": shown }));
    }
    let mut text: Vec<String> = shown.iter().map(Shown::describe).collect();
    text.push(format!("needs {NEEDS}"));
    output::text(&text.join("\n\n"))
}

fn roles(config: Option<&Config>) -> Result<Vec<Shown>, Box<dyn std::error::Error>> {
    let programs = Walls::own_program()?;
    let mut shown = vec![Shown::new(
        Role::Supervisor,
        None,
        Profile::supervisor()?,
        &programs,
    )];
    match config {
        Some(config) => {
            for token in &config.tokens {
                // A keeper asks its token who made it. Here nobody logs in: the module's name must do.
                let name = token
                    .module
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy();
                let maker = if name.contains("softhsm") {
                    SOFTHSM
                } else {
                    ""
                };
                let environment = |name: &str| token.environment.get(name).map(PathBuf::from);
                shown.push(keeper(maker, Some(token.uri.to_string()), environment)?);
            }
        }
        None => {
            for maker in [SOFTHSM, ""] {
                shown.push(keeper(maker, None, |_| None)?);
            }
        }
    }
    shown.push(Shown::new(
        Role::Node,
        None,
        Profile::node()?,
        &Walls::Nothing,
    ));
    Ok(shown)
}

fn keeper(
    maker: &str,
    token: Option<String>,
    environment: impl Fn(&str) -> Option<PathBuf>,
) -> Result<Shown, ProfileError> {
    let profile = Profile::keeper(maker)?;
    let walls = Walls::of_module(profile.name, environment);
    Ok(Shown::new(Role::Keeper, token, profile, &walls))
}
