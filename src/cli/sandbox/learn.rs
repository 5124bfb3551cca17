//! `fastness sandbox learn`: a draft of a keeper's profile from what a module does.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use crate::cli::unechoed::unechoed;
use crate::cli::{Exit, Failure, Format, out, output};
use crate::config::{Config, TokenConfig};
use crate::control::{FromLearner, KeeperSetup, LearnerReport, LearnerSetup, frame};
use crate::fault::{Fault, chain};
use crate::keeper::learn::ARGUMENT;
use crate::pki::write_new;
use crate::sandbox::{Draft, Learned, Maker, SeenCall, Standing, TraceError, Tracer};
use crate::token::TokenUri;

/// `fastness sandbox learn`
#[derive(Debug, clap::Args)]
pub(crate) struct LearnArgs {
    /// The node's configuration, which `fastness check` has passed.
    #[arg(long, short, default_value = "node.toml", value_name = "FILE")]
    config: PathBuf,
    /// The token whose module is watched, as the configuration names it; needed when there are several.
    #[arg(long, value_name = "URI", value_parser = unechoed::<TokenUri>())]
    token: Option<TokenUri>,
    /// Where to write the draft. The file must not exist yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Signatures of each thread with each key and each of its mechanisms.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    signatures: u32,
    /// Seconds to watch the module do nothing: its threads may wake by themselves (heartbeats).
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=3600))]
    idle: u32,
}

pub(super) fn run(args: &LearnArgs, format: Format) -> Result<(), Failure> {
    // Before the PIN is tried; written without a race below all the same.
    out::check(&args.out, None).map_err(|error| Failure::new(Exit::Usage, chain(&error)))?;
    let config = Config::load(&args.config)
        .map_err(|faults| Failure::faults("mend the faults above", faults))?;
    let token = chosen(&config, args.token.as_ref())?;
    let pin = token.pin.open().map_err(|error| {
        let key = format!("{}.pin", token.place);
        let fault = Fault::new(key, error.to_string(), error.mend());
        Failure::faults("mend the fault above", vec![fault])
    })?;
    let kind = token.pin.kind(&token.uri.to_string());
    let setup = LearnerSetup {
        keeper: KeeperSetup::of(token, kind, config.log),
        signatures: args.signatures,
        idle: args.idle,
    };
    let (report, seen) =
        watch(token, &setup, &pin).map_err(|failure| failure.placed_in(&config.file))?;
    let maker = Maker::of(&report.manufacturer);
    let draft = Draft::new(maker, token.profile.as_ref(), &seen)
        .map_err(|error| Failure::new(Exit::Failed, chain(&error)))?;
    write_new(&args.out, draft.text.as_bytes())
        .map_err(|error| Failure::new(Exit::Failed, chain(&error)))?;
    if format == Format::Json {
        return output::json(&serde_json::json!({
            "draft": args.out,
            "token": token.uri.to_string(),
            "module": token.module,
            "manufacturer": report.manufacturer,
            "model": report.model,
            "signatures": report.signatures,
            "sessions_opened": report.reopened,
            "calls": draft.calls,
            "rules_without_reason": draft.without_reason,
        }));
    }
    output::text(&describe(args, &report, &draft))
}

fn chosen<'a>(config: &'a Config, wanted: Option<&TokenUri>) -> Result<&'a TokenConfig, Failure> {
    let mut tokens = config.tokens.iter();
    let found = match wanted {
        None if config.tokens.len() == 1 => tokens.next(),
        None => None,
        Some(wanted) => tokens.find(|token| token.uri.to_string() == wanted.to_string()),
    };
    found.ok_or_else(|| {
        let named: Vec<_> = config
            .tokens
            .iter()
            .map(|token| token.uri.to_string())
            .collect();
        let text = format!(
            "name one of the configuration's tokens with --token: {}",
            named.join(", ")
        );
        Failure::new(Exit::Usage, text)
    })
}

