//! `peers.toml` to a [`PeerPolicy`]: all of it or none, and every fault at once.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use super::address::PeerAddress;
use super::{MethodPattern, Methods, Peer, PeerId, PeerPolicy, PinSet, SpkiPin};
use crate::fault::Fault;
use crate::toml_faults;

/// Larger texts are not read: a bound on the time that one reload can take.
const LONGEST_TEXT: usize = 4 << 20;
/// A mesh is smaller; each peer costs about a kilobyte.
const MOST_PEERS: usize = 10_000;
/// Every address may be tried in turn when a peer is dialled.
const MOST_ADDRESSES: usize = 16;
/// Services have fewer; `/package.Service/*` is one for all of a service.
const MOST_METHODS: usize = 1000;
/// As many faults as one can mend in one go.
const MOST_FAULTS: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    #[serde(default)]
    peer: Vec<PeerSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerSpec {
    name: Spanned<String>,
    id: Spanned<String>,
    #[serde(default)]
    addresses: Vec<Spanned<String>>,
    server: Option<Spanned<PinsSpec>>,
    client: Option<Spanned<PinsSpec>>,
    methods: Option<Spanned<Vec<Spanned<String>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PinsSpec {
    active: Option<Spanned<String>>,
    backup: Option<Spanned<String>>,
}

impl PeerPolicy {
    /// Reads a peer policy. Its host names are not resolved yet: see [`PeerPolicy::hosts`].
    ///
    /// # Errors
    /// Every fault with its key (`peer[1].server.active`), its line and its mend. The caller, who
    /// knows the file, adds it with [`Fault::in_file`].
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        if text.len() > LONGEST_TEXT {
            let mend = format!("keep it under {} MiB", LONGEST_TEXT >> 20);
            return Err(vec![Fault::new("", "the policy is too long", mend)]);
        }
        let mut faults = Vec::new();
        let spec = toml_faults::parse_collecting::<Spec>(text, "", &mut faults);
        for fault in &mut faults {
            fault.file = None;
        }
        let Some(spec) = spec else {
            return Err(faults);
        };
        if spec.peer.len() > MOST_PEERS {
            let mend = format!("list at most {MOST_PEERS}");
            faults.push(Fault::new("peer", "too many peers", mend));
            return Err(faults);
        }
        let mut reading = Reading {
            text,
            faults,
            seen: HashMap::new(),
        };
        let mut peers = Vec::with_capacity(spec.peer.len());
        for (index, spec) in spec.peer.into_iter().enumerate() {
            peers.extend(reading.peer(&format!("peer[{index}]"), &spec));
            if reading.faults.len() >= MOST_FAULTS {
                break;
            }
        }
        if reading.faults.is_empty() {
            Ok(Self::of(peers))
        } else {
            reading.faults.sort_by_key(|fault| fault.line);
            Err(reading.faults)
        }
    }
}

/// What must differ between all peers.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Unique {
    Name(String),
    Id(PeerId),
    Address(String),
    Key(SpkiPin),
}

struct Reading<'a> {
    text: &'a str,
    faults: Vec<Fault>,
    /// Where each unique thing stands.
    seen: HashMap<Unique, String>,
}

