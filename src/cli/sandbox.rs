//! `fastness sandbox`: what each role may do, from the profiles in force, and what the running
//! processes are; and what a module needs.

mod learn;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::admin::{SocketArgs, ask_status};
use super::{Exit, Failure, Format, output};
use crate::config::Config;
use crate::fault::{Fault, chain};
use crate::rpc::admin::Attestation;
use crate::sandbox::{
    Evidence, Maker, NEEDS, Profile, ProfileError, Reach, Role, Rule, User, Walls,
};

/// `fastness sandbox …`
#[derive(Debug, clap::Subcommand)]
pub(super) enum SandboxCommand {
    /// Show what each role of a node may do: system calls, Landlock, digests of the profiles, users.
    ///
    /// With a configuration, whose PINs and certificates are not looked at: for its tokens, its users and its own
    /// profiles (`profile` in [[token]], `node_profile`, `resolver_profile` and `supervisor_profile` in [sandbox]); and when its node
    /// runs, what each process really is, read from /proc for this answer.
    ///
    /// In JSON: `roles[]` with `role`, `token`, `profile`, `run` (what has run under it), `sha256`, `allowed`,
    /// `argument_checked`, `answered`, `rules` (as in the profile, with the `answer`, and `untried`: why it is
    /// there though no test uses it), `landlock` (with `connect_tcp`, its ports), `uid`, and of a running one
    /// `pid`, `threads`, `filters`, `mismatches`; `running` says whether a node answered, and `unseen` why none did.
    Show(ShowArgs),
    /// Learn which system calls a module makes, and write a draft of a profile for its keeper.
    ///
    /// For a module that none of our profiles fits. A process made for this alone does what the
    /// token's keeper does: it loads the module, logs in (the PIN is tried once), checks every key, raises
    /// Landlock (before, name as `files` what the module opens again, and as `ports` where it connects to); where
    /// a keeper seals, this command starts to see its calls, one by one and with their arguments. Then it signs
    /// with each key and mechanism, probes, opens sessions anew and ends. A running node is neither needed nor
    /// touched, and cannot be made to do this.
    ///
    /// A call that no keeper may ever make (execve, fork, ptrace, bind …) is not made: the process ends,
    /// and there is no draft. What today's profile answers with an error is answered so here too, and stays
    /// in the draft. What the module did before the seal, and what it would do after an error, a lost
    /// connection, a change to its token by others, or days, is not seen.
    ///
    /// The draft has our keeper's own rules and one for each call of the module, without its reason.
    /// `fastness check` refuses it until somebody has written each, and what each argument means ("comment").
    ///
    /// In JSON: `draft`, `token`, `module`, `manufacturer`, `model`, `signatures`, `sessions_opened`,
    /// `calls[]` with `call`, `arguments`, `times`, `standing` (ours, known, new), `supervisor_lacks_it`;
    /// `rules_without_reason`.
    #[command(after_help = "\
Example:
  fastness sandbox learn --config node.toml --out keeper-vendor.json
  $EDITOR keeper-vendor.json        # a reason for each rule
  profile = \"keeper-vendor.json\"   # in [[token]] of node.toml
  fastness check --config node.toml")]
    Learn(learn::LearnArgs),
}

/// Whose roles.
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The node's configuration.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What one role may do.
#[derive(Debug, Serialize)]
struct Shown {
    role: &'static str,
    /// Its token, for a keeper.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    profile: String,
    /// What has run under it; nobody knows that of an administrator's own.
    run: Option<String>,
    sha256: String,
    allowed: Vec<String>,
    argument_checked: Vec<String>,
    /// Calls that fail with an error; any other call ends the process.
    answered: BTreeMap<String, String>,
    rules: Vec<ShownRule>,
    landlock: Reach,
    /// The user that it runs as; `null`: that of whoever starts the node.
    uid: Option<u32>,
    #[serde(flatten)]
    running: Option<Running>,
}

/// One rule of its profile.
#[derive(Debug, Serialize)]
struct ShownRule {
    #[serde(flatten)]
    rule: Rule,
    /// The call fails with this error.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'static str>,
    /// Why it is there although no test uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    untried: Option<String>,
}

