//! Where a peer is dialled: `IP:port` is used as it stands, `host:port` is resolved by whoever may
//! ask a resolver (not the node) and handed in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// What each `host:port` of a policy resolved to.
pub type ResolvedHosts = BTreeMap<String, Vec<SocketAddr>>;

/// Most addresses that one host name may resolve to; more are not tried.
pub(crate) const MOST_RESOLVED: usize = 16;

/// One address of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    text: String,
    resolved: Vec<SocketAddr>,
}

/// Why a text is not a [`PeerAddress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerAddressFault {
    /// No port, port 0, or a port above 65535.
    #[error("has no port from 1 to 65535")]
    Port,
    /// `0.0.0.0`, `[::]` or a multicast address.
    #[error("is not the address of one peer")]
    NotOnePeer,
    /// Neither an IP address nor a host name (RFC 1123 §2.1).
    #[error("is neither `IP:port`, `[IPv6]:port` nor `host:port`")]
    Host,
}

impl PeerAddress {
    /// The address as the policy writes it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The socket addresses it stands for: one for a literal, none or more for a host name.
    pub fn resolved(&self) -> &[SocketAddr] {
        &self.resolved
    }

    /// The port that it is dialled at.
    pub fn port(&self) -> u16 {
        let port = self.text.rsplit_once(':').map(|(_, port)| port.parse());
        port.and_then(Result::ok).unwrap_or_default()
    }

    /// Whether this is `host:port`.
    pub fn is_host(&self) -> bool {
        self.text.parse::<SocketAddr>().is_err()
    }

    pub(super) fn resolve(&mut self, hosts: &ResolvedHosts) {
        if self.is_host() {
            let found = hosts.get(&self.text).map_or(&[][..], Vec::as_slice);
            self.resolved = found.iter().copied().take(MOST_RESOLVED).collect();
        }
    }

    pub(super) fn holds(&self, address: SocketAddr) -> bool {
        self.resolved
            .iter()
            .any(|own| canonical(*own) == canonical(address))
    }
}

/// IP and port alone: no IPv4-mapped form, no flow label.
fn canonical(address: SocketAddr) -> (std::net::IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

impl FromStr for PeerAddress {
    type Err = PeerAddressFault;

    fn from_str(text: &str) -> Result<Self, PeerAddressFault> {
        if let Ok(literal) = text.parse::<SocketAddr>() {
            let ip = literal.ip().to_canonical();
            if literal.port() == 0 {
                return Err(PeerAddressFault::Port);
            }
            if ip.is_unspecified() || ip.is_multicast() {
                return Err(PeerAddressFault::NotOnePeer);
            }
            // One spelling, so that two spellings of one address are found to be the same.
            return Ok(Self {
                text: literal.to_string(),
                resolved: vec![literal],
            });
        }
        let (host, port) = text.rsplit_once(':').ok_or(PeerAddressFault::Port)?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || !matches!(port.parse::<u16>(), Ok(1..)) {
            return Err(PeerAddressFault::Port);
        }
        if !is_host_name(host) {
            return Err(PeerAddressFault::Host);
        }
        Ok(Self {
            text: text.to_ascii_lowercase(),
            resolved: Vec::new(),
        })
    }
}

/// RFC 1123 §2.1. A name whose last label is all digits is a mistyped IPv4 address.
fn is_host_name(host: &str) -> bool {
    let label_is_good = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253
        && host.split('.').all(label_is_good)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_resolves_to_itself_and_a_host_to_nothing_yet() {
        let literal: PeerAddress = "127.0.0.1:7443".parse().unwrap();
        assert_eq!(literal.resolved(), ["127.0.0.1:7443".parse().unwrap()]);
        let literal: PeerAddress = "[0::1]:7443".parse().unwrap();
        assert_eq!((literal.as_str(), literal.is_host()), ("[::1]:7443", false));
        assert_eq!(literal.port(), 7443);
        let host: PeerAddress = "Node-B.example:7443".parse().unwrap();
        assert_eq!(
            (host.as_str(), host.is_host()),
            ("node-b.example:7443", true)
        );
        assert!(host.resolved().is_empty());
        assert_eq!(host.port(), 7443);
    }

    #[test]
    fn an_address_that_cannot_be_dialled_is_refused() {
        for (text, fault) in [
            ("", PeerAddressFault::Port),
            ("127.0.0.1", PeerAddressFault::Port),
            ("127.0.0.1:0", PeerAddressFault::Port),
            ("127.0.0.1:65536", PeerAddressFault::Port),
            ("node-b:+1", PeerAddressFault::Port),
            ("node-b", PeerAddressFault::Port),
            ("0.0.0.0:7443", PeerAddressFault::NotOnePeer),
            ("[::]:7443", PeerAddressFault::NotOnePeer),
            ("224.0.0.1:7443", PeerAddressFault::NotOnePeer),
            ("::1:7443", PeerAddressFault::Host),
            ("300.0.0.1:7443", PeerAddressFault::Host),
            (":7443", PeerAddressFault::Host),
            ("-b.example:7443", PeerAddressFault::Host),
            ("https://b.example:7443", PeerAddressFault::Host),
            ("b..example:7443", PeerAddressFault::Host),
        ] {
            assert_eq!(text.parse::<PeerAddress>().unwrap_err(), fault, "{text:?}");
        }
    }

    #[test]
    fn an_address_is_known_in_its_mapped_form_too() {
        let literal: PeerAddress = "127.0.0.1:7443".parse().unwrap();
        assert!(literal.holds("[::ffff:127.0.0.1]:7443".parse().unwrap()));
        assert!(!literal.holds("127.0.0.1:7444".parse().unwrap()));
        assert!(!literal.holds("127.0.0.2:7443".parse().unwrap()));
    }
}