/// Starts the learner, takes hold of it, lets it work and follows it to its end.
fn watch(
    token: &TokenConfig,
    setup: &LearnerSetup,
    pin: &OwnedFd,
) -> Result<(LearnerReport, BTreeMap<SeenCall, u64>), Failure> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("fastness")
        .arg(ARGUMENT)
        .env_clear()
        .envs(&token.environment)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null());
    if let Some(user) = token.user {
        command.uid(user.uid).gid(user.gid);
    }
    let mut process = command.spawn().map_err(|error| {
        let text = format!("cannot start a process for the module (`user` takes root): {error}");
        Failure::new(Exit::Failed, text)
    })?;
    drop(command);
    let tracer = match Tracer::seize(process.id()) {
        Ok(tracer) => tracer,
        Err(error) => {
            process.kill()?;
            process.wait()?;
            return Err(Failure::new(Exit::Failed, chain(&error)));
        }
    };
    // It has waited for this.
    frame::send_with_descriptors(&ours, setup, &[pin.as_fd()])?;
    let words = thread::spawn(move || frame::receive::<FromLearner>(&ours));
    let followed = tracer.follow();
    let said = words
        .join()
        .map_err(|_panic| Failure::new(Exit::Failed, "the thread that listens panicked (a bug)"))?;
    judge(said, followed)
}

fn judge<T>(
    said: io::Result<Option<FromLearner>>,
    followed: Result<T, TraceError>,
) -> Result<(LearnerReport, T), Failure> {
    let refuse = "no draft was written: mend the faults above";
    match (said, followed) {
        (Ok(Some(FromLearner::Refused { faults, latch })), _) => Err(Failure {
            exit: if latch { Exit::Pin } else { Exit::Faults },
            message: refuse.into(),
            faults,
        }),
        (_, Err(error)) => Err(Failure::new(
            Exit::Failed,
            format!("no draft was written: {}", chain(&error)),
        )),
        (Ok(Some(FromLearner::Learned(report))), Ok(seen)) => Ok((report, seen)),
        (Ok(None), Ok(_)) => Err(Failure::new(
            Exit::Failed,
            "no draft was written: the process that loaded the module ended without a word",
        )),
        (Err(error), Ok(_)) => Err(error.into()),
    }
}

fn describe(args: &LearnArgs, report: &LearnerReport, draft: &Draft) -> String {
    let line = |one: &Learned| {
        let arguments: Vec<_> = one
            .arguments
            .iter()
            .map(|(index, value)| format!("[{index}]={value:#x}"))
            .collect();
        let standing = match one.standing {
            Standing::Ours => "ours",
            Standing::Known => "known",
            Standing::New => "NEW",
        };
        let lacks = match one.supervisor_lacks_it {
            true => ", and the supervisor's profile lacks it too",
            false => "",
        };
        format!(
            "  {:<18} {:<24} {:>8}  {standing}{lacks}",
            one.call,
            arguments.join(" "),
            one.times
        )
    };
    let mut lines = vec![
        format!(
            "{} ({} {}): {} signatures and {} new sessions were watched",
            report.label, report.manufacturer, report.model, report.signatures, report.reopened
        ),
        format!(
            "  {:<18} {:<24} {:>8}  standing",
            "call", "arguments", "times"
        ),
    ];
    lines.extend(draft.calls.iter().map(line));
    lines.push(
        "  ours: every keeper's own; known: today's profile allows it; NEW: it does not".into(),
    );
    lines.push(format!("Draft written to {}.", args.out.display()));
    lines.push(match draft.without_reason {
        0 => "It has nothing but our keeper's own rules: read it before you use it.".into(),
        count => format!(
            "It cannot be used yet: {count} rules have no reason. Write into each \"comment\" why the module \
             needs the call and what each argument's value means, strike what it should not have; then name \
             the file as `profile` of the token and try `fastness check`."
        ),
    });
    lines.join("\n")
}
