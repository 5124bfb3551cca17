//! `fastness check`: everything that `run` verifies, without serving.

use std::path::Path;

use super::token::Purpose;
use super::{Failure, Format, given, output};
use crate::config::{Config, ToTry};
use crate::sandbox::Walls;
use crate::supervisor::{self, Checked};

/// Verifies the configuration in `file` and everything behind it.
pub(super) fn run(file: &Path, format: Format) -> Result<(), Failure> {
    let refuse = "`fastness run` would not start: mend the faults above";
    let inherited = given::take()?;
    let (to_try, faults) = Config::load_to_try(file);
    let Some(ToTry { config, untried }) = to_try else {
        let hidden = format!("{refuse}, and check again: what is behind them was not looked at");
        return Err(Failure::faults(hidden, faults));
    };
    given::close_others(inherited, &config);
    let runtime = super::run::runtime()?;
    let Checked { tokens, unresolved } = runtime
        .block_on(supervisor::check(config.clone(), faults))
        .map_err(|error| {
            let mut failure = Failure::from(error).placed_in(&config.file);
            if !untried.is_empty() && !failure.faults.is_empty() {
                let untried: Vec<_> = untried.into_iter().collect();
                let untried = untried.join(", ");
                failure.message += &format!("; not opened until then: {untried}");
            }
            failure
        })?;
    let walls = Walls::of_node(config.dials());
    let mut notes = config.notes();
    notes.extend(misnamed(&config));
    notes.extend(unresolved.iter().map(|host| {
        format!("{host} does not resolve now: the peer is not dialled there until it does")
    }));
    if format == Format::Json {
        return output::json(&serde_json::json!({
            "ok": true,
            "faults": [],
            "notes": notes,
            "id": config.id.to_string(),
            "tokens": tokens,
            "landlock": walls.reach(),
        }));
    }
    let mut lines = vec![
        format!("{}: `fastness run` would start", config.file.display()),
        format!("  node        {}", config.id),
        format!("  Landlock    {walls}"),
    ];
    for (settings, token) in config.tokens.iter().zip(&tokens) {
        lines.push(format!(
            "  token       {} (serial {}, {}), {} sessions",
            token.label, token.serial, token.manufacturer, token.sessions
        ));
        lines.push(format!(
            "  keeper      profile {}; {}",
            token.sandbox.profile, token.sandbox.landlock
        ));
        lines.extend(settings.keys.iter().zip(&token.keys).map(|(key, found)| {
            format!(
                "  {:<11} {}, cannot be read or wrapped, signs, matches its certificate (valid until {})",
                format!("{} key", key.role),
                found.kind,
                key.not_after
            )
        }));
    }
    lines.extend(notes.iter().map(|note| format!("  note        {note}")));
    output::text(&lines.join("\n"))
}

/// Keys that have another role here than their labels say.
fn misnamed(config: &Config) -> impl Iterator<Item = String> {
    let keys = config.tokens.iter().flat_map(|token| &token.keys);
    keys.filter_map(|key| {
        let said = Purpose::of_label(key.uri.label()?)?.as_str();
        let role = key.role.to_string();
        (said != role).then(|| {
            format!(
                "{}: by its label it is a {said} key, here it is the {role} key",
                key.uri
            )
        })
    })
}
