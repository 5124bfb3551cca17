//! The peers' names: looked up by a process of its own, which is attested before it asks anybody and ends with
//! its last answer; and those that were not found again, until they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::attest;
use super::child::{Child, ChildEvent, Role, Start};
use super::{Event, QUEUED_EVENTS, Supervisor};
use crate::config::{Config, ResolverSandbox};
use crate::control::{FromResolver, ResolverSetup, ToResolver};
use crate::fault::Fault;
use crate::plain;
use crate::policy::{MOST_RESOLVED, ResolvedHosts};
use crate::resolver::OPEN_FILES;
use crate::sandbox::{self, Expected, Profile};
use crate::telemetry::LogSetup;

/// How long all look-ups of a policy may take, the resolver's start included. One in the same network answers in
/// milliseconds; this is long enough for one that asks a second server.
const PATIENCE: Duration = Duration::from_secs(5);
/// Characters of why a name was not found.
const LONGEST_REASON: usize = 200;
/// Said of a name that nobody answered for.
const UNANSWERED: &str = "no answer in time";

/// When names that were not found are looked up again: after the first wait, then twice as long each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What each name resolved to, or why it did not.
type Lookups = BTreeMap<String, Result<Vec<SocketAddr>, String>>;

/// What came of a resolver.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    lookups: Lookups,
    /// It was not what it must be.
    unsound: Option<Fault>,
}

/// How resolvers are started.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    given: ResolverSandbox,
    log: LogSetup,
}

/// Whether names that were not found wait to be looked up again.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// How long they waited the last time.
    waited: Option<Duration>,
    waiting: bool,
}

/// How far one has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Started,
    /// It was attested.
    Asking,
}

impl Resolver {
    fn of(config: &Config) -> Self {
        Self {
            given: config.resolver.clone(),
            log: config.log,
        }
    }

    /// The addresses of `hosts`, each `name:port`, as far as they are found in [`PATIENCE`].
    pub(super) async fn look_up(&self, hosts: &BTreeSet<String>) -> Looked {
        let mut looked = Looked::default();
        if hosts.is_empty() {
            return looked;
        }
        let until = Instant::now() + PATIENCE;
        let why = self.ask(hosts, until, &mut looked).await;
        for host in hosts {
            let lookups = looked.lookups.entry(host.clone());
            lookups.or_insert_with(|| Err(why.clone()));
        }
        looked
    }

    /// Has a process look `hosts` up, and ends it. Why it has no answer for those that are not in `looked`.
    async fn ask(&self, hosts: &BTreeSet<String>, until: Instant, looked: &mut Looked) -> String {
        let (events, mut heard) = mpsc::channel(QUEUED_EVENTS);
        let setup = ToResolver::Setup(Box::new(ResolverSetup {
            log: self.log,
            hosts: hosts.clone(),
            profile: self.given.profile.clone(),
        }));
        let start = Start {
            role: Role::Resolver,
            user: self.given.user,
            environment: &BTreeMap::new(),
            interactive: false,
            setup: &setup,
            descriptors: &[],
        };
        let mut child = match Child::start(&start, events, |event| event) {
            Ok(child) => child,
            Err(error) => return format!("the resolver cannot be started: {error}"),
        };
        let mut stage = Stage::Started;
        while looked.lookups.len() < hosts.len() {
            let Ok(Some(event)) = timeout_at(until, heard.recv()).await else {
                return UNANSWERED.into();
            };
            match (event, stage) {
                (ChildEvent::Said(FromResolver::Sealed(report)), Stage::Started) => {
                    if let Err(why) = self.attest(&child, *report, &mut looked.unsound) {
                        return why;
                    }
                    #[cfg(feature = "attack-trigger")]
                    if let Some(attack) = sandbox::attack::Attack::on(sandbox::Role::Resolver) {
                        assert!(
                            child.tell(&ToResolver::Attack(attack)),
                            "it hears its attack"
                        );
                    }
                    if !child.tell(&ToResolver::LookUp) {
                        return "the resolver does not read its orders".into();
                    }
                    stage = Stage::Asking;
                }
                (ChildEvent::Said(FromResolver::Found { host, outcome }), Stage::Asking)
                    if hosts.contains(&host) =>
                {
                    let outcome = within_bounds(&host, outcome);
                    looked.lookups.insert(host, outcome);
                }
                (ChildEvent::Said(FromResolver::Refused { faults }), Stage::Started) => {
                    for fault in &faults {
                        tracing::error!(
                            at = fault.key,
                            mend = fault.mend,
                            "the resolver does not start: {}",
                            fault.problem
                        );
                    }
                    return "the resolver does not start".into();
                }
                (ChildEvent::Said(_), _) => {
                    tracing::error!("the resolver spoke out of turn: killed");
                    child.kill();
                    return "the resolver spoke out of turn".into();
                }
                (ChildEvent::Exited(status), _) => {
                    tracing::error!(%status, "resolver exited");
                    return format!("the resolver ended ({status})");
                }
            }
        }
        String::new()
    }