/// What its process is.
#[derive(Debug, Serialize)]
struct Running {
    pid: u32,
    threads: u32,
    /// Filters on each of them, those of its parents included.
    filters: u32,
    /// What is not as it must be; empty is good.
    mismatches: Vec<String>,
}

impl Shown {
    fn new(
        role: Role,
        profile: Profile,
        walls: &Walls,
        user: Option<User>,
    ) -> Result<Self, serde_json::Error> {
        let evidence = Evidence::of(&profile.name)?;
        let owned = |calls: std::collections::BTreeSet<&str>| {
            calls.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let answered = profile.answered().into_iter();
        let shown = |rule: &Rule, answer| ShownRule {
            untried: evidence.untried(rule).map(str::to_owned),
            rule: rule.clone(),
            answer,
        };
        let rules = profile.rules.all();
        Ok(Self {
            role: role.name(),
            token: None,
            allowed: owned(profile.allowed()),
            argument_checked: owned(profile.argument_checked()),
            answered: answered
                .map(|(call, error)| (call.to_owned(), error.to_owned()))
                .collect(),
            landlock: walls.reach(),
            uid: user.map(|user| user.uid),
            running: None,
            run: evidence.run().map(str::to_owned),
            rules: rules.map(|(answer, rule)| shown(rule, answer)).collect(),
            profile: profile.name,
            sha256: profile.sha256,
        })
    }

    /// Whether `found` is its process.
    fn is(&self, found: &Attestation) -> bool {
        self.role == found.role && self.token.as_deref().unwrap_or_default() == found.token
    }

    /// Adds what the process is, which may be of another release or have read other files.
    fn seen(&mut self, found: &Attestation) {
        let mut mismatches = found.mismatches.clone();
        let mut same = |what: &str, declared: &str, found: &str| {
            if declared != found {
                mismatches.push(format!(
                    "its {what} is {found:?}; shown here is {declared:?}"
                ));
            }
        };
        same("profile", &self.sha256, &found.profile_sha256);
        same("Landlock", &self.landlock.summary, &found.landlock);
        self.uid = Some(found.uid);
        self.running = Some(Running {
            pid: found.pid,
            threads: found.tasks,
            filters: found.seccomp_filters,
            mismatches,
        });
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
        let user = match self.uid {
            Some(uid) => format!("uid {uid}"),
            None => "the user that starts the node".to_owned(),
        };
        let running = match &self.running {
            None => String::new(),
            Some(running) if running.mismatches.is_empty() => format!(
                "\n  process {}: {} threads, {} filters on each, confined as declared",
                running.pid, running.threads, running.filters
            ),
            Some(running) => format!(
                "\n  process {}: NOT AS DECLARED: {}",
                running.pid,
                running.mismatches.join("; ")
            ),
        };
        [
            format!(
                "{}{of}: profile {}, SHA-256 {}",
                self.role, self.profile, self.sha256
            ),
            format!(
                "  what has run under it: {}",
                self.run.as_deref().unwrap_or("known to whoever wrote it")
            ),
            format!(
                "  {} system calls, {} with checked arguments (*):",
                allowed.len(),
                self.argument_checked.len()
            ),
            format!("    {}", allowed.join(" ")),
            format!("  refused with an error: {}", answered.join(", ")),
            "  any other ends the process".to_owned(),
            format!("  Landlock: {}", self.landlock.summary),
            format!("  runs as {user}{running}"),
        ]
        .join("\n")
    }
}

pub(super) fn run(command: &SandboxCommand, format: Format) -> Result<(), Failure> {
    match command {
        SandboxCommand::Show(args) => show(args, format),
        SandboxCommand::Learn(args) => learn::run(args, format),
    }
}

fn show(args: &ShowArgs, format: Format) -> Result<(), Failure> {
    let config = args.config.as_deref().map(Config::load_to_show);
    let config = config.transpose();
    let config = config.map_err(|faults| Failure::faults("mend the faults above", faults))?;
    let asked = args
        .config
        .as_deref()
        .map(|config| ask_status(&SocketArgs::of(config)));
    let (found, unseen) = match asked {
        Some(Ok(status)) => (status.attestations, None),
        Some(Err(failure)) if failure.exit == Exit::NoNode => (Vec::new(), Some(failure.message)),
        Some(Err(failure)) => return Err(failure),
        None => (Vec::new(), None),
    };
    let mut shown = roles(config.as_ref(), &found).map_err(|error| {
        Failure::faults(
            "this binary cannot confine",
            vec![Fault::new("sandbox", chain(&*error), "")],
        )
    })?;
    for one in &mut shown {
        if let Some(found) = found.iter().find(|found| one.is(found)) {
            one.seen(found);
        }
    }
    let running = !found.is_empty();
    if format == Format::Json {
        let shown = serde_json::json!({ "running": running, "unseen": unseen, "roles": shown });
        return output::json(&shown);
    }
    let mut text: Vec<String> = shown.iter().map(Shown::describe).collect();
    text.push(format!("needs {NEEDS}"));
    text.extend(unseen.map(|why| format!("of no running node: {why}")));
    output::text(&text.join("\n\n"))
}

fn roles(
    config: Option<&Config>,
    found: &[Attestation],
) -> Result<Vec<Shown>, Box<dyn std::error::Error>> {
    let users = config.map(Config::users).unwrap_or_default();
    let own = config.and_then(|config| config.profile.as_ref());
    let supervisor = Profile::supervisor(own, &users)?;
    let walls = Walls::of_supervisor(config.map(Config::connects).unwrap_or_default())?;
    let mut shown = vec![Shown::new(Role::Supervisor, supervisor, &walls, None)?];
    match config {
        Some(config) => {
            for token in &config.tokens {
                let environment = |name: &str| token.environment.get(name).map(PathBuf::from);
                let uri = token.uri.to_string();
                let running = found.iter().find(|found| found.token == uri);
                let maker = maker(token.module.as_path(), running)?;
                let profile = Profile::keeper(maker, token.profile.as_ref())?;
                let walls = Walls::of_token(maker, &token.files, &token.ports, environment);
                shown.push(Shown {
                    token: Some(uri),
                    ..Shown::new(Role::Keeper, profile, &walls, token.user)?
                });
            }
        }
        None => {
            for maker in Maker::ALL {
                let profile = Profile::keeper(maker, None)?;
                let walls = Walls::of_token(maker, &[], &BTreeSet::new(), |_| None);
                shown.push(Shown::new(Role::Keeper, profile, &walls, None)?);
            }
        }
    }
    let given = config.map(|config| config.node.clone()).unwrap_or_default();
    let application = config.is_some_and(|config| config.application.is_some());
    let node = Profile::node(given.profile.as_ref(), application)?;
    let walls = Walls::of_node(config.map(Config::dials).unwrap_or_default());
    shown.push(Shown::new(Role::Node, node, &walls, given.user)?);
    // Without a name none is ever started.
    if config.is_none_or(|config| !config.hosts.is_empty()) {
        let given = config.map(|config| config.resolver.clone());
        let given = given.unwrap_or_default();
        let profile = Profile::resolver(given.profile.as_ref())?;
        let walls = Walls::of_resolver();
        shown.push(Shown::new(Role::Resolver, profile, &walls, given.user)?);
    }
    Ok(shown)
}

/// A keeper asks its token who made it. Here nobody logs in: what the running one says must do, or
/// the module's name.
fn maker(module: &Path, running: Option<&Attestation>) -> Result<Maker, ProfileError> {
    for maker in Maker::ALL {
        let profile = Profile::keeper(maker, None)?;
        if running.is_some_and(|running| running.profile_sha256 == profile.sha256) {
            return Ok(maker);
        }
    }
    let name = module.file_name().unwrap_or_default().to_string_lossy();
    let known = [("softhsm", Maker::SoftHsm), ("kryoptic", Maker::Kryoptic)];
    let known = known.into_iter().find(|(word, _)| name.contains(word));
    Ok(known.map_or(Maker::Other, |(_, maker)| maker))
}
