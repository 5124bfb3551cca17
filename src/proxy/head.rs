//! Who calls, in headers that no peer can forge.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers that start so are ours. Whoever else sends one, it is taken out.
const OURS: &str = "x-fastness-";

/// The peer's SPIFFE-form identity.
const PEER_ID: HeaderName = HeaderName::from_static("x-fastness-peer-id");
/// Which of its pins its key matched.
const PIN_LABEL: HeaderName = HeaderName::from_static("x-fastness-pin-label");

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
    if !headers.keys().any(|name| name.as_str().starts_with(OURS)) {
        return;
    }
    let forged: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(OURS))
        .cloned()
        .collect();
    for name in forged {
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
        headers.append("x-fast", "kept".parse().unwrap());
        caller.stamp(&mut headers);
        let all: Vec<_> = headers.get_all(PEER_ID).iter().collect();
        assert_eq!(all, ["spiffe://mesh.example/node/b"]);
        assert_eq!(headers[PIN_LABEL], "active");
        assert_eq!(headers["x-fast"], "kept");
        assert_eq!(headers.len(), 3);
    }
}