    /// Why it may not ask anybody, if it is not what it must be.
    fn attest(
        &self,
        child: &Child,
        report: sandbox::Report,
        unsound: &mut Option<Fault>,
    ) -> Result<(), String> {
        let attestation = sandbox::attest(&Expected {
            role: sandbox::Role::Resolver,
            pid: child.pid,
            user: self.given.user,
            keeps_rights: false,
            profile: Profile::resolver(self.given.profile.as_ref()).ok(),
            open_files: OPEN_FILES,
            report,
        });
        attestation.log();
        if attestation.mismatches.is_empty() {
            return Ok(());
        }
        if !attestation.gone {
            *unsound = Some(attest::fault(&attestation));
        }
        Err("the resolver is not confined as declared".into())
    }
}

/// What the resolver may say of `host`: a few addresses at the very port, or a short reason.
fn within_bounds(
    host: &str,
    outcome: Result<Vec<SocketAddr>, String>,
) -> Result<Vec<SocketAddr>, String> {
    let port = host
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());
    match outcome {
        Ok(found) => {
            let found = found.into_iter();
            let there = found.filter(|address| Some(address.port()) == port);
            Ok(there.take(MOST_RESOLVED).collect())
        }
        Err(why) => Err(plain::line(&why).chars().take(LONGEST_REASON).collect()),
    }
}

impl Supervisor {
    /// How the resolvers of this node are started.
    pub(super) fn resolver(&self) -> Resolver {
        Resolver::of(&self.config)
    }

    /// Looks up the peers' names for the first time.
    pub(super) async fn resolve(&mut self) {
        let looked = self.resolver().look_up(&self.config.hosts).await;
        self.config.resolved = self.take_in(looked);
        self.look_again_later();
    }

    /// The names in force that stand for nothing.
    pub(super) fn unresolved(&self) -> BTreeSet<String> {
        let resolved = self.config.resolved.iter();
        let without = resolved.filter(|(_, addresses)| addresses.is_empty());
        without.map(|(host, _)| host.clone()).collect()
    }

    /// Has names that were not found looked up again, from the shortest wait on.
    pub(super) fn look_again_soon(&mut self) {
        self.again.waited = None;
        self.look_again_later();
    }

    fn look_again_later(&mut self) {
        if self.again.waiting || self.unresolved().is_empty() {
            return;
        }
        let longer = self.again.waited.map(|waited| waited * 2);
        let wait = longer.unwrap_or(FIRST_WAIT).min(LONGEST_WAIT);
        self.again = Again {
            waited: Some(wait),
            waiting: true,
        };
        self.later((Instant::now() + wait).into_std(), Event::LookAgain);
    }

    /// Has them looked up; [`Event::Looked`] tells what came of it.
    pub(super) fn look_again(&mut self) {
        let (hosts, resolver) = (self.unresolved(), self.resolver());
        if self.draining || hosts.is_empty() {
            self.again = Again::default();
            return;
        }
        let events = self.events.clone();
        tokio::spawn(async move {
            let looked = resolver.look_up(&hosts).await;
            let _ = events.send(Event::Looked(looked)).await;
        });
    }

    /// What was found at last goes to the node.
    pub(super) fn on_looked(&mut self, looked: Looked) {
        self.again.waiting = false;
        self.unsound = self.unsound.take().or(looked.unsound);
        let mut news = false;
        for (host, outcome) in looked.lookups {
            // A reload may have found it meanwhile, or taken it out.
            let waits = self.config.resolved.get_mut(&host);
            let waits = waits.filter(|addresses| addresses.is_empty());
            match (waits, outcome) {
                (Some(place), Ok(addresses)) if !addresses.is_empty() => {
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

    /// What the names stand for now.
    pub(super) fn take_in(&mut self, looked: Looked) -> ResolvedHosts {
        self.unsound = self.unsound.take().or(looked.unsound);
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

    fn at(last: u8, port: u16) -> SocketAddr {
        ([10, 0, 0, last], port).into()
    }

    #[test]
    fn a_resolver_that_was_taken_over_says_no_other_port_and_nothing_at_length() {
        let found = vec![at(1, 7443), at(2, 22), at(3, 7443)];
        let kept = within_bounds("b.test:7443", Ok(found));
        assert_eq!(kept, Ok(vec![at(1, 7443), at(3, 7443)]));
        let many = (0..=u8::MAX).map(|last| at(last, 1)).collect();
        let kept = within_bounds("b.test:1", Ok(many)).unwrap();
        assert_eq!(kept.len(), MOST_RESOLVED);
        let why = within_bounds("b.test:1", Err("\x1b[2J".repeat(1000))).unwrap_err();
        assert_eq!(why.chars().count(), LONGEST_REASON);
        assert!(!why.contains('\x1b'));
    }

    #[test]
    fn a_name_that_is_not_found_stands_for_what_it_did_before() {
        let (old, new) = (at(1, 1), at(2, 1));
        let lookups = Lookups::from([
            ("gone:1".into(), Err(UNANSWERED.into())),
            ("moved:1".into(), Ok(vec![new])),
            ("never:1".into(), Err(UNANSWERED.into())),
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
