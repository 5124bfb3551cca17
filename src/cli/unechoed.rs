//! Arguments whose value may be or hold a PIN by mistake (`--pin 1234`, a URI with `pin-value`):
//! clap repeats a wrong value in its error, and the error ends in logs. These are not repeated.

use std::ffi::OsStr;
use std::fmt::Display;
use std::marker::PhantomData;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Error};

/// Reads a `T` by its `FromStr`, and says what is wrong without the value.
#[derive(Debug)]
pub(super) struct Unechoed<T>(PhantomData<fn() -> T>);

/// For `#[arg(value_parser = unechoed::<T>())]`.
pub(super) fn unechoed<T>() -> Unechoed<T> {
    Unechoed(PhantomData)
}

impl<T> Clone for Unechoed<T> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<T> TypedValueParser for Unechoed<T>
where
    T: FromStr<Err: Display> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let fault = match value.to_str().map(str::parse) {
            Some(Ok(parsed)) => return Ok(parsed),
            Some(Err(error)) => format!("{error}"),
            None => "not UTF-8".to_owned(),
        };
        let arg = arg.map(ToString::to_string).unwrap_or_default();
        let text = format!("invalid value for '{arg}': {fault}\n");
        Err(Error::raw(ErrorKind::ValueValidation, text).with_cmd(command))
    }
}

/// Takes out of a parser's error what nobody asked for: it may be a PIN (`--pin prompt 1234`). The names of
/// options stay, so that a misspelt one can be seen.
pub(super) fn without_strays(mut error: Error) -> Error {
    let is_option =
        |value: &ContextValue| matches!(value, ContextValue::String(text) if text.starts_with('-'));
    match error.kind() {
        ErrorKind::UnknownArgument
            if !error.get(ContextKind::InvalidArg).is_some_and(is_option) =>
        {
            // It has the argument too: "to pass '…' as a value".
            error.remove(ContextKind::Suggested);
            error.insert(ContextKind::InvalidArg, unsaid());
        }
        ErrorKind::TooManyValues => {
            error.insert(ContextKind::InvalidValue, unsaid());
        }
        _ => {}
    }
    error
}

fn unsaid() -> ContextValue {
    ContextValue::String("…".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::PinSource;
    use crate::token::KeyUri;

    #[test]
    fn a_pin_given_by_mistake_is_not_repeated() {
        let command = Command::new("x")
            .arg(
                Arg::new("pin")
                    .long("pin")
                    .value_parser(unechoed::<PinSource>()),
            )
            .arg(
                Arg::new("key")
                    .long("key")
                    .value_parser(unechoed::<KeyUri>()),
            );
        for wrong in [
            ["--pin", "271828"],
            ["--key", "pkcs11:token=ca;object=ca?pin-value=271828"],
        ] {
            let error = command
                .clone()
                .try_get_matches_from([&["x"][..], &wrong].concat());
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains(wrong[0]) && !error.contains("271828"),
                "{error}"
            );
        }
    }
}
