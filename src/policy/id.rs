//! A peer's identity: a URI of SPIFFE form, read strictly so that two spellings are two peers.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

const SCHEME: &str = "spiffe://";
/// Longest identity in bytes (SPIFFE-ID §2.3).
const LONGEST: usize = 2048;
/// Longest trust domain in bytes (SPIFFE-ID §2.1).
const LONGEST_TRUST_DOMAIN: usize = 255;

/// A SPIFFE ID (<https://spiffe.io/docs/latest/spiffe-specs/spiffe-id/>):
/// `spiffe://trust-domain/path`. Cheap to clone.
///
/// The path is not empty here: the bare trust domain names the authority and not a workload
/// (X509-SVID §3.1).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(Arc<str>);

/// Why a text is not a [`PeerId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdFault {
    /// It does not begin with `spiffe://`, in lower case.
    #[error("does not begin with `spiffe://`")]
    Scheme,
    /// More than 2048 bytes.
    #[error("is longer than 2048 bytes")]
    TooLong,
    /// Not 1 … 255 of `a-z 0-9 . _ -`.
    #[error("has a trust domain that is not 1 to 255 of a-z, 0-9, `.`, `_`, `-`")]
    TrustDomain,
    /// No path, or a segment that is empty, `.`, `..` or has other characters.
    #[error("has a path segment that is empty, `.`, `..`, or not of A-Z, a-z, 0-9, `.`, `_`, `-`")]
    Path,
}

impl PeerId {
    /// The identity as it stands in the certificate.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain: what stands between `spiffe://` and the next slash.
    pub fn trust_domain(&self) -> &str {
        let rest = self.0.strip_prefix(SCHEME).unwrap_or_default();
        rest.split_once('/').map_or(rest, |(domain, _)| domain)
    }

    /// Checks `text` and changes nothing in it.
    ///
    /// # Errors
    /// [`PeerIdFault`] names the first rule that is broken.
    pub fn check(text: &str) -> Result<(), PeerIdFault> {
        if text.len() > LONGEST {
            return Err(PeerIdFault::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(PeerIdFault::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !(1..=LONGEST_TRUST_DOMAIN).contains(&trust_domain.len())
            || !trust_domain
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        {
            return Err(PeerIdFault::TrustDomain);
        }
        let segment_is_good = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        };
        path.split('/')
            .all(segment_is_good)
            .then_some(())
            .ok_or(PeerIdFault::Path)
    }
}

impl FromStr for PeerId {
    type Err = PeerIdFault;

    fn from_str(text: &str) -> Result<Self, PeerIdFault> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }
}

/// For maps by identity.
impl Borrow<str> for PeerId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spiffe_id_is_read_unchanged() {
        for text in [
            "spiffe://mesh.example/node/a",
            "spiffe://a/b",
            "spiffe://mesh_1.example-2/Node/A.b_c-d/...",
        ] {
            assert_eq!(text.parse::<PeerId>().unwrap().as_str(), text);
        }
        let id: PeerId = "spiffe://mesh.example/node/a".parse().unwrap();
        assert_eq!(id.trust_domain(), "mesh.example");
    }

    #[test]
    fn anything_but_the_strict_form_is_refused() {
        let long = |bytes: usize| "a".repeat(bytes);
        for (text, fault) in [
            (String::new(), PeerIdFault::Scheme),
            ("SPIFFE://a/b".into(), PeerIdFault::Scheme),
            ("https://a/b".into(), PeerIdFault::Scheme),
            ("spiffe:/a/b".into(), PeerIdFault::Scheme),
            ("spiffe:///b".into(), PeerIdFault::TrustDomain),
            ("spiffe://".into(), PeerIdFault::TrustDomain),
            ("spiffe://Mesh/b".into(), PeerIdFault::TrustDomain),
            ("spiffe://mesh:1/b".into(), PeerIdFault::TrustDomain),
            ("spiffe://me@mesh/b".into(), PeerIdFault::TrustDomain),
            ("spiffe://mésh/b".into(), PeerIdFault::TrustDomain),
            (
                format!("spiffe://{}/b", long(256)),
                PeerIdFault::TrustDomain,
            ),
            ("spiffe://a".into(), PeerIdFault::Path),
            ("spiffe://a/".into(), PeerIdFault::Path),
            ("spiffe://a/b/".into(), PeerIdFault::Path),
            ("spiffe://a//b".into(), PeerIdFault::Path),
            ("spiffe://a/./b".into(), PeerIdFault::Path),
            ("spiffe://a/../b".into(), PeerIdFault::Path),
            ("spiffe://a/%62".into(), PeerIdFault::Path),
            ("spiffe://a/b?c".into(), PeerIdFault::Path),
            ("spiffe://a/b#c".into(), PeerIdFault::Path),
            ("spiffe://a/b\0".into(), PeerIdFault::Path),
            (format!("spiffe://a/{}", long(2048)), PeerIdFault::TooLong),
        ] {
            assert_eq!(text.parse::<PeerId>().unwrap_err(), fault, "{text:?}");
        }
    }

    #[test]
    fn the_longest_identity_is_accepted() {
        let text = format!(
            "spiffe://{}/{}",
            "a".repeat(255),
            "b".repeat(2048 - 9 - 255 - 1)
        );
        assert_eq!(text.len(), 2048);
        assert!(text.parse::<PeerId>().is_ok());
        assert!(format!("{text}b").parse::<PeerId>().is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_identity_or_a_fault(text in "(spiffe://)?[a-z./%A-Z]{0,40}|.*") {
            if let Ok(id) = text.parse::<PeerId>() {
                proptest::prop_assert_eq!(id.as_str(), text);
            }
        }
    }
}
