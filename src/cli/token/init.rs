//! `fastness token init`.

use serde::Serialize;

use super::{ModuleArgs, TokenCommandError, read_new, say};
use crate::cli::Format;
use crate::cli::unechoed::unechoed;
use crate::secret::{PinSource, SoPin, UserPin};
use crate::token::{Token, TokenInfo, TokenLabel, TokenUri};

/// `fastness token init`
#[derive(clap::Args, Debug)]
pub struct InitArgs {
    #[command(flatten)]
    module: ModuleArgs,
    /// The new token's label: 1 to 32 bytes, unlike that of any other token.
    #[arg(long, value_name = "LABEL")]
    label: String,
    /// Serial number of the token to initialise, when several are free.
    #[arg(long, value_name = "SERIAL")]
    serial: Option<String>,
    /// Source of the security officer's PIN, needed to set a new user PIN later: file:PATH, fd:N,
    /// credential:NAME or prompt.
    #[arg(long, value_name = "SOURCE", default_value = "prompt", value_parser = unechoed::<PinSource>())]
    so_pin: PinSource,
    /// Source of the user PIN, with which the node logs in.
    #[arg(long, value_name = "SOURCE", default_value = "prompt", value_parser = unechoed::<PinSource>())]
    pin: PinSource,
}

#[derive(Serialize)]
struct Output<'a> {
    uri: Option<TokenUri>,
    #[serde(flatten)]
    token: &'a TokenInfo,
}

pub(super) fn run(args: InitArgs, format: Format) -> Result<(), TokenCommandError> {
    let label: TokenLabel = args.label.parse().map_err(|error| {
        TokenCommandError::Usage(format!(
            "--label: {error}; 1 to 32 bytes, no control characters, no blank at the end (tokens pad with blanks)"
        ))
    })?;
    let module = args.module.load()?;
    let so_pin = read_new(
        &args.so_pin,
        label.as_str(),
        |fd, kind| SoPin::read(fd, kind),
        SoPin::matches,
    )?;
    let pin = read_new(
        &args.pin,
        label.as_str(),
        |fd, kind| UserPin::read(fd, kind),
        UserPin::matches,
    )?;
    if so_pin.is_also(&pin) {
        return Err(TokenCommandError::PinsEqual);
    }
    say::progress("Initialising the token");
    let token = Token::init(&module, &label, args.serial.as_deref(), so_pin, pin)?;
    let output = Output {
        uri: token.info().uri(),
        token: token.info(),
    };
    say::result(format, &output, || {
        let uri = output
            .uri
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        format!(
            "Token \"{label}\" is initialised, serial number {}.\n  {uri}",
            token.info().serial
        )
    })
}
