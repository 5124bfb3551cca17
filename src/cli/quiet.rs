//! Arguments whose value is never repeated in an error: clap shows what it could not parse, and
//! that may be a PIN that someone typed where its source belongs.

use std::convert::Infallible;
use std::str::FromStr;

/// A value that is parsed on the command line and judged after it.
#[derive(Clone, Debug)]
pub(super) struct Quiet<T: FromStr>(Result<T, T::Err>);

impl<T: FromStr> Quiet<T> {
    /// The value, or why it is none.
    pub(super) fn into_inner(self) -> Result<T, T::Err> {
        self.0
    }
}

impl<T: FromStr> FromStr for Quiet<T> {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.parse()))
    }
}
