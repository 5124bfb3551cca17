//! `fastness unlock`: log a token of the running node in again.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::unechoed::unechoed;
use super::{Exit, Failure, Format, admin, output};
use crate::control::{Unlock, Unlocked, frame};
use crate::secret::{PinError, PinKind, PinSource, UserPin};

/// `fastness unlock`
#[derive(Debug, clap::Args)]
pub(super) struct UnlockArgs {
    /// Label of the token; not needed when only one waits.
    #[arg(long, value_name = "LABEL", default_value = "")]
    token: String,
    /// Where the PIN comes from: file:PATH, fd:N, credential:NAME or prompt; the configured source
    /// when not given. The supervisor hands it on to the keeper unread.
    #[arg(long, value_name = "SOURCE", value_parser = unechoed::<PinSource>())]
    pin: Option<PinSource>,
    #[command(flatten)]
    socket: admin::SocketArgs,
}

/// A descriptor to read the PIN from. It is asked for here and not by the keeper: that has no terminal, and
/// would be stopped for reading from ours in the background.
fn open(source: &PinSource, token: &str) -> Result<OwnedFd, PinError> {
    let opened = source.open()?;
    if !matches!(source, PinSource::Prompt) {
        return Ok(opened);
    }
    let token = if token.is_empty() {
        "that waits"
    } else {
        token
    };
    let typed = UserPin::read(opened, source.kind(token))?;
    typed.into_pipe().map_err(PinError::Read)
}

/// Hands the PIN's descriptor to the running supervisor and waits for the keeper's verdict.
pub(super) fn run(args: UnlockArgs, format: Format) -> Result<(), Failure> {
    let pin_failure =
        |error: PinError| Failure::new(Exit::Pin, format!("{error}; mend: {}", error.mend()));
    let pin = match &args.pin {
        None => None,
        Some(source) => Some(open(source, &args.token).map_err(pin_failure)?),
    };
    let path = crate::supervisor::unlock_socket(&args.socket.path()?);
    let stream = UnixStream::connect(&path).map_err(|error| {
        Failure::new(
            Exit::NoNode,
            format!(
                "no node answers at {}: {error}; is `fastness run` running, as this user?",
                path.display()
            ),
        )
    })?;
    let unlock = Unlock {
        pin: pin.is_some().then_some(PinKind::Stream),
        token: args.token,
    };
    let descriptors: Vec<_> = pin.iter().map(AsFd::as_fd).collect();
    frame::send_with_descriptors(&stream, &unlock, &descriptors)?;
    match frame::receive::<Unlocked>(&stream)? {
        Some(Unlocked::Done { token }) => match format {
            Format::Json => output::json(&serde_json::json!({ "ok": true, "token": token })),
            Format::Human => output::text(&format!("token {token} is unlocked and signs")),
        },
        Some(Unlocked::Refused(faults)) => Err(Failure {
            exit: Exit::Pin,
            message: "still locked; the PIN was tried at most once".into(),
            faults,
        }),
        None => Err(Failure::new(
            Exit::NoNode,
            "the node ended before the token was unlocked",
        )),
    }
}
