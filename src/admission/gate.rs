//! The half-open connections: accepted, their handshake not done.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as Turns, Notify};
use tokio::time::{timeout, timeout_at};

use super::bucket::{Bucket, Rate};
use super::sources::{Source, Sources};
use super::{Class, Turned};

/// Bounds of a [`Gate`].
#[derive(Clone, Copy, Debug)]
pub struct GateLimits {
    /// Half-open connections at once. A quarter is out of the strangers' reach.
    pub pending: usize,
    /// Half-open connections at once from one stranger's address (IPv6: from one /64).
    pub source_pending: u32,
    /// Signatures a second for one stranger's address, and for one listed address those that end as no
    /// peer's.
    pub source_signatures: u32,
    /// Signatures a second for all strangers together; 0: only listed addresses are answered.
    pub stranger_signatures: u32,
    /// Threads of the lane.
    pub lane_threads: u32,
}

impl GateLimits {
    /// Signatures for a listed address that do not end as a peer's. The rate is that of a stranger's
    /// address, one at the least. Whose a handshake is, is known when it ends, so as many more may be under
    /// way at once as keep the lane busy.
    fn unproven(&self) -> Rate {
        let rate = self.source_signatures.min(self.stranger_signatures).max(1);
        Rate {
            a_second: rate,
            at_once: rate.saturating_add(self.lane_threads),
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
    addresses: HashMap<IpAddr, Address>,
    sources: Sources,
    stranger_signatures: Bucket,
}

/// What a listed address has.
#[derive(Debug)]
struct Address {
    /// Connections inside.
    held: usize,
    unproven: Bucket,
    line: Arc<Line>,
}

/// Where those from a listed address wait whose signature it may not have yet, first come, first served.
#[derive(Debug, Default)]
struct Line {
    turns: Turns<()>,
    given_back: Notify,
}

/// The connections of one kind, the oldest first.
#[derive(Debug, Default)]
struct Crowd {
    /// Without a ClientHello yet, or with one that stands in its [`Line`].
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
    /// That of its listed address.
    line: Option<Arc<Line>>,
    displaced: Arc<Notify>,
}

/// What became of a wish for a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spent {
    Now,
    NotBefore(Duration),
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
                addresses: HashMap::new(),
                sources: Sources::default(),
                stranger_signatures: Bucket::full(now),
            }),
        })
    }

    /// Lets in a connection from `address`, which the policy lists or not.
    ///
    /// When it is full, a listed address takes the place of the oldest stranger, or of the oldest
    /// silent connection of its own or of a listed address that holds more, or at last of any of such
    /// an address; a stranger takes the place of the oldest silent stranger. Silent is what has cost us
    /// nothing yet.
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
        let mut line = None;
        if listed {
            if full && !inside.displace_stranger(true) && !inside.displace_listed(address) {
                return Err(Turned::Busy);
            }
            let address = inside.address(address, now);
            address.held += 1;
            line = Some(Arc::clone(&address.line));
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
            line,
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

    /// What is known of a listed address; of those that have nothing, nothing is kept.
    fn address(&mut self, address: IpAddr, now: Instant) -> &mut Address {
        if !self.addresses.contains_key(&address) {
            self.addresses
                .retain(|_, known| known.held > 0 || !known.unproven.is_full(now));
        }
        self.addresses.entry(address).or_insert_with(|| Address {
            held: 0,
            unproven: Bucket::full(now),
            line: Arc::default(),
        })
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
    /// `newcomer` would; when there is none, the oldest of such an address. Who means to speak has done so
    /// before most of those who do not have gone.
    fn displace_listed(&mut self, newcomer: IpAddr) -> bool {
        let held = |address| self.addresses.get(&address).map_or(0, |known| known.held);
        let more = held(newcomer) + 1;
        let holds_more = |place: &Place| held(place.address) > more;
        let Crowd { silent, heard } = &self.listed;
        let found = silent
            .iter()
            .find(|(_, place)| place.address == newcomer || holds_more(place))
            .or_else(|| heard.iter().find(|(_, place)| holds_more(place)));
        let Some(number) = found.map(|(number, _)| *number) else {
            return false;
        };
        let Some(place) = self.listed.remove(number) else {
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
        if let Some(known) = self.addresses.get_mut(&address) {
            known.held -= 1;
        }
    }
}

impl Crowd {
    fn len(&self) -> usize {
        self.silent.len() + self.heard.len()
    }

    fn remove(&mut self, number: u64) -> Option<Place> {
        self.silent
            .remove(&number)
            .or_else(|| self.heard.remove(&number))
    }
}

impl Entry {
    /// Whose it is.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Its ClientHello is here, and the answer costs a signature. From a listed address it waits for that
    /// until `until`: a peer and somebody else there cannot be told apart yet, and each has its turn.
    ///
    /// # Errors
    /// [`Turned`] when this address, or all strangers together, have had theirs.
    pub async fn heard(&self, until: Instant) -> Result<(), Turned> {
        let turn = timeout_at(until.into(), self.turn()).await;
        turn.unwrap_or(Err(Turned::SourceRate))
    }

    async fn turn(&self) -> Result<(), Turned> {
        let Some(line) = &self.line else {
            return self.spend(Instant::now()).map(drop);
        };
        let _first = line.turns.lock().await;
        while let Spent::NotBefore(wait) = self.spend(Instant::now())? {
            // Either is a reason to look again.
            let _ = timeout(wait, line.given_back.notified()).await;
        }
        Ok(())
    }

    fn spend(&self, now: Instant) -> Result<Spent, Turned> {
        let limits = &self.gate.limits;
        let mut inside = self.gate.inside();
        // Displaced in this moment: its place is another's already.
        if !inside.crowd(self.class).silent.contains_key(&self.number) {
            return Err(Turned::Displaced);
        }
        if self.class == Class::Stranger {
            let (source, rate) = (Source::of(self.address), limits.source_signatures);
            if !inside.sources.spend(source, rate, now) {
                return Err(Turned::SourceRate);
            }
            let rate = Rate::of(limits.stranger_signatures);
            let spent = inside.stranger_signatures.take(rate, now);
            spent.or(Err(Turned::StrangerRate))?;
        } else {
            let known = inside.address(self.address, now);
            if let Err(wait) = known.unproven.take(limits.unproven(), now) {
                return Ok(Spent::NotBefore(wait));
            }
        }
        let crowd = inside.crowd(self.class);
        let place = crowd.silent.remove(&self.number);
        crowd.heard.extend(place.map(|place| (self.number, place)));
        Ok(Spent::Now)
    }

    /// No signature was made after all, or it was a listed peer's: its address may have it again. What
    /// strangers had they have had.
    pub fn give_back(&self) {
        let Some(line) = &self.line else { return };
        let mut inside = self.gate.inside();
        if let Some(known) = inside.addresses.get_mut(&self.address) {
            known.unproven.put(self.gate.limits.unproven());
        }
        drop(inside);
        line.given_back.notify_one();
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
        // Who was displaced is out of it already.
        if crowd.remove(self.number).is_some() {
            inside.left(self.class, self.address);
        }
    }
}

#[cfg(test)]
mod tests;
