//! The half-open connections: accepted, their handshake not done.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::Class;
use super::bucket::Bucket;
use super::sources::{Source, Sources};

/// Bounds of a [`Gate`].
#[derive(Clone, Copy, Debug)]
pub struct GateLimits {
    /// Half-open connections at once. A quarter is out of the strangers' reach.
    pub pending: usize,
    /// Half-open connections at once from one stranger's address (IPv6: from one /64).
    pub source_pending: u32,
    /// Signatures a second for one stranger's address.
    pub source_signatures: u32,
    /// Signatures a second for all strangers together; 0: only listed addresses are answered.
    pub stranger_signatures: u32,
}

/// Why a connection goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Turned {
    /// As many handshakes are under way as may be.
    #[error("too many handshakes are under way")]
    Busy,
    /// This stranger's address holds its share of half-open connections.
    #[error("too many half-open connections from this address")]
    SourceBusy,
    /// This stranger's address has had its signatures of this second.
    #[error("too many handshakes a second from this address")]
    SourceRate,
    /// All strangers together have had their signatures of this second.
    #[error("too many handshakes a second from strangers")]
    StrangerRate,
    /// Somebody else needed the place of a connection that had said nothing.
    #[error("its place was needed")]
    Displaced,
}

impl Turned {
    /// The name for logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Busy => "handshakes-busy",
            Self::SourceBusy => "source-busy",
            Self::SourceRate => "source-rate",
            Self::StrangerRate => "stranger-rate",
            Self::Displaced => "displaced",
        }
    }
}

/// Lets connections in, one [`Entry`] each.
#[derive(Debug)]
pub struct Gate {
    limits: GateLimits,
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    next: u64,
    listed: Crowd,
    strangers: Crowd,
    /// How many connections each listed address holds.
    held: HashMap<IpAddr, usize>,
    sources: Sources,
    stranger_signatures: Bucket,
}

/// The connections of one kind, the oldest first.
#[derive(Debug, Default)]
struct Crowd {
    /// Without a ClientHello yet.
    silent: BTreeMap<u64, Place>,
    heard: BTreeMap<u64, Place>,
}

#[derive(Debug)]
struct Place {
    address: IpAddr,
    displaced: Arc<Notify>,
}

/// A half-open connection's place; dropping it makes room.
#[derive(Debug)]
pub struct Entry {
    gate: Arc<Gate>,
    number: u64,
    address: IpAddr,
    class: Class,
    displaced: Arc<Notify>,
}

/// How many there are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateSizes {
    /// Half-open from listed addresses.
    pub listed: usize,
    /// Half-open from elsewhere.
    pub strangers: usize,
    /// Strangers' addresses that are remembered.
    pub sources: usize,
}

