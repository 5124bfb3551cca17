//! Names that an operator puts into certificates, valid by construction. (Identities are
//! [`PeerId`](crate::policy::PeerId).)

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A host name for the subject alternative name: lower case, letters, digits and hyphens in labels
/// of at most 63 characters, no wildcard (RFC 5280 §4.2.1.6, RFC 1034 §3.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsName(String);

/// An authority's common name: 1 to 64 characters (ub-common-name, RFC 5280 §A.1), printable,
/// without `/`. End entities' common names always have a `/`, so that the two never meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AuthorityName(String);

/// The subject of a request: 1 to 64 printable characters (ub-common-name, RFC 5280 §A.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommonName(String);

/// A name that cannot stand in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// See [`DnsName`].
    #[error("'{text}' is not a host name: {problem} (example: node-a.mesh.example)")]
    DnsName {
        /// What was given, shortened.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// See [`AuthorityName`].
    #[error("'{0}' is not a name for an authority: 1 to 64 printable characters without '/'")]
    AuthorityName(String),
    /// The subject of a request.
    #[error("the subject is not a common name: 1 to 64 printable characters")]
    CommonName,
    /// More names than one certificate is given.
    #[error("more than {0} host names and addresses: issue fewer for one certificate")]
    TooMany(usize),
}

/// ub-common-name (RFC 5280 §A.1), in characters.
pub(super) const LONGEST_COMMON_NAME: usize = 64;
/// RFC 1035 §2.3.4, without the root's label.
const LONGEST_DNS_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

impl DnsName {
    /// The name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DnsName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match dns_fault(text) {
            None => Ok(Self(text.to_ascii_lowercase())),
            Some(problem) => Err(NameError::DnsName {
                text: shortened(text),
                problem,
            }),
        }
    }
}

fn dns_fault(text: &str) -> Option<&'static str> {
    if text.is_empty() || text.len() > LONGEST_DNS_NAME {
        return Some("it is empty or longer than 253 characters");
    }
    if text.parse::<IpAddr>().is_ok() {
        return Some("it is an address: give it with --ip");
    }
    if text.contains('*') {
        return Some("wildcards are not issued");
    }
    for label in text.split('.') {
        if label.is_empty() || label.len() > LONGEST_LABEL {
            return Some("a label is empty or longer than 63 characters");
        }
        if !label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return Some("a label has only letters, digits and '-'");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Some("a label starts or ends with '-'");
        }
    }
    let last = text.rsplit('.').next().unwrap_or(text);
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some("the last label is a number");
    }
    None
}

impl CommonName {
    /// The name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CommonName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_common_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::CommonName)
        }
    }
}

impl AuthorityName {
    /// The name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AuthorityName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_common_name(text) && !text.contains('/') {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::AuthorityName(shortened(text)))
        }
    }
}

/// Whether `text` can be a common name: 1 to 64 printable characters, no space at either end.
fn is_common_name(text: &str) -> bool {
    (1..=LONGEST_COMMON_NAME).contains(&text.chars().count())
        && text.trim() == text
        && !text.chars().any(char::is_control)
}

/// At most 80 characters, and nothing that moves a terminal's cursor.
fn shortened(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

macro_rules! as_text {
    ($($name:ty),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
    )+};
}

as_text!(DnsName, AuthorityName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_checked_and_written_in_lower_case() {
        assert_eq!(
            "Node-A.Mesh.example".parse::<DnsName>().unwrap().as_str(),
            "node-a.mesh.example"
        );
        assert!("localhost".parse::<DnsName>().is_ok());
        for text in [
            "",
            "*.example",
            "10.0.0.1",
            "::1",
            "a..b",
            "a.",
            "-a",
            "a_b",
            "a b",
            "ä.example",
            "a.1",
        ] {
            assert!(text.parse::<DnsName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_authority_name_is_short_printable_and_without_slash() {
        assert!("Mesh root 1 — Köln".parse::<AuthorityName>().is_ok());
        for text in ["", " a", "a/b", "a\nb", &"x".repeat(65)] {
            assert!(text.parse::<AuthorityName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_subject_that_is_no_common_name_is_refused() {
        assert!("a/b, Köln".parse::<CommonName>().is_ok());
        for text in ["", " ", "a\nb", &"x".repeat(65)] {
            assert!(text.parse::<CommonName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_error_does_not_carry_control_characters_to_the_terminal() {
        let error = "a\x1b[31m".parse::<DnsName>().unwrap_err().to_string();
        assert!(!error.contains('\x1b'));
    }
}
