//! Who calls, in headers that no peer can forge.

use http::header::{CONNECTION, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers that start so are ours. Whoever else sends one, it is taken out.
const OURS: &str = "x-fastness-";

/// The peer's SPIFFE-form identity.
const PEER_ID: HeaderName = HeaderName::from_static("x-fastness-peer-id");
/// Which of its pins its key matched.
const PIN_LABEL: HeaderName = HeaderName::from_static("x-fastness-pin-label");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The peer behind an ingress connection.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Its short name in the policy.
    pub(crate) name: String,
    id: HeaderValue,
    pin_label: HeaderValue,
}

impl Caller {
    /// A caller by its name, identity and pin label; `None` when these are no header values, which no
    /// SPIFFE ID and no label is.
    pub(crate) fn new(name: &str, id: &str, pin_label: &str) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            id: id.parse().ok()?,
            pin_label: pin_label.parse().ok()?,
        })
    }

    /// Puts the caller into the headers of its request, instead of what the request says of it.
    pub(crate) fn stamp(&self, headers: &mut HeaderMap) {
        clean(headers);
        headers.insert(PEER_ID, self.id.clone());
        headers.insert(PIN_LABEL, self.pin_label.clone());
    }
}

/// Takes out what only we may say.
pub(crate) fn clean(headers: &mut HeaderMap) {
    if !headers.keys().any(is_ours) {
        return;
    }
    let forged: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_ours(name))
        .cloned()
        .collect();
    for name in forged {
        headers.remove(name);
    }
}

/// Whether an application may take `name` for one of ours: CGI and what comes from it (WSGI, PHP) do not
/// tell a `-` from a `_` (RFC 3875 §4.1.18), and some not from other marks.
fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    name.len() >= OURS.len()
        && name
            .iter()
            .zip(OURS.as_bytes())
            .all(|(byte, own)| match byte.is_ascii_alphanumeric() {
                true => byte == own,
                false => *own == b'-',
            })
}

/// Takes out what HTTP/1.1 says of one connection alone (RFC 9110 §7.6.1), and what `Connection` names: it
/// would make the next one take out ours.
pub(super) fn take_out_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let always = [
        CONNECTION,
        PROXY_CONNECTION,
        KEEP_ALIVE,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    for name in named.into_iter().chain(always) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_says_of_itself_is_replaced() {
        let caller = Caller::new("b", "spiffe://mesh.example/node/b", "active").unwrap();
        let mut headers = HeaderMap::new();
        headers.append(PEER_ID, "spiffe://mesh.example/admin".parse().unwrap());
        headers.append(PEER_ID, "twice".parse().unwrap());
        headers.append("x-fastness-anything", "1".parse().unwrap());
        for folded in ["x_fastness_peer_id", "x-fastness_peer-id", "x.fastness~new"] {
            headers.append(folded, "1".parse().unwrap());
        }
        headers.append("x-fast", "kept".parse().unwrap());
        headers.append("x-fastness", "kept".parse().unwrap());
        caller.stamp(&mut headers);
        let all: Vec<_> = headers.get_all(PEER_ID).iter().collect();
        assert_eq!(all, ["spiffe://mesh.example/node/b"]);
        assert_eq!(headers[PIN_LABEL], "active");
        assert_eq!(headers["x-fast"], "kept");
        assert_eq!(headers.len(), 4);
    }

    #[test]
    fn what_one_connection_says_of_itself_does_not_go_to_the_next() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, "x-fastness-peer-id, Upgrade".parse().unwrap());
        headers.append(CONNECTION, "close,x-hop,,bad name".parse().unwrap());
        for name in [
            "x-hop",
            "upgrade",
            "te",
            "transfer-encoding",
            "x-kept",
            "host",
        ] {
            headers.append(name, "1".parse().unwrap());
        }
        take_out_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "x-kept"]);
    }
}
