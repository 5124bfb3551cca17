//! `fastness token destroy`.

use super::{ModuleArgs, PinArgs, TokenCommandError, log_in, say, token_of};
use crate::cli::Format;
use crate::cli::unechoed::unechoed;
use crate::token::KeyUri;

/// `fastness token destroy`
#[derive(clap::Args, Debug)]
pub struct DestroyArgs {
    #[command(flatten)]
    module: ModuleArgs,
    /// The key, as a PKCS#11 URI: 'pkcs11:token=node-a;object=server'.
    #[arg(long, value_name = "URI", value_parser = unechoed::<KeyUri>())]
    key: KeyUri,
    #[command(flatten)]
    pin: PinArgs,
    /// Yes, destroy it for good.
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(args: DestroyArgs, format: Format) -> Result<(), TokenCommandError> {
    let token = token_of(&args.key)?;
    if !args.yes {
        let text = format!(
            "this destroys {} for good, no copy exists; say --yes if that is meant",
            args.key
        );
        return Err(TokenCommandError::Usage(text));
    }
    let token = log_in(&args.module, &token, &args.pin)?;
    let done = token.destroy(&args.key)?;
    say::result(format, &done, || {
        format!(
            "Destroyed the private key {}, {} of its public keys and {} of its certificates in the token.",
            done.key, done.public_keys, done.certificates
        )
    })
}