impl Gate {
    /// An empty one.
    pub fn new(limits: GateLimits, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            limits,
            inside: Mutex::new(Inside {
                next: 0,
                listed: Crowd::default(),
                strangers: Crowd::default(),
                held: HashMap::new(),
                sources: Sources::default(),
                stranger_signatures: Bucket::full(now),
            }),
        })
    }

    /// Lets in a connection from `address`, which the policy lists or not.
    ///
    /// When it is full, a listed address takes the place of the oldest stranger, or of the oldest
    /// silent connection of its own or of a listed address that holds more; a stranger takes the place
    /// of the oldest silent stranger. Silent is what has sent no whole ClientHello yet: what has, has
    /// cost us something already.
    ///
    /// # Errors
    /// [`Turned`] when it must be closed.
    pub fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        listed: bool,
        now: Instant,
    ) -> Result<Entry, Turned> {
        let address = address.to_canonical();
        let mut inside = self.inside();
        let full = inside.listed.len() + inside.strangers.len() >= self.limits.pending;
        if listed {
            if full && !inside.displace_stranger(true) && !inside.displace_listed(address) {
                return Err(Turned::Busy);
            }
            *inside.held.entry(address).or_default() += 1;
        } else {
            let source = Source::of(address);
            if !inside
                .sources
                .enter(source, self.limits.source_pending, now)
            {
                return Err(Turned::SourceBusy);
            }
            let full = full || inside.strangers.len() >= self.most_strangers();
            if full && !inside.displace_stranger(false) {
                inside.sources.leave(source);
                return Err(Turned::Busy);
            }
        }
        let number = inside.next;
        inside.next += 1;
        let displaced = Arc::new(Notify::new());
        let place = Place {
            address,
            displaced: Arc::clone(&displaced),
        };
        let class = if listed {
            Class::Listed
        } else {
            Class::Stranger
        };
        inside.crowd(class).silent.insert(number, place);
        drop(inside);
        Ok(Entry {
            gate: Arc::clone(self),
            number,
            address,
            class,
            displaced,
        })
    }

    /// How many are inside.
    pub fn sizes(&self) -> GateSizes {
        let inside = self.inside();
        GateSizes {
            listed: inside.listed.len(),
            strangers: inside.strangers.len(),
            sources: inside.sources.len(),
        }
    }

    /// What strangers may hold: all but a quarter, and at least one place each.
    fn most_strangers(&self) -> usize {
        let reserve = (self.limits.pending / 4).max(1);
        self.limits.pending.saturating_sub(reserve).max(1)
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn crowd(&mut self, class: Class) -> &mut Crowd {
        match class {
            Class::Own | Class::Listed => &mut self.listed,
            Class::Stranger => &mut self.strangers,
        }
    }

    /// Sends the oldest silent stranger away, or, with `anyone`, the oldest one at all.
    fn displace_stranger(&mut self, anyone: bool) -> bool {
        let found = match self.strangers.silent.pop_first() {
            None if anyone => self.strangers.heard.pop_first(),
            found => found,
        };
        let Some((_, place)) = found else {
            return false;
        };
        self.left(Class::Stranger, place.address);
        place.displaced.notify_one();
        true
    }

    /// Sends the oldest silent connection away that is `newcomer`'s own, or whose address holds more than
    /// `newcomer` would. Who means to speak has done so before most of those who do not have gone.
    fn displace_listed(&mut self, newcomer: IpAddr) -> bool {
        let held = |address| self.held.get(&address).copied().unwrap_or_default();
        let more = held(newcomer) + 1;
        let found = self
            .listed
            .silent
            .iter()
            .find(|(_, place)| place.address == newcomer || held(place.address) > more);
        let Some(number) = found.map(|(number, _)| *number) else {
            return false;
        };
        let Some(place) = self.listed.silent.remove(&number) else {
            return false;
        };
        self.left(Class::Listed, place.address);
        place.displaced.notify_one();
        true
    }

    /// A connection is out of its crowd.
    fn left(&mut self, class: Class, address: IpAddr) {
        if class == Class::Stranger {
            return self.sources.leave(Source::of(address));
        }
        if let Some(held) = self.held.get_mut(&address) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&address);
            }
        }
    }
}

impl Crowd {
    fn len(&self) -> usize {
        self.silent.len() + self.heard.len()
    }
}

impl Entry {
    /// Whose it is.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Its ClientHello is here, and the answer costs a signature.
    ///
    /// # Errors
    /// [`Turned`] when this address, or all strangers together, have had theirs.
    pub fn heard(&self, now: Instant) -> Result<(), Turned> {
        let mut inside = self.gate.inside();
        let crowd = inside.crowd(self.class);
        // Displaced in this moment: its place is another's already.
        let place = crowd.silent.remove(&self.number).ok_or(Turned::Displaced)?;
        crowd.heard.insert(self.number, place);
        if self.class != Class::Stranger {
            return Ok(());
        }
        let limits = &self.gate.limits;
        if !inside
            .sources
            .spend(Source::of(self.address), limits.source_signatures, now)
        {
            return Err(Turned::SourceRate);
        }
        match inside
            .stranger_signatures
            .take(limits.stranger_signatures, now)
        {
            true => Ok(()),
            false => Err(Turned::StrangerRate),
        }
    }

    /// Ends when somebody else needs the place.
    pub async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut inside = self.gate.inside();
        let crowd = inside.crowd(self.class);
        let here = crowd
            .silent
            .remove(&self.number)
            .or_else(|| crowd.heard.remove(&self.number));
        // Who was displaced is out of it already.
        if here.is_some() {
            inside.left(self.class, self.address);
        }
    }
}

#[cfg(test)]
mod tests;
