//! The throw-away role of `fastness sandbox learn`: a keeper up to the point where one seals, then every
//! kind of work that a keeper does, watched from outside call by call, and its end.
//!
//! Nothing else starts it. It has no channel to a node, signs nothing but probes of its own making, takes
//! no PIN when nobody traces it, and would find every call failing behind its filter if it did.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Barrier, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::message::{KeyIndex, Request};
use super::open::{self, Refused, Said};
use super::purpose;
use super::vault::{SignError, Vault};
use super::wall;
use crate::control::{FromLearner, LearnerReport, LearnerSetup, Retry, frame};
use crate::fault::Fault;
use crate::sandbox::{self, Learning};
use crate::secret::UserPin;
use crate::telemetry;
use crate::token::KeyKind;

/// The argument that starts our binary in this role.
pub(crate) const ARGUMENT: &str = "role-learner";

/// Threads that sign at once, at most: enough for a module to find out about locks.
const SIGNERS: usize = 4;
/// So often the health probe opens a session of its own anew.
const REOPENED: u64 = 8;
/// As a keeper's.
const DESCRIPTORS: u64 = 256;

/// Runs this process as a learner: standard input is the command that traces it.
pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = format!("fastness learner {}: {error}\n", std::process::id());
            telemetry::write_or_drop(line.into_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    // 1. Whoever started us takes hold of us before it speaks: afterwards nobody could any more.
    let stdin = io::stdin();
    rustix::event::poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None)?;
    if !sandbox::is_traced()? {
        return Err(io::Error::other(
            "nobody traces this process: it is for `fastness sandbox learn` alone",
        ));
    }
    let entered = sandbox::enter_traced(sandbox::Role::Keeper);
    let control = UnixStream::from(stdin.as_fd().try_clone_to_owned()?);
    let (setup, mut descriptors) = frame::receive_with_descriptors::<LearnerSetup>(&control)?;
    telemetry::start("learner", setup.keeper.log);
    let refuse = |faults, latch| frame::send(&control, &FromLearner::Refused { faults, latch });
    let pin_source = descriptors
        .pop()
        .ok_or_else(|| io::Error::other("no PIN source came with the setup"))?;
    let limited = entered.and_then(|entered| {
        entered.limit_descriptors(DESCRIPTORS)?;
        Ok(entered)
    });
    let entered = match limited {
        Ok(entered) => entered,
        Err(error) => return refuse(vec![error.into()], false),
    };

    // 2. As a keeper: PIN, module, token, login, every key checked, Landlock.
    let pin = match UserPin::read(&pin_source, setup.keeper.pin.clone()) {
        Ok(pin) => pin,
        Err(error) => {
            let key = format!("{}.pin", setup.keeper.place);
            let fault = Fault::new(key, error.to_string(), error.mend());
            return refuse(vec![fault], false);
        }
    };
    drop(pin_source);
    let say = |refused: Refused| {
        // Whoever traces us is gone otherwise.
        let _ = refuse(refused.faults, refused.retry == Retry::Never);
        Said
    };
    let (vault, ready) = match open::open(&setup.keeper, pin, &|_| {}, &say) {
        Ok(opened) => opened,
        Err(Said) => return Ok(()),
    };
    let maker = sandbox::Maker::of(&ready.manufacturer);
    let (walled, profile) = match wall::wall(entered, maker, &setup.keeper) {
        Ok(walled) => walled,
        Err(fault) => return refuse(vec![fault], false),
    };

    // 3. Its threads wait; where a keeper seals, watching begins.
    let kinds = ready.keys.iter().map(|key| key.kind).collect();
    let work = Work::start(Arc::new(vault), kinds, &setup)?;
    let learning = match walled.learn(&profile) {
        Ok(learning) => learning,
        Err(error) => return refuse(vec![error.into()], false),
    };

    // 4. The work of a keeper, and its end.
    let before = work.vault.signatures();
    let reopened = match work.finish(learning, Duration::from_secs(setup.idle.into())) {
        Ok(reopened) => reopened,
        Err(fault) => return refuse(vec![fault], false),
    };
    let report = LearnerReport {
        label: ready.label,
        manufacturer: ready.manufacturer,
        model: ready.model,
        signatures: work.vault.signatures() - before,
        reopened,
    };
    frame::send(&control, &FromLearner::Learned(report))?;
    work.vault.close(Duration::MAX);
    Ok(())
}

