//! Which calls a peer may make, by the path that each call names (grpc/doc/PROTOCOL-HTTP2.md, `Path`).
//!
//! A peer without a list may call everything. One with a list may call what stands in it and nothing
//! else: there is no method that is allowed in silence.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::Reason;

/// Longest pattern in bytes.
const LONGEST: usize = 256;

/// One entry of a list: `/package.Service/Method`, or `/package.Service/*` for all beneath
/// `/package.Service`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodPattern(Box<str>);

/// Why a text is not a [`MethodPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MethodPatternFault {
    /// It does not begin with `/`.
    #[error("does not begin with `/`")]
    NotAPath,
    /// There is only one segment.
    #[error("names no method")]
    NoMethod,
    /// `*` beside other characters, or before the end.
    #[error("has a `*` that does not stand for a whole method name at the end")]
    Star,
    /// A segment that is empty, `.` or `..`, or has other characters than RFC 3986 §2.3's unreserved.
    #[error("has a segment that is empty, `.`, `..`, or not of A-Z, a-z, 0-9, `.`, `_`, `-`, `~`")]
    Segment,
    /// More than 256 bytes.
    #[error("is longer than 256 bytes")]
    TooLong,
}

impl FromStr for MethodPattern {
    type Err = MethodPatternFault;

    fn from_str(text: &str) -> Result<Self, MethodPatternFault> {
        if text.len() > LONGEST {
            return Err(MethodPatternFault::TooLong);
        }
        let path = text.strip_prefix('/').ok_or(MethodPatternFault::NotAPath)?;
        let (service, method) = path.rsplit_once('/').ok_or(MethodPatternFault::NoMethod)?;
        let named = (method != "*").then_some(method);
        for segment in service.split('/').chain(named) {
            if segment.contains('*') {
                return Err(MethodPatternFault::Star);
            }
            let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-~".contains(&byte);
            if matches!(segment, "" | "." | "..") || !segment.bytes().all(is_good) {
                return Err(MethodPatternFault::Segment);
            }
        }
        Ok(Self(text.into()))
    }
}

/// The calls that a peer may make. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Methods(Option<Listed>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    /// As the policy writes them, in its order.
    patterns: Vec<MethodPattern>,
    /// Those without a star.
    paths: BTreeSet<Box<str>>,
    /// Those with one, without `/*`.
    services: BTreeSet<Box<str>>,
}

impl Methods {
    /// What stands in `patterns` and nothing else.
    pub fn listed(patterns: Vec<MethodPattern>) -> Self {
        let (mut paths, mut services) = (BTreeSet::new(), BTreeSet::new());
        for MethodPattern(text) in &patterns {
            match text.strip_suffix("/*") {
                Some(service) => services.insert(service.into()),
                None => paths.insert(text.clone()),
            };
        }
        Self(Some(Listed {
            patterns,
            paths,
            services,
        }))
    }

    /// The patterns; `None` when every call is allowed.
    pub fn patterns(&self) -> Option<impl Iterator<Item = &str>> {
        let listed = self.0.as_ref()?;
        Some(listed.patterns.iter().map(|pattern| &*pattern.0))
    }

    /// Decides about a call of `path`, as the peer wrote it. Allocates nothing.
    ///
    /// # Errors
    /// [`Reason::MethodNotAllowed`]. A path that two readers might read differently (`%`, `\`, `;`, `?`,
    /// an empty segment, `.` or `..`) is in no list.
    pub fn decide(&self, path: &str) -> Result<(), Reason> {
        match &self.0 {
            Some(listed) if !listed.has(path) => Err(Reason::MethodNotAllowed),
            _ => Ok(()),
        }
    }
}

impl Listed {
    fn has(&self, path: &str) -> bool {
        // Paths are longer than any pattern at a peer's will.
        let slashes = path.match_indices('/').map(|(at, _)| at);
        let mut above = slashes
            .take_while(|at| *at <= LONGEST)
            .map(|at| &path[..at])
            .chain([path]);
        self.paths.contains(path)
            || (above.any(|above| self.services.contains(above)) && is_plain(path))
    }
}

