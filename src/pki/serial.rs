//! Certificate serial numbers (RFC 5280 §4.1.2.2).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use x509_cert::serial_number::SerialNumber;

/// Longest serial number, in octets (RFC 5280 §4.1.2.2).
const LONGEST: usize = 20;

/// A positive serial number of at most 20 octets, written in capital hexadecimal digits as
/// `openssl x509 -serial` does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Serial(Vec<u8>);

/// A text that is not a serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a serial number: give 1 to 40 hexadecimal digits, not all zero (colons are allowed)")]
pub struct SerialError;

impl Serial {
    /// A serial number of 128 random bits: 16 octets, or 17 in DER, whose integers have a sign; one in 256 is shorter.
    /// (CA/Browser Forum Baseline Requirements §7.1 ask for 64 bits.)
    ///
    /// # Errors
    /// When all bits are zero: no random number generator gives that.
    pub fn from_random(random: [u8; 16]) -> Result<Self, SerialError> {
        Self::from_bytes(&random)
    }

    pub(super) fn to_x509(&self) -> der::Result<SerialNumber> {
        SerialNumber::new(&self.0)
    }

    pub(super) fn from_x509(serial: &SerialNumber) -> Result<Self, SerialError> {
        Self::from_bytes(serial.as_bytes())
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, SerialError> {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let bytes = &bytes[zeros..];
        if bytes.is_empty() || bytes.len() > LONGEST {
            return Err(SerialError);
        }
        Ok(Self(bytes.to_vec()))
    }
}

impl FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        let digits: Vec<u8> = text
            .chars()
            .filter(|character| *character != ':')
            .take(2 * LONGEST + 1)
            .map(|character| {
                character
                    .to_digit(16)
                    .and_then(|digit| u8::try_from(digit).ok())
            })
            .collect::<Option<_>>()
            .ok_or(SerialError)?;
        if digits.len() > 2 * LONGEST {
            return Err(SerialError);
        }
        let (odd, pairs) = digits.split_at(digits.len() % 2);
        let pairs = pairs.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]);
        Self::from_bytes(&odd.iter().copied().chain(pairs).collect::<Vec<_>>())
    }
}

impl TryFrom<String> for Serial {
    type Error = SerialError;

    fn try_from(text: String) -> Result<Self, SerialError> {
        text.parse()
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.to_string()
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_random_bits_are_in_a_serial_which_is_positive() {
        use der::Encode;
        let mut small = [0xff; 16];
        small[0] = 0;
        for (random, der) in [
            ([0xff; 16], [&[2, 17, 0], &[0xff; 16][..]].concat()),
            ([0x7f; 16], [&[2, 16], &[0x7f; 16][..]].concat()),
            (small, [&[2, 16, 0], &[0xff; 15][..]].concat()),
        ] {
            let serial = Serial::from_random(random).unwrap();
            let encoded = serial.to_x509().unwrap();
            assert_eq!(encoded.to_der().unwrap(), der);
            assert_eq!(Serial::from_x509(&encoded), Ok(serial));
        }
        assert_eq!(Serial::from_random([0; 16]), Err(SerialError));
    }

    #[test]
    fn a_serial_is_read_with_or_without_colons_in_any_case() {
        let serial = Serial::from_random([0xab; 16]).unwrap();
        let text = serial.to_string();
        assert_eq!(text.parse(), Ok(serial.clone()));
        assert_eq!(text.to_lowercase().parse(), Ok(serial));
        assert_eq!("0a:BC".parse::<Serial>(), "abc".parse());
    }

    #[test]
    fn texts_that_are_not_serials_are_refused() {
        let long = "1".repeat(41);
        for text in ["", "0", "00:00", "xyz", "-1", "0x12", " 12", &long] {
            assert_eq!(text.parse::<Serial>(), Err(SerialError), "{text}");
        }
    }
}
