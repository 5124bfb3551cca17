//! The peers' names: looked up at a start and a reload, and again as long as they are not found.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::resolver::{Looked, Lookups, Resolver};
use super::{Event, Supervisor};
use crate::policy::ResolvedHosts;

/// When names that were not found are looked up again: after the first wait, then twice as long each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The names that were not found, over all resolvers.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// How long they waited the last time that all of them had had their turn.
    waited: Option<Duration>,
    waiting: bool,
    /// Those that had their turn: the others come first.
    begun: BTreeSet<String>,
    killed: bool,
}

impl Supervisor {
    /// How the next resolver is started.
    pub(super) fn resolver(&self) -> Resolver {
        Resolver::new(&self.config, self.again.killed)
    }

    /// Looks up the peers' names for the first time. Whether nobody said meanwhile that we are to stop.
    pub(super) async fn resolve(&mut self) -> bool {
        let hosts = self.config.hosts.iter().cloned().collect();
        let resolver = self.resolver();
        let mut looked = tokio::select! {
            looked = resolver.look_up(hosts) => looked,
            () = self.signals.end() => return false,
        };
        self.note(&mut looked);
        self.config.resolved = self.take_in(looked);
        self.look_again_later();
        true
    }

    /// The names in force that stand for nothing.
    pub(super) fn unresolved(&self) -> impl Iterator<Item = &String> {
        let resolved = self.config.resolved.iter();
        let without = resolved.filter(|(_, addresses)| addresses.is_empty());
        without.map(|(host, _)| host)
    }

    /// Has names that were not found looked up again, from the shortest wait on.
    pub(super) fn look_again_soon(&mut self) {
        self.again.waited = None;
        self.look_again_later();
    }

    fn look_again_later(&mut self) {
        if self.again.waiting || self.unresolved().next().is_none() {
            return;
        }
        let begun = |host| self.again.begun.contains(host);
        let had_their_turn = self.unresolved().all(begun);
        let longer = |waited| Duration::min(waited * 2, LONGEST_WAIT);
        let wait = match had_their_turn {
            true => self.again.waited.map_or(FIRST_WAIT, longer),
            false => FIRST_WAIT,
        };
        if had_their_turn {
            self.again.waited = Some(wait);
        }
        self.again.waiting = true;
        self.later(Instant::now() + wait, Event::LookAgain);
    }

    /// Has them looked up, those first that had no turn yet; [`Event::Looked`] tells what came of it.
    pub(super) fn look_again(&mut self) {
        let all = self.unresolved().cloned();
        let (begun, mut hosts): (Vec<_>, Vec<_>) =
            all.partition(|host| self.again.begun.contains(host));
        if hosts.is_empty() {
            self.again.begun.clear();
        }
        hosts.extend(begun);
        if self.draining || hosts.is_empty() {
            self.again = Again::default();
            return;
        }
        let (events, resolver) = (self.events.clone(), self.resolver());
        tokio::spawn(async move {
            let looked = resolver.look_up(hosts).await;
            let _ = events.send(Event::Looked(looked)).await;
        });
    }

    /// What was found at last goes to the node; where a reload is under way, the next time.
    pub(super) fn on_looked(&mut self, mut looked: Looked) {
        self.again.waiting = false;
        self.note(&mut looked);
        let mut news = false;
        for (host, outcome) in looked.lookups {
            // A reload may have found it meanwhile, or taken it out.
            let waits = self.config.resolved.get_mut(&host);
            let waits = waits.filter(|addresses| addresses.is_empty());
            match (waits, outcome) {
                (Some(place), Ok(addresses)) if !self.reloads.is_running() => {
                    tracing::info!(host, "a peer's address resolves now");
                    *place = addresses;
                    news = true;
                }
                (_, Ok(_)) => {}
                (_, Err(error)) => tracing::debug!(host, error, "does not resolve yet"),
            }
        }
        if news {
            self.push_generation();
        }
        self.look_again_later();
    }

    /// Keeps what a resolver says beside its answers.
    pub(super) fn note(&mut self, looked: &mut Looked) {
        self.unsound = self.unsound.take().or(looked.unsound.take());
        self.again.begun.append(&mut looked.begun);
        self.again.killed = looked.killed;
    }

    /// What the names stand for now.
    pub(super) fn take_in(&self, looked: Looked) -> ResolvedHosts {
        keep_known(looked.lookups, &self.config.resolved)
    }
}

/// What `lookups` found; what a name stood for before, in `known`, where it is not found now.
fn keep_known(lookups: Lookups, known: &ResolvedHosts) -> ResolvedHosts {
    let resolve = |(host, outcome): (String, Result<Vec<SocketAddr>, String>)| {
        let error = match outcome {
            Ok(addresses) => return (host, addresses),
            Err(error) => error,
        };
        let last = known.get(&host).cloned().unwrap_or_default();
        if last.is_empty() {
            tracing::warn!(
                host,
                error,
                "a peer's address does not resolve; it cannot be dialled until it is found: looked up again within a minute"
            );
        } else {
            tracing::warn!(
                host,
                error,
                "a peer's address does not resolve now; what it stood for before holds on"
            );
        }
        (host, last)
    };
    lookups.into_iter().map(resolve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_found_stands_for_what_it_did_before() {
        let (old, new) = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 1).into());
        let lookups = Lookups::from([
            ("gone:1".into(), Err("no answer".into())),
            ("moved:1".into(), Ok(vec![new])),
            ("never:1".into(), Err("no answer".into())),
        ]);
        let known = ResolvedHosts::from([
            ("gone:1".into(), vec![old]),
            ("moved:1".into(), vec![old]),
            ("taken out:1".into(), vec![old]),
        ]);
        let expected = ResolvedHosts::from([
            ("gone:1".into(), vec![old]),
            ("moved:1".into(), vec![new]),
            ("never:1".into(), vec![]),
        ]);
        assert_eq!(keep_known(lookups, &known), expected);
    }
}