impl Reading<'_> {
    fn peer(&mut self, key: &str, spec: &PeerSpec) -> Option<Peer> {
        let name = self.name(&format!("{key}.name"), &spec.name);
        let id = self.read::<PeerId>(
            &format!("{key}.id"),
            &spec.id,
            "write spiffe://trust-domain/path",
        );
        if let Some(id) = &id {
            self.once(&format!("{key}.id"), &spec.id, Unique::Id(id.clone()));
        }
        let addresses = self.addresses(key, spec);
        let server = self.pins(&format!("{key}.server"), spec.server.as_ref());
        let client = self.pins(&format!("{key}.client"), spec.client.as_ref());
        // Of a role that has a fault it is not said that it is missing.
        let no_server = spec.server.is_none() && !self.knows(&format!("{key}.server"));
        let no_client = spec.client.is_none() && !self.knows(&format!("{key}.client"));
        if no_server && no_client {
            let mend = "add [peer.server] or [peer.client] with its pins";
            let named = toml_faults::is_in_text(self.text, spec.name.span().start);
            let place = if named { &spec.name } else { &spec.id };
            self.fault(key, place, "may act in no role", mend);
        }
        if let (Some(address), true) = (spec.addresses.first(), no_server) {
            let mend = "add [peer.server] with its pins, or remove the addresses";
            self.fault(
                &format!("{key}.addresses"),
                address,
                "is dialled but may not act as a server",
                mend,
            );
        }
        let methods = self.methods(key, spec, no_client);
        Some(Peer {
            name: name?,
            id: id?,
            addresses,
            server,
            client,
            methods: Arc::new(methods),
        })
    }

    fn methods(&mut self, key: &str, spec: &PeerSpec, no_client: bool) -> Methods {
        let Some(listed) = &spec.methods else {
            return Methods::default();
        };
        let key = format!("{key}.methods");
        if no_client {
            let mend = "add [peer.client] with its pins, or remove the methods";
            self.fault(
                &key,
                listed,
                "is about calls of a peer that may not act as a client",
                mend,
            );
        }
        let texts = listed.get_ref();
        if let Some(text) = texts.get(MOST_METHODS) {
            let mend =
                format!("list at most {MOST_METHODS}; `/package.Service/*` is all of a service");
            self.fault(&key, text, "has too many entries", mend);
        }
        let mend = "write `/package.Service/Method`, or `/package.Service/*` for all of a service; \
                    without methods a peer may call everything";
        let mut patterns = Vec::new();
        for (index, text) in texts.iter().take(MOST_METHODS).enumerate() {
            patterns.extend(self.read::<MethodPattern>(&format!("{key}[{index}]"), text, mend));
        }
        Methods::listed(patterns)
    }

    fn name(&mut self, key: &str, name: &Spanned<String>) -> Option<Arc<str>> {
        let text = name.get_ref();
        let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if !(1..=63).contains(&text.len()) || !text.bytes().all(good) {
            self.fault(
                key,
                name,
                "is not a short name",
                "use 1 to 63 of a-z, 0-9 and `-`",
            );
            return None;
        }
        self.once(key, name, Unique::Name(text.clone()));
        Some(text.as_str().into())
    }

    fn addresses(&mut self, key: &str, spec: &PeerSpec) -> Vec<PeerAddress> {
        if let Some(address) = spec.addresses.get(MOST_ADDRESSES) {
            let mend = format!("list at most {MOST_ADDRESSES}");
            self.fault(
                &format!("{key}.addresses"),
                address,
                "has too many entries",
                mend,
            );
        }
        let mut addresses = Vec::new();
        for (index, text) in spec.addresses.iter().take(MOST_ADDRESSES).enumerate() {
            let key = format!("{key}.addresses[{index}]");
            let mend = "write `IP:port`, `[IPv6]:port` or `host:port`";
            if let Some(address) = self.read::<PeerAddress>(&key, text, mend) {
                self.once(&key, text, Unique::Address(address.as_str().to_owned()));
                addresses.push(address);
            }
        }
        addresses
    }

    fn pins(&mut self, key: &str, spec: Option<&Spanned<PinsSpec>>) -> Option<PinSet> {
        let spec = spec?;
        let PinsSpec { active, backup } = spec.get_ref();
        let missing = "is missing";
        let active = self.spki_pin(&format!("{key}.active"), spec, active.as_ref(), missing);
        let missing = "is missing: without a backup pin a lost key locks the peer out";
        let backup = self.spki_pin(&format!("{key}.backup"), spec, backup.as_ref(), missing);
        // Equal pins are a fault already: every key stands once in a policy.
        PinSet::new(active?, backup?)
    }

    fn spki_pin(
        &mut self,
        key: &str,
        table: &Spanned<PinsSpec>,
        text: Option<&Spanned<String>>,
        missing: &str,
    ) -> Option<SpkiPin> {
        let mend = "`fastness spki-pin` prints the pin of a certificate, a request or a token key";
        let Some(text) = text else {
            if !self.knows(key) {
                self.fault(key, table, missing, mend);
            }
            return None;
        };
        let pin = self.read::<SpkiPin>(key, text, mend)?;
        self.once(key, text, Unique::Key(pin));
        Some(pin)
    }

    fn read<T>(&mut self, key: &str, text: &Spanned<String>, mend: &str) -> Option<T>
    where
        T: FromStr<Err: std::fmt::Display>,
    {
        match text.get_ref().parse() {
            Ok(value) => Some(value),
            Err(problem) => {
                self.fault(key, text, problem.to_string(), mend);
                None
            }
        }
    }

    fn once<T>(&mut self, key: &str, place: &Spanned<T>, thing: Unique) {
        if let Some(first) = self.seen.get(&thing) {
            let problem = format!("is the same as {first}");
            let mend = match thing {
                Unique::Name(_) | Unique::Id(_) => "give each peer its own, or merge the two",
                Unique::Address(_) => "give each address to one peer, once",
                Unique::Key(_) => {
                    "give each peer and role a key of its own, and each key a different backup"
                }
            };
            self.fault(key, place, problem, mend);
        } else {
            self.seen.insert(thing, key.to_owned());
        }
    }

    /// Whether a fault of `key` is known.
    fn knows(&self, key: &str) -> bool {
        self.faults.iter().any(|fault| fault.key == key)
    }

    /// Of what stands in for a missing key nothing is said: that it is missing, is.
    fn fault<T>(
        &mut self,
        key: &str,
        place: &Spanned<T>,
        problem: impl Into<String>,
        mend: impl Into<String>,
    ) {
        let start = place.span().start;
        if toml_faults::is_in_text(self.text, start) {
            let line = toml_faults::line_of(self.text, start);
            self.faults
                .push(Fault::new(key, problem, mend).at_line(line));
        }
    }
}

#[cfg(test)]
mod tests;