/// Whether every reader finds the same segments in `path`.
fn is_plain(path: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_graphic() && !b"%\\;?#*".contains(&byte);
    let mut segments = path.split('/').skip(1);
    path.bytes().all(is_good) && !segments.any(|segment| matches!(segment, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn methods(patterns: &[&str]) -> Methods {
        Methods::listed(patterns.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn a_pattern_is_a_method_or_all_of_a_service() {
        for good in [
            "/package.Service/Method",
            "/package.Service/*",
            "/node.NodeServices/handshake",
            "/api/v1/*",
        ] {
            assert!(good.parse::<MethodPattern>().is_ok(), "{good}");
        }
        let long = format!("/a/{}", "b".repeat(254));
        for (text, fault) in [
            ("", MethodPatternFault::NotAPath),
            ("package.Service/Method", MethodPatternFault::NotAPath),
            ("*", MethodPatternFault::NotAPath),
            ("/*", MethodPatternFault::NoMethod),
            ("/package.Service", MethodPatternFault::NoMethod),
            ("/package.Service/", MethodPatternFault::Segment),
            ("//Method", MethodPatternFault::Segment),
            ("/a//b", MethodPatternFault::Segment),
            ("/a/../b", MethodPatternFault::Segment),
            ("/a/.", MethodPatternFault::Segment),
            ("/a/b%63", MethodPatternFault::Segment),
            ("/a/b?c", MethodPatternFault::Segment),
            ("/a/b ", MethodPatternFault::Segment),
            ("/a/ü", MethodPatternFault::Segment),
            ("/a/Get*", MethodPatternFault::Star),
            ("/*/Get", MethodPatternFault::Star),
            ("/a/*/b", MethodPatternFault::Star),
            ("/a.*/b", MethodPatternFault::Star),
            (&long, MethodPatternFault::TooLong),
        ] {
            assert_eq!(text.parse::<MethodPattern>(), Err(fault), "{text:?}");
        }
    }

    #[test]
    fn without_a_list_every_call_is_allowed_and_with_an_empty_one_none() {
        for path in ["/a.S/M", "", "*", "//", "/a.S/M?x"] {
            assert_eq!(Methods::default().decide(path), Ok(()), "{path:?}");
            let denied = Err(Reason::MethodNotAllowed);
            assert_eq!(methods(&[]).decide(path), denied, "{path:?}");
        }
    }

    #[test]
    fn a_listed_method_is_allowed_and_the_one_beside_it_is_not() {
        let one = methods(&["/a.S/M", "/b.T/*"]);
        for path in ["/a.S/M", "/b.T/M", "/b.T/Other"] {
            assert_eq!(one.decide(path), Ok(()), "{path}");
        }
        for path in [
            "/a.S/N", "/a.S/", "/a.S", "/a.S/M/N", "/a.SS/M", "/b.TT/M", "/b/T/M", "/",
        ] {
            assert_eq!(one.decide(path), Err(Reason::MethodNotAllowed), "{path}");
        }
    }

    #[test]
    fn no_other_spelling_of_a_path_is_allowed() {
        let rules = methods(&["/a.S/M", "/b.T/*"]);
        for path in [
            "",
            "*",
            "/",
            "a.S/M",
            "/A.S/M",
            "/a.s/m",
            "/a.S/m",
            "/a.S/M/",
            "//a.S/M",
            "/a.S//M",
            "/a.S/%4D",
            "/a%2ES/M",
            "/a.S%2FM",
            "/a.S/M?",
            "/a.S/M?x=1",
            "/a.S/M#x",
            "/a.S/M;x",
            "/a.S/./M",
            "/a.S/M ",
            "/a.S/M\0",
            "/b.T/../c.U/M",
            "/b.T/..",
            "/b.T/.",
            "/b.T/",
            "/b.T//M",
            "/b.T/%2e%2e/c.U/M",
            "/b.T/..%2fc.U/M",
            "/b.T/..;/c.U/M",
            "/b.T/..\\c.U\\M",
            "/b.T/M?/c.U/M",
            "/b.T/*",
            "/b.T/M\u{e9}",
            "//b.T/M",
            "/x//b.T/M",
            "/x/../b.T/M",
        ] {
            assert_eq!(
                rules.decide(path),
                Err(Reason::MethodNotAllowed),
                "{path:?}"
            );
        }
    }

    #[test]
    fn a_star_is_all_beneath_for_an_application_that_speaks_http() {
        let rules = methods(&["/api/v1/*"]);
        for path in ["/api/v1", "/api/v1/x", "/api/v1/x/y:z@1"] {
            assert_eq!(rules.decide(path), Ok(()), "{path}");
        }
        for path in ["/api", "/api/v2/x", "/api/v10", "/api/v1/x/../../v2"] {
            assert_eq!(rules.decide(path), Err(Reason::MethodNotAllowed), "{path}");
        }
        let deep = format!("/api/v1{}", "/a".repeat(5000));
        assert_eq!(rules.decide(&deep), Ok(()));
    }

    proptest::proptest! {
        #[test]
        fn what_is_allowed_is_what_stands_in_the_list(service in "[a-c.]{0,4}", method in "[A-C]{0,2}|\\*", path in "/?[a-c./%]{0,5}/?[A-C*?]{0,3}") {
            let text = format!("/{service}/{method}");
            if let Ok(pattern) = text.parse::<MethodPattern>() {
                let rules = Methods::listed(vec![pattern]);
                let beneath = path.strip_prefix(&format!("/{service}/"));
                let plain = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
                match rules.decide(&path) {
                    Ok(()) => proptest::prop_assert!(path == text || method == "*" && path.starts_with(&format!("/{service}")), "{} by {}", path, text),
                    Err(_) => proptest::prop_assert!(path != text || method == "*"),
                }
                if method == "*" && beneath.is_some_and(plain) {
                    proptest::prop_assert_eq!(rules.decide(&path), Ok(()));
                }
            }
        }
    }
}
