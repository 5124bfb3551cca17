//! SPKI pins: a peer is known by its public key and not only by what some authority certified.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::{EndEntity, Reason};

const PREFIX: &str = "sha256/";

/// The SHA-256 of a DER `SubjectPublicKeyInfo` (RFC 7469 §2.4), written
/// `sha256/<base64 of 32 bytes>`. Compared in constant time.
#[derive(Clone, Copy, Eq)]
pub struct SpkiPin([u8; 32]);

/// Why a text is not an [`SpkiPin`]. The text itself is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpkiPinFault {
    /// It does not begin with `sha256/`.
    #[error("does not begin with `sha256/`")]
    Prefix,
    /// Not canonical base64 with padding (RFC 4648 §3.2, §3.5), or not 32 bytes.
    #[error("is not the base64 of a SHA-256: 44 characters, the last one `=`")]
    Digest,
    /// The digest of nothing, which a broken pipe into a hashing command gives.
    #[error("is the digest of the empty string, not of a key")]
    OfNothing,
    /// A placeholder.
    #[error("is all zero, not a digest")]
    AllZero,
}

impl SpkiPin {
    /// The pin of a DER `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7).
    pub fn of_spki(der: &[u8]) -> Self {
        let mut pin = [0; 32];
        pin.copy_from_slice(digest(&SHA256, der).as_ref());
        Self(pin)
    }

    /// The pin of the key in a DER end entity certificate.
    ///
    /// # Errors
    /// [`Reason`] when the certificate cannot be read as an end entity of ours.
    pub fn of_certificate(der: &[u8]) -> Result<Self, Reason> {
        EndEntity::read(der).map(|end_entity| end_entity.pin())
    }
}

impl PartialEq for SpkiPin {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl std::hash::Hash for SpkiPin {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl FromStr for SpkiPin {
    type Err = SpkiPinFault;

    fn from_str(text: &str) -> Result<Self, SpkiPinFault> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SpkiPinFault::Prefix)?;
        // 32 bytes are 44 characters; STANDARD insists on padding and on zero trailing bits.
        if encoded.len() != 44 {
            return Err(SpkiPinFault::Digest);
        }
        let pin = STANDARD
            .decode(encoded)
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .map(Self)
            .ok_or(SpkiPinFault::Digest)?;
        if pin == Self::of_spki(b"") {
            return Err(SpkiPinFault::OfNothing);
        }
        if pin == Self([0; 32]) {
            return Err(SpkiPinFault::AllZero);
        }
        Ok(pin)
    }
}

impl fmt::Display for SpkiPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for SpkiPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which pin of a [`PinSet`] a key matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PinLabel {
    /// The key in use.
    Active,
    /// The key that takes over when the active one is lost or rotated (RFC 7469 §4.3).
    Backup,
}

impl fmt::Display for PinLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Backup => "backup",
        })
    }
}

/// The pins of one peer in one role. The two always differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinSet {
    active: SpkiPin,
    backup: SpkiPin,
}

impl PinSet {
    /// A pin set, or `None` when the backup is the active key and so no backup at all.
    pub fn new(active: SpkiPin, backup: SpkiPin) -> Option<Self> {
        (active != backup).then_some(Self { active, backup })
    }

    /// Which of the two pins `pin` is.
    pub fn label_of(&self, pin: &SpkiPin) -> Option<PinLabel> {
        let (active, backup) = (self.active == *pin, self.backup == *pin);
        match (active, backup) {
            (true, _) => Some(PinLabel::Active),
            (false, true) => Some(PinLabel::Backup),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "sha256/bfZnTHoEiDIKAc14EQXoFVQfOQFb/GWhsY6BH/tlNHM=";

    #[test]
    fn a_pin_reads_as_it_is_written() {
        assert_eq!(GOOD.parse::<SpkiPin>().unwrap().to_string(), GOOD);
        // The digest of "abc" (FIPS 180-2, appendix B.1).
        let abc = SpkiPin::of_spki(b"abc").to_string();
        assert_eq!(abc, "sha256/ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
    }

    #[test]
    fn a_malformed_pin_is_refused() {
        let body = &GOOD[PREFIX.len()..];
        for (text, fault) in [
            (String::new(), SpkiPinFault::Prefix),
            (body.to_owned(), SpkiPinFault::Prefix),
            (format!("SHA256/{body}"), SpkiPinFault::Prefix),
            (format!("sha512/{body}"), SpkiPinFault::Prefix),
            (format!(" {GOOD}"), SpkiPinFault::Prefix),
            (format!("{GOOD} "), SpkiPinFault::Digest),
            (format!("{GOOD}\n"), SpkiPinFault::Digest),
            (GOOD.trim_end_matches('=').to_owned(), SpkiPinFault::Digest),
            (format!("sha256/{}", &body[4..]), SpkiPinFault::Digest),
            // `M=` and `N=` decode to the same 32 bytes where trailing bits are ignored.
            (GOOD.replace("M=", "N="), SpkiPinFault::Digest),
            (GOOD.replace('/', "_"), SpkiPinFault::Prefix),
            (
                format!("sha256/{}", body.replace('/', "_")),
                SpkiPinFault::Digest,
            ),
            (SpkiPin::of_spki(b"").to_string(), SpkiPinFault::OfNothing),
            (format!("sha256/{}=", "A".repeat(43)), SpkiPinFault::AllZero),
        ] {
            assert_eq!(text.parse::<SpkiPin>().unwrap_err(), fault, "{text:?}");
        }
    }

    #[test]
    fn a_key_matches_its_own_label_only() {
        let [one, two, three] = [b"1", b"2", b"3"].map(|text| SpkiPin::of_spki(text));
        let pins = PinSet::new(one, two).unwrap();
        assert_eq!(pins.label_of(&one), Some(PinLabel::Active));
        assert_eq!(pins.label_of(&two), Some(PinLabel::Backup));
        assert_eq!(pins.label_of(&three), None);
    }

    #[test]
    fn a_backup_that_is_the_active_pin_is_none() {
        let pin = SpkiPin::of_spki(b"1");
        assert_eq!(PinSet::new(pin, pin), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_pin_or_a_fault(text in "(sha256/)?[A-Za-z0-9+/=]{0,50}|.*") {
            if let Ok(pin) = text.parse::<SpkiPin>() {
                proptest::prop_assert_eq!(pin.to_string(), text);
            }
        }
    }
}
