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
    /// A serial number of exactly 128 bits from 128 random bits, of which 126 stay: the top bit is
    /// cleared so that the number is positive in 16 octets, the next one set so that it never
    /// starts with a zero octet. (CA/Browser Forum Baseline Requirements §7.1 ask for 64.)
    pub fn from_random(mut random: [u8; 16]) -> Self {
        random[0] = random[0] & 0x3f | 0x40;
        Self(random.to_vec())
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
    fn a_serial_is_positive_and_has_16_octets_whatever_the_random_bytes() {
        for random in [[0; 16], [0xff; 16]] {
            let serial = Serial::from_random(random);
            assert_eq!(serial.0.len(), 16);
            assert_eq!(serial.0[0] & 0xc0, 0x40);
            assert_eq!(serial.to_x509().unwrap().as_bytes().len(), 16);
        }
    }

    #[test]
    fn a_serial_is_read_with_or_without_colons_in_any_case() {
        let serial = Serial::from_random([0xab; 16]);
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
