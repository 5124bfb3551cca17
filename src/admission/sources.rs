//! What each stranger's address has taken. Bounded: an attacker with many addresses costs us a table
//! of fixed size, and is met by the rate for all strangers together.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use super::bucket::{Bucket, Rate};

/// Most addresses remembered at once: about a megabyte.
const MOST: usize = 10_000;

/// One address, as far as it can be told apart: whoever has one IPv6 address has its whole /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl Source {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(network).into()
            }
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Sources {
    known: HashMap<Source, Taken>,
}

#[derive(Debug)]
struct Taken {
    pending: u32,
    signatures: Bucket,
}

impl Sources {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// One more half-open connection. False when `most` are there, or nothing can be forgotten.
    #[must_use]
    pub(super) fn enter(&mut self, source: Source, most: u32, now: Instant) -> bool {
        if self.known.len() >= MOST && !self.known.contains_key(&source) {
            self.forget(now);
            if self.known.len() >= MOST {
                return false;
            }
        }
        let new = || Taken {
            pending: 0,
            signatures: Bucket::full(now),
        };
        let taken = self.known.entry(source).or_insert_with(new);
        if taken.pending >= most {
            return false;
        }
        taken.pending += 1;
        true
    }

    /// One signature more. False when `rate` a second are spent.
    #[must_use]
    pub(super) fn spend(&mut self, source: Source, rate: u32, now: Instant) -> bool {
        self.known
            .get_mut(&source)
            .is_some_and(|taken| taken.signatures.take(Rate::of(rate), now).is_ok())
    }

    pub(super) fn leave(&mut self, source: Source) {
        if let Some(taken) = self.known.get_mut(&source) {
            taken.pending = taken.pending.saturating_sub(1);
        }
    }

    /// Makes room: addresses that are as good as new first, then all without a connection. Never a
    /// few, so that the walk is paid by thousands of entries.
    fn forget(&mut self, now: Instant) {
        self.known
            .retain(|_, taken| taken.pending > 0 || !taken.signatures.is_full(now));
        if self.known.len() > MOST / 2 {
            self.known.retain(|_, taken| taken.pending > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_and_a_mapped_ipv4_address_are_one_source() {
        let source = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.2"), source("192.0.2.1"));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_nobody_who_is_connected() {
        let now = Instant::now();
        let mut sources = Sources::default();
        let number = |number: u32| Source::of(IpAddr::V4(number.into()));
        assert!(sources.enter(number(0), 1, now));
        for stranger in 1..200_000 {
            assert!(sources.enter(number(stranger), 1, now));
            assert!(sources.spend(number(stranger), 5, now));
            sources.leave(number(stranger));
            assert!(sources.len() <= MOST);
        }
        assert!(!sources.enter(number(0), 1, now), "it is still connected");
        sources.leave(number(0));
        assert!(sources.enter(number(0), 1, now));
    }

    #[test]
    fn a_table_of_connected_sources_takes_no_more() {
        let now = Instant::now();
        let mut sources = Sources::default();
        let number = |number: usize| Source::of(IpAddr::V4(u32::try_from(number).unwrap().into()));
        for stranger in 0..MOST {
            assert!(sources.enter(number(stranger), 1, now));
        }
        assert!(!sources.enter(number(MOST), 1, now));
        sources.leave(number(7));
        assert!(sources.enter(number(MOST), 1, now) || sources.len() == MOST);
    }
}
