//! Labels of keys that we make. Those of others may be anything.

use std::str::FromStr;

/// Longest label of a key that we make, in bytes.
const LONGEST: usize = 64;

/// The label (CKA_LABEL) of a key that is to be made: 1 to 64 bytes without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLabel(String);

/// Why a text is no label of a key. The text is not repeated: it may be long, or not printable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyLabelError {
    /// No text.
    #[error("the label is empty: write 1 to {LONGEST} bytes, as in server-2027")]
    Empty,
    /// Too much of it.
    #[error(
        "the label is longer than {LONGEST} bytes: write 1 to {LONGEST} bytes, as in server-2027"
    )]
    TooLong,
    /// Something that no terminal should get.
    #[error("the label has control characters: write printable ones, as in server-2027")]
    Control,
}

impl KeyLabel {
    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyLabel {
    type Err = KeyLabelError;

    fn from_str(text: &str) -> Result<Self, KeyLabelError> {
        match text {
            "" => Err(KeyLabelError::Empty),
            long if long.len() > LONGEST => Err(KeyLabelError::TooLong),
            odd if odd.chars().any(char::is_control) => Err(KeyLabelError::Control),
            good => Ok(Self(good.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_short_and_printable() {
        let of = |text: &str| text.parse::<KeyLabel>();
        assert_eq!(of("sörver; 1").unwrap().as_str(), "sörver; 1");
        assert!(of(&"x".repeat(64)).is_ok());
        assert_eq!(of(""), Err(KeyLabelError::Empty));
        assert_eq!(of(&"x".repeat(65)), Err(KeyLabelError::TooLong));
        assert_eq!(of("a\x1b[31m"), Err(KeyLabelError::Control));
    }
}
