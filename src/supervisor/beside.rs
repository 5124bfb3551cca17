//! What may have to wait, for a disk or a nameserver, is done beside the main loop: the supervisor is there
//! for its roles, its watchdog and its administrators meanwhile.

use std::collections::{BTreeMap, BTreeSet, btree_set};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Supervisor;
use crate::policy::ResolvedHosts;

/// Names that are looked up at once, those included that nobody waits for any more: getaddrinfo(3) cannot
/// be called off.
const MOST_LOOKUPS: usize = 16;
/// How long all look-ups of a policy may take. A resolver in the same network answers in milliseconds; this
/// is long enough for one that asks a second server.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does `work` on a thread of its own, which ends with the process. An error when none can be had.
pub(super) fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> oneshot::Receiver<T> {
    let (done, receiver) = oneshot::channel();
    let started = thread::Builder::new().name("beside".into()).spawn(move || {
        // Whoever asked may have gone.
        let _ = done.send(work());
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread is to be had");
    }
    receiver
}

/// What each name resolved to, or why it did not.
pub(super) type Lookups = BTreeMap<String, Result<Vec<SocketAddr>, String>>;

/// Looks names up.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolver {
    under_way: Arc<AtomicUsize>,
}

impl Resolver {
    /// The addresses of `hosts`, each `name:port`, as far as they are found in [`PATIENCE`].
    pub(super) fn look_up(&self, hosts: &BTreeSet<String>) -> Lookups {
        self.look_up_with(hosts, PATIENCE, |host| {
            host.to_socket_addrs()
                .map(Iterator::collect)
                .map_err(|error| error.to_string())
        })
    }

    fn look_up_with(
        &self,
        hosts: &BTreeSet<String>,
        patience: Duration,
        look_up: impl Fn(&str) -> Result<Vec<SocketAddr>, String> + Send + Copy + 'static,
    ) -> Lookups {
        let until = Instant::now() + patience;
        let names = Arc::new(Mutex::new(hosts.clone().into_iter()));
        let (found, results) = mpsc::channel();
        for _ in 0..hosts.len().min(MOST_LOOKUPS) {
            let Some(place) = self.place() else { break };
            let (names, found) = (Arc::clone(&names), found.clone());
            let work = move || {
                let _place = place;
                while Instant::now() < until
                    && let Some(host) = next(&names)
                {
                    let outcome = look_up(&host);
                    if found.send((host, outcome)).is_err() {
                        break;
                    }
                }
            };
            if thread::Builder::new()
                .name("resolve".into())
                .spawn(work)
                .is_err()
            {
                break;
            }
        }
        drop(found);
        let mut lookups: Lookups = hosts
            .iter()
            .map(|host| (host.clone(), Err("no answer in time".into())))
            .collect();
        let left = || until.saturating_duration_since(Instant::now());
        while let Ok((host, outcome)) = results.recv_timeout(left()) {
            lookups.insert(host, outcome);
        }
        lookups
    }

    fn place(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.under_way));
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        (before < MOST_LOOKUPS).then_some(place)
    }
}

fn next(names: &Mutex<btree_set::IntoIter<String>>) -> Option<String> {
    names.lock().unwrap_or_else(PoisonError::into_inner).next()
}

impl Supervisor {
    /// Looks up the peers' names for the first time.
    pub(super) async fn resolve(&mut self) {
        let (hosts, resolver) = (self.config.hosts.clone(), self.resolver.clone());
        if !hosts.is_empty()
            && let Ok(lookups) = beside(move || resolver.look_up(&hosts)).await
        {
            self.config.resolved = keep_known(lookups, &ResolvedHosts::default());
        }
    }
}

/// One of [`MOST_LOOKUPS`].
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What `lookups` found; what a name stood for before, in `known`, where it is not found now.
pub(super) fn keep_known(lookups: Lookups, known: &ResolvedHosts) -> ResolvedHosts {
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
                "a peer's address does not resolve; it cannot be dialled until a reload finds it"
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

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn here(_: &str) -> Result<Vec<SocketAddr>, String> {
        Ok(vec![([127, 0, 0, 1], 1).into()])
    }

    #[test]
    fn names_that_are_not_answered_hold_nobody_up_and_take_no_thread_beyond_the_bound() {
        let resolver = Resolver::default();
        let hosts: BTreeSet<String> = (0..100).map(|name| format!("{name}:1")).collect();
        let never = |_: &str| loop {
            thread::park();
        };
        let lookups = resolver.look_up_with(&hosts, Duration::from_millis(10), never);
        assert_eq!(lookups.len(), 100);
        assert!(lookups.values().all(Result::is_err));
        assert_eq!(resolver.under_way.load(Ordering::Relaxed), MOST_LOOKUPS);
        // All places are taken: nobody is asked.
        let lookups = resolver.look_up_with(&names(&["a:1"]), PATIENCE, here);
        assert!(lookups["a:1"].is_err());
    }

    #[test]
    fn every_name_is_looked_up_once_and_the_others_go_on_beside_a_slow_one() {
        let hosts: BTreeSet<String> = (0..100).map(|name| format!("{name}:1")).collect();
        let look_up = |host: &str| match host {
            "7:1" => loop {
                thread::park();
            },
            host => here(host),
        };
        let patience = Duration::from_secs(1);
        let lookups = Resolver::default().look_up_with(&hosts, patience, look_up);
        let found = lookups.values().filter(|outcome| outcome.is_ok()).count();
        assert_eq!((lookups.len(), found), (100, 99));
    }

    #[test]
    fn a_name_that_is_not_found_stands_for_what_it_did_before() {
        let (old, new) = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 1).into());
        let lookups = Lookups::from([
            ("gone:1".into(), Err("no answer in time".into())),
            ("moved:1".into(), Ok(vec![new])),
            ("never:1".into(), Err("no answer in time".into())),
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
