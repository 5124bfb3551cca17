//! The resolver's process: started for a few names, attested before it asks anybody, ended with its last answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::QUEUED_EVENTS;
use super::attest;
use super::child::{Child, ChildEvent, Role, Start};
use crate::config::{Config, ResolverSandbox};
use crate::control::{FromResolver, ResolverSetup, ToResolver};
use crate::fault::Fault;
use crate::plain;
use crate::policy::MOST_RESOLVED;
use crate::resolver::OPEN_FILES;
use crate::sandbox::{self, Expected, Profile};
use crate::telemetry::LogSetup;

/// How long all look-ups of a policy may take, the resolver's start included.
const PATIENCE: Duration = Duration::from_secs(5);
/// A nameserver that does not answer is left for the next one in time for [`PATIENCE`] (resolv.conf(5): seconds, and
/// rounds; five and two without).
const OPTIONS: (&str, &str) = ("RES_OPTIONS", "timeout:1 attempts:2");
/// Names that are looked up at once; and after one that has ended the resolver.
const AT_ONCE: usize = 16;
const AT_ONCE_AFTER_AN_END: usize = 1;
/// Bytes of a frame from a resolver: its report, or the addresses of one name.
const LONGEST_FRAME: usize = 64 << 10;
/// Characters of why a name was not found.
const LONGEST_REASON: usize = 200;
/// Said of a name that nobody answered for.
const UNANSWERED: &str = "no answer in time";

/// What each name resolved to, or why it did not.
pub(super) type Lookups = BTreeMap<String, Result<Vec<SocketAddr>, String>>;

/// What came of a resolver.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    pub(super) lookups: Lookups,
    /// Those that it has begun with.
    pub(super) begun: BTreeSet<String>,
    /// A signal has ended it, which no name may do to the others.
    pub(super) killed: bool,
    /// It was not what it must be.
    pub(super) unsound: Option<Fault>,
}

/// How resolvers are started.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    given: ResolverSandbox,
    log: LogSetup,
    at_once: usize,
}

/// How far one has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Started,
    /// It was attested.
    Asking,
}

impl Resolver {
    /// For `config`; after a resolver that was `killed`, one name at a time.
    pub(super) fn new(config: &Config, killed: bool) -> Self {
        Self {
            given: config.resolver.clone(),
            log: config.log,
            at_once: match killed {
                true => AT_ONCE_AFTER_AN_END,
                false => AT_ONCE,
            },
        }
    }

    /// The addresses of `hosts`, each `name:port` and there once, in this order, as far as they are found in
    /// [`PATIENCE`].
    pub(super) async fn look_up(&self, hosts: Vec<String>) -> Looked {
        let mut looked = Looked::default();
        if hosts.is_empty() {
            return looked;
        }
        let until = Instant::now() + PATIENCE;
        let why = self.ask(&hosts, until, &mut looked).await.err();
        let begun = looked.lookups.len() + self.at_once;
        looked.begun = hosts.iter().take(begun).cloned().collect();
        for host in hosts {
            let why = || Err(why.clone().unwrap_or_else(|| UNANSWERED.into()));
            looked.lookups.entry(host).or_insert_with(why);
        }
        looked
    }

    /// Has a process look `hosts` up, and ends it. An error says why those that are not in `looked` have no
    /// answer.
    async fn ask(
        &self,
        hosts: &[String],
        until: Instant,
        looked: &mut Looked,
    ) -> Result<(), String> {
        let (events, mut heard) = mpsc::channel(QUEUED_EVENTS);
        let setup = ToResolver::Setup(Box::new(ResolverSetup {
            log: self.log,
            hosts: hosts.to_vec(),
            at_once: self.at_once,
            profile: self.given.profile.clone(),
        }));
        let (name, value) = OPTIONS;
        let start = Start {
            role: Role::Resolver,
            user: self.given.user,
            environment: &BTreeMap::from([(name.into(), value.into())]),
            interactive: false,
            longest: LONGEST_FRAME,
            setup: &setup,
            descriptors: &[],
        };
        let mut child = Child::start(&start, events, |event| event)
            .map_err(|error| format!("the resolver cannot be started: {error}"))?;
        let mut wanted: BTreeSet<&String> = hosts.iter().collect();
        let mut stage = Stage::Started;
        while !wanted.is_empty() {
            let Ok(Some(event)) = timeout_at(until, heard.recv()).await else {
                return Err(UNANSWERED.into());
            };
            match (event, stage) {
                (ChildEvent::Said(FromResolver::Sealed(report)), Stage::Started) => {
                    self.attest(&child, *report, &mut looked.unsound)?;
                    #[cfg(feature = "attack-trigger")]
                    if let Some(attack) = sandbox::attack::Attack::on(sandbox::Role::Resolver) {
                        assert!(
                            child.tell(&ToResolver::Attack(attack)),
                            "it hears its attack"
                        );
                    }
                    if !child.tell(&ToResolver::LookUp) {
                        return Err("the resolver does not read its orders".into());
                    }
                    stage = Stage::Asking;
                }
                (ChildEvent::Said(FromResolver::Found { host, outcome }), Stage::Asking)
                    if wanted.remove(&host) =>
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
                    return Err("the resolver does not start".into());
                }
                (ChildEvent::Said(_), _) => {
                    tracing::error!("the resolver spoke out of turn: killed");
                    child.kill();
                    return Err("the resolver spoke out of turn".into());
                }
                (ChildEvent::Exited(status), _) => {
                    tracing::error!(%status, "resolver exited");
                    looked.killed = status.signal().is_some();
                    return Err(format!("the resolver ended ({status})"));
                }
            }
        }
        Ok(())
    }

    /// An error if it is not what it must be, and may not ask anybody.
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
        if attestation.gone {
            return Err("the resolver ended".into());
        }
        attestation.log();
        if attestation.mismatches.is_empty() {
            return Ok(());
        }
        *unsound = Some(attest::fault(&attestation));
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
    let found = match outcome {
        Ok(found) => found.into_iter(),
        Err(why) => return Err(plain::line(&why).chars().take(LONGEST_REASON).collect()),
    };
    let there = found.filter(|address| Some(address.port()) == port);
    let there: Vec<_> = there.take(MOST_RESOLVED).collect();
    match there.is_empty() {
        true => Err("it has no address".into()),
        false => Ok(there),
    }
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
        assert!(within_bounds("b.test:7443", Ok(vec![at(2, 22)])).is_err());
        let many = (0..=u8::MAX).map(|last| at(last, 1)).collect();
        let kept = within_bounds("b.test:1", Ok(many)).unwrap();
        assert_eq!(kept.len(), MOST_RESOLVED);
        let why = within_bounds("b.test:1", Err("\x1b[2J".repeat(1000))).unwrap_err();
        assert_eq!(why.chars().count(), LONGEST_REASON);
        assert!(!why.contains('\x1b'));
    }
}
