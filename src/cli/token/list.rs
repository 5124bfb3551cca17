//! `fastness token list`.

use serde::Serialize;

use super::keygen::Purpose;
use super::{ModuleArgs, PinArgs, TokenCommandError, log_in, say};
use crate::cli::Format;
use crate::cli::unechoed::unechoed;
use crate::fault::Fault;
use crate::policy::SpkiPin;
use crate::token::{Key, KeyEvidence, KeyKind, KeyUri, PinState, Session, TokenInfo, TokenUri};

/// `fastness token list`
#[derive(clap::Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    module: ModuleArgs,
    /// The token whose keys to show, as a PKCS#11 URI: 'pkcs11:token=node-a'. Needs the PIN.
    #[arg(long, value_name = "URI", value_parser = unechoed::<TokenUri>())]
    token: Option<TokenUri>,
    #[command(flatten)]
    pin: PinArgs,
}

#[derive(Serialize)]
struct Output {
    tokens: Vec<TokenLine>,
    /// Absent when no token was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<KeyLine>>,
}

#[derive(Serialize)]
struct TokenLine {
    uri: Option<TokenUri>,
    #[serde(flatten)]
    info: TokenInfo,
}

#[derive(Serialize)]
#[serde(untagged)]
enum KeyLine {
    /// A key that Fastness can work with, whether or not it passes the gate.
    Usable(Box<UsableKey>),
    /// A private key of a kind that it does not know, or without a public key.
    Other { problem: String },
}

#[derive(Serialize)]
struct UsableKey {
    uri: KeyUri,
    label: String,
    id: String,
    /// What the label says by convention.
    purpose: Option<Purpose>,
    kind: KeyKind,
    spki_pin: String,
    /// What the gate found, when the key passes it.
    evidence: Option<KeyEvidence>,
    faults: Vec<Fault>,
}

pub(super) fn run(args: ListArgs, format: Format) -> Result<(), TokenCommandError> {
    let (tokens, keys) = match args.token {
        None => (args.module.load()?.tokens()?, None),
        Some(uri) => {
            let token = log_in(&args.module, &uri, &args.pin)?;
            say::progress("Checking the keys");
            let session = token.session()?;
            let mut lines = Vec::new();
            for key in session.keys()? {
                lines.push(match key {
                    Ok(key) => KeyLine::Usable(Box::new(UsableKey::of(&session, &key))),
                    Err(error) if error.session_is_dead() => return Err(error.into()),
                    Err(error) => KeyLine::Other {
                        problem: error.to_string(),
                    },
                });
            }
            (vec![token.info().clone()], Some(lines))
        }
    };
    let tokens = tokens
        .into_iter()
        .map(|info| TokenLine {
            uri: info.uri(),
            info,
        })
        .collect();
    let output = Output { tokens, keys };
    say::result(format, &output, || output.for_people())
}

impl UsableKey {
    fn of(session: &Session, key: &Key) -> Self {
        let (evidence, faults) = match session.gate(key) {
            Ok(Ok(evidence)) => (Some(evidence), Vec::new()),
            Ok(Err(faults)) => (None, faults),
            Err(error) => {
                let name = key.uri().to_string();
                let problem = format!("the token failed while the key was being checked: {error}");
                (None, vec![Fault::new(name, problem, error.mend())])
            }
        };
        Self {
            uri: key.uri().clone(),
            label: key.label().to_owned(),
            id: key.id().to_string(),
            purpose: Purpose::of_label(key.label()),
            kind: key.kind(),
            spki_pin: SpkiPin::of_spki(key.spki_der()).to_string(),
            evidence,
            faults,
        }
    }

    fn for_people(&self) -> String {
        let Self {
            uri,
            label,
            kind,
            spki_pin,
            evidence,
            faults,
            ..
        } = self;
        let mut text = format!(
            "Key \"{}\", {kind}\n  {uri}\n  SPKI pin {spki_pin}",
            label.escape_debug()
        );
        for (index, fault) in faults.iter().enumerate() {
            text += &format!("\n  REFUSED: {}", fault.problem);
            // Faults that are mended together say so once.
            if faults
                .get(index + 1)
                .is_none_or(|next| next.mend != fault.mend)
            {
                text += &format!("\n    mend: {}", fault.mend);
            }
        }
        if let Some(evidence) = evidence {
            text += "\n  Passes the key gate";
            if let Some(mechanism) = &evidence.generated_by {
                text += &format!("; generated in the token ({mechanism})");
            }
            for trial in &evidence.trials {
                text += &format!("\n    tried: {}; refused: {}", trial.tried, trial.refused);
            }
            for note in &evidence.notes {
                text += &format!("\n    note: {note}");
            }
        }
        text
    }
}

impl KeyLine {
    fn for_people(&self) -> String {
        match self {
            Self::Usable(key) => key.for_people(),
            Self::Other { problem } => {
                format!("Private key that Fastness does not use\n  {problem}")
            }
        }
    }
}

impl Output {
    fn for_people(&self) -> String {
        let mut parts: Vec<String> = self.tokens.iter().map(TokenLine::for_people).collect();
        match self.keys.as_deref() {
            None if self.tokens.is_empty() => parts.push("The module has no token.".into()),
            None => {}
            Some([]) => parts.push("No private keys.".into()),
            Some(keys) => parts.extend(keys.iter().map(KeyLine::for_people)),
        }
        parts.join("\n\n")
    }
}

impl TokenLine {
    fn for_people(&self) -> String {
        let info = &self.info;
        if !info.initialised {
            return format!("Free token, not initialised ({})", info.model);
        }
        let pin = match info.pin {
            PinState::Ready => "the PIN is set",
            PinState::WrongTryRecorded => "a WRONG PIN was tried since the last login",
            PinState::FinalTry => "ONE MORE wrong PIN LOCKS it",
            PinState::Locked => "the PIN is LOCKED",
            PinState::ToBeChanged => "the PIN has EXPIRED",
            PinState::NotSet => "NO user PIN is set",
        };
        let uri = self
            .uri
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        format!(
            "Token \"{}\", serial number {}, {} {}, {pin}\n  {uri}",
            info.label.escape_debug(),
            info.serial,
            info.model,
            info.firmware
        )
    }
}