/// Threads that work once they are watched.
struct Work {
    vault: Arc<Vault>,
    watched: Arc<OnceLock<Learning>>,
    done: Arc<Done>,
    threads: usize,
}

/// What each thread says at its end. No channel of the standard library, which yields the processor (sched_yield(2))
/// where two are at it at once: that is no call of a keeper's.
#[derive(Default)]
struct Done {
    outcomes: Mutex<Vec<Result<u64, Fault>>>,
    changed: Condvar,
}

impl Done {
    fn say(&self, outcome: Result<u64, Fault>) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.push(outcome);
        self.changed.notify_one();
    }

    /// The sum once `threads` have said theirs, or the first fault; `idle` later.
    fn wait(&self, threads: usize, idle: Duration) -> Result<u64, Fault> {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outcomes = self
            .changed
            .wait_while(outcomes, |outcomes| {
                outcomes.len() < threads && outcomes.iter().all(Result::is_ok)
            })
            .unwrap_or_else(PoisonError::into_inner);
        let sum = outcomes.drain(..).sum::<Result<_, _>>()?;
        // Nobody says anything more.
        drop(self.changed.wait_timeout_while(outcomes, idle, |_| true));
        Ok(sum)
    }
}

impl Work {
    fn start(vault: Arc<Vault>, kinds: Vec<KeyKind>, setup: &LearnerSetup) -> io::Result<Self> {
        let signers = vault.sessions().min(SIGNERS);
        let threads = signers + 1;
        let watched = Arc::new(OnceLock::new());
        let done = Arc::new(Done::default());
        let started = Arc::new(Barrier::new(threads + 1));
        let keys: Arc<[_]> = setup
            .keeper
            .keys
            .iter()
            .map(|key| key.role)
            .zip(kinds)
            .collect();
        for number in 0..threads {
            let (vault, watched, done) =
                (Arc::clone(&vault), Arc::clone(&watched), Arc::clone(&done));
            let (keys, place, times) = (
                Arc::clone(&keys),
                setup.keeper.place.clone(),
                setup.signatures,
            );
            let started = Arc::clone(&started);
            let work = move || {
                started.wait();
                let _: &Learning = watched.wait();
                let outcome = match number {
                    0 => probe(&vault),
                    _ => sign(&vault, &keys, times),
                };
                done.say(outcome.map_err(|error| failed(&place, error)));
                // The calls that end a thread are not a keeper's.
                loop {
                    thread::park();
                }
            };
            thread::Builder::new().stack_size(256 << 10).spawn(work)?;
        }
        started.wait();
        Ok(Self {
            vault,
            watched,
            done,
            threads,
        })
    }

    /// Lets them work, waits for them and then for `idle`. How many sessions were opened anew.
    fn finish(&self, learning: Learning, idle: Duration) -> Result<u64, Fault> {
        // Nobody else sets it.
        let _ = self.watched.set(learning);
        self.done.wait(self.threads, idle)
    }
}

/// What the health probe does, with a session of its own that is opened anew each time.
fn probe(vault: &Vault) -> Result<u64, SignError> {
    for _ in 0..REOPENED {
        vault.forget_probe();
        vault.probe()?;
        vault.probe()?;
    }
    Ok(REOPENED)
}

/// What a signing thread does: each key, each scheme, `times` over. No session is opened anew by it.
fn sign(
    vault: &Vault,
    keys: &[(crate::role::TlsRole, KeyKind)],
    times: u32,
) -> Result<u64, SignError> {
    for id in 0..times {
        for (index, (role, kind)) in (0..=u8::MAX).zip(keys) {
            for scheme in kind.schemes() {
                let mut nonce = [0; 32];
                aws_lc_rs::rand::fill(&mut nonce)
                    .expect("the system's random numbers never fail after boot");
                vault.sign(&Request {
                    id: id.into(),
                    key: KeyIndex(index),
                    scheme: *scheme,
                    input: &purpose::probe(*role, nonce),
                })?;
            }
        }
    }
    Ok(0)
}

fn failed(place: &str, error: SignError) -> Fault {
    let problem = match error {
        SignError::Refused(refusal) => refusal.to_string(),
        SignError::Token(error) | SignError::Lost(error) => error.to_string(),
    };
    Fault::new(
        format!("{place}.module"),
        format!("it failed while it was watched: {problem}"),
        "find out with `fastness check` whether it works at all",
    )
}
