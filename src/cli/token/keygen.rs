//! `fastness token keygen`.

use clap::ValueEnum;
use serde::Serialize;

use super::{ModuleArgs, PinArgs, TokenCommandError, log_in, say};
use crate::cli::Format;
use crate::cli::unechoed::unechoed;
use crate::policy::SpkiPin;
use crate::token::{KeyEvidence, KeyId, KeyKind, KeyLabel, KeySpec, KeyUri, TokenUri};

/// `fastness token keygen`
#[derive(clap::Args, Debug)]
pub struct KeygenArgs {
    #[command(flatten)]
    module: ModuleArgs,
    /// The token, as a PKCS#11 URI: 'pkcs11:token=node-a'.
    #[arg(long, value_name = "URI", value_parser = unechoed::<TokenUri>())]
    token: TokenUri,
    #[command(flatten)]
    pin: PinArgs,
    /// What the key is for. A key has one purpose; no token stores it: what a key signs is decided by
    /// where a configuration names it.
    #[arg(long, value_enum)]
    purpose: Purpose,
    /// The key's label, by which URIs name it: 1 to 64 bytes [default: the purpose].
    #[arg(long, value_name = "LABEL", value_parser = unechoed::<KeyLabel>())]
    label: Option<KeyLabel>,
    /// The kind of key.
    #[arg(long, value_enum, default_value_t = Kind::P256)]
    kind: Kind,
    /// The key's CKA_ID in hexadecimal [default: 16 random bytes].
    #[arg(long, value_name = "HEX")]
    id: Option<String>,
}

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::cli) enum Purpose {
    /// The server side of handshakes.
    Server,
    /// The client side of handshakes.
    Client,
    /// A certificate authority: certificates and revocation lists.
    Ca,
}

/// The kinds of key, by their names on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    P256,
    P384,
    Rsa2048,
    Rsa3072,
    Rsa4096,
    Ed25519,
}

#[derive(Serialize)]
struct Output<'a> {
    uri: &'a KeyUri,
    label: &'a str,
    id: String,
    purpose: Purpose,
    kind: KeyKind,
    spki_pin: String,
    left_out: &'a [String],
    evidence: &'a KeyEvidence,
}

pub(super) fn run(args: KeygenArgs, format: Format) -> Result<(), TokenCommandError> {
    let id: Option<KeyId> = match args.id.as_deref().map(str::parse).transpose() {
        Ok(id) => id,
        Err(error) => {
            let text = format!("--id: {error}; write 1 to 64 bytes in hexadecimal, as in 0a1b");
            return Err(TokenCommandError::Usage(text));
        }
    };
    let named = || args.purpose.as_str().parse().expect("a short word");
    let spec = KeySpec {
        label: args.label.unwrap_or_else(named),
        id,
        kind: args.kind.into(),
    };
    let token = log_in(&args.module, &args.token, &args.pin)?;
    say::progress(&format!(
        "Generating a key ({}) inside the token",
        spec.kind
    ));
    let made = token.generate(&spec)?;
    let key = &made.key;
    let output = Output {
        uri: key.uri(),
        label: key.label(),
        id: key.id().to_string(),
        purpose: args.purpose,
        kind: key.kind(),
        spki_pin: SpkiPin::of_spki(key.spki_der()).to_string(),
        left_out: &made.left_out,
        evidence: &made.evidence,
    };
    say::result(format, &output, || {
        let mut text = format!(
            "Key \"{}\" ({}) was generated inside the token, checked and tried.\n  {}\n  SPKI pin {}",
            key.label(),
            key.kind(),
            output.uri,
            output.spki_pin
        );
        for attribute in output.left_out {
            text += &format!(
                "\n  The module refused {attribute} in the template; the check was passed without."
            );
        }
        for note in &output.evidence.notes {
            text += &format!("\n  Note: {note}.");
        }
        text
    })
}

impl Purpose {
    pub(in crate::cli) fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Ca => "ca",
        }
    }

    /// The purpose that a label says by convention: `server`, or `server-2026`.
    pub(in crate::cli) fn of_label(label: &str) -> Option<Self> {
        let first = label.split(['-', '_', ' ']).next()?;
        [Self::Server, Self::Client, Self::Ca]
            .into_iter()
            .find(|purpose| purpose.as_str() == first)
    }
}

impl From<Kind> for KeyKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::P256 => Self::P256,
            Kind::P384 => Self::P384,
            Kind::Rsa2048 => Self::Rsa2048,
            Kind::Rsa3072 => Self::Rsa3072,
            Kind::Rsa4096 => Self::Rsa4096,
            Kind::Ed25519 => Self::Ed25519,
        }
    }
}
