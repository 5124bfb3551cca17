//! Hours in small: handshakes in both directions and an open stream while the token fails in every way, in an
//! order that chance gives, and keepers and the node die. The stream loses nothing, but with its node, and
//! between the faults nothing is more than it was before.
//!
//! Two minutes with the other tests; `tests/soak` runs it for thirty.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::node::{pid_in, signal};
use crate::support::rehearsal::{Rehearsal, is_ready};
use crate::support::{Judge, Node, eventually};

/// How long, in minutes, and which order.
const MINUTES: &str = "FASTNESS_SOAK_MINUTES";
const SEED: &str = "FASTNESS_SOAK_SEED";
/// What memory may grow by, in KiB, from the first quarter to the end: allocators keep some of what a
/// busy moment needed. A leak of 100 bytes a handshake is more in two minutes.
const GROWTH: u64 = 2048;

/// Every fault.
const FAULTS: &[Fault] = &[
    Fault::Order("fail C_Sign CKR_DEVICE_ERROR times=3"),
    Fault::Order("fail C_Sign CKR_GENERAL_ERROR"),
    Fault::Order("fail C_SignInit CKR_OPERATION_ACTIVE"),
    Fault::Order("fail C_OpenSession CKR_SESSION_COUNT"),
    Fault::Order("fail C_FindObjectsInit CKR_FUNCTION_FAILED"),
    Fault::Order("fail C_CloseSession CKR_DEVICE_ERROR times=2"),
    Fault::Order("fail all CKR_DEVICE_REMOVED"),
    Fault::Order("hang C_Sign times=1"),
    Fault::Order("corrupt C_Sign times=2"),
    Fault::Order("abort C_Sign"),
    Fault::Order("logout"),
    Fault::Order("logout native close-sessions"),
    Fault::Order("max-sessions 1"),
    Fault::Order("idle-death 50ms CKR_SESSION_HANDLE_INVALID"),
    Fault::Order("set C_Sign delay=20ms jitter=10ms sessions=2"),
    Fault::Start("fail C_Login CKR_DEVICE_ERROR"),
    Fault::Start("fail C_Initialize CKR_GENERAL_ERROR"),
    Fault::Start("fail C_GetTokenInfo CKR_TOKEN_NOT_PRESENT"),
    Fault::Start("hang C_Login times=1"),
    Fault::Start("hang C_FindObjectsInit times=1"),
    Fault::Signal("keeper", Signal::KILL),
    Fault::Signal("keeper", Signal::STOP),
    Fault::Signal("node", Signal::KILL),
];

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// As `fault-ctl` takes it.
    Order(&'static str),
    /// The same, met by a keeper that is started.
    Start(&'static str),
    /// To a process.
    Signal(&'static str, Signal),
}

/// What one process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    pid: u32,
    descriptors: usize,
    threads: usize,
    /// KiB of its own: heaps and stacks. Pages of the binary are left out: how many of them are shared
    /// depends on who else runs it.
    memory: u64,
    /// KiB in all, shared pages counted in parts.
    proportional: u64,
}

/// What all processes of a node hold, by role, and the sessions that the module counts.
#[derive(Clone, Debug)]
struct Sample {
    held: BTreeMap<&'static str, Held>,
    sessions: u64,
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((word ^ (word >> 31)) % below as u64).expect("below a usize")
    }
}

#[test]
fn faults_in_any_order_leave_no_memory_descriptor_session_or_thread_behind() {
    crate::support::as_root("counts what other processes have open");
    let time = Duration::from_secs(60 * number(MINUTES, 2));
    let seed = number(SEED, u64::from(std::process::id()));
    println!("{SEED}={seed}");
    let mut rehearsal = Rehearsal::new();
    let identity = crate::judges::python_peer(&mut rehearsal.mesh, "python", None);
    // `b` closes its connections each second, so that `a` has to dial.
    rehearsal.mesh.edit(
        "b/node.toml",
        "[limits]\n",
        "[limits]\nconnection_age_ms = 1000\n",
    );
    let (a, b) = rehearsal.start();
    b.ping("a");
    let chat = || {
        let mut command = crate::judges::client(&rehearsal.mesh, &a, &identity, "chat");
        (Judge::start(&mut command), 0)
    };
    let mut stream = chat();
    let load = Load::default();
    std::thread::scope(|scope| {
        load.start(scope, &rehearsal, &a);
        let _stopped_in_any_case = StopWhenDropped(&load);
        let mut samples = vec![quiet(&load, &rehearsal, &a, None)];
        let (mut chance, began) = (Chance(seed), Instant::now());
        while began.elapsed() < time {
            let fault = FAULTS[chance.next(FAULTS.len())];
            let (handshakes, failed) = (count(&load.done), count(&load.failed));
            said(&mut stream);
            match fault {
                Fault::Order(order) => drop(rehearsal.fault.order(order)),
                Fault::Start(order) => {
                    rehearsal.fault.order(order);
                    signal(a.pid("keeper"), Signal::KILL);
                }
                Fault::Signal(role, how) => signal(a.pid(role), how),
            }
            let pause = 200 + chance.next(1300);
            std::thread::sleep(Duration::from_millis(pause as u64));
            match fault {
                Fault::Signal("node", _) => {
                    stream = eventually("a new stream to the new node", || {
                        is_ready(&a).map(|_| chat())
                    });
                }
                _ => said(&mut stream),
            }
            rehearsal.fault.clear();
            rehearsal.recovered();
            eventually(&format!("ready again after {fault:?}"), || is_ready(&a));
            let meanwhile = count(&load.failed);
            eventually("handshakes go on", || {
                (count(&load.done) > handshakes + 20).then_some(())
            });
            // Each thread may have had one under way when it was over.
            let after = count(&load.failed) - meanwhile;
            assert!(
                after <= THREADS,
                "{after} handshakes failed after {fault:?} was over"
            );
            said(&mut stream);
            let failed = count(&load.failed) - failed;
            let sample = quiet(&load, &rehearsal, &a, samples.first());
            println!(
                "{:>5} s {fault:?} for {pause} ms: {failed} failed, {}",
                began.elapsed().as_secs(),
                sample.line()
            );
            samples.push(sample);
        }
        let (dialled, done) = (count(&load.dialled), count(&load.done));
        println!(
            "{} faults, {done} handshakes in, {dialled} pings out, {} of both failed",
            samples.len() - 1,
            count(&load.failed)
        );
        assert_eq!(stream.0.close_and_hear(), "ended well");
        assert!(dialled > 0 && done > 0);
        no_memory_grew(&samples);
    });
}

/// Handshakes from outside, and pings that make the node dial.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    pause: AtomicBool,
    /// Threads that rest because of `pause`.
    resting: AtomicU64,
    done: AtomicU64,
    dialled: AtomicU64,
    failed: AtomicU64,
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// One block more, there and back, on the stream that is open all the time.
#[track_caller]
fn said((judge, blocks): &mut (Judge, u64)) {
    judge.tell("one more");
    *blocks += 1;
    assert_eq!(
        judge.hear(),
        blocks.to_string(),
        "the stream lost something"
    );
}

const THREADS: u64 = 5;

impl Load {
    fn start<'scope>(
        &'scope self,
        scope: &'scope std::thread::Scope<'scope, '_>,
        rehearsal: &'scope Rehearsal,
        a: &'scope Node,
    ) {
        for thread in 0..THREADS {
            scope.spawn(move || {
                while !self.stop.load(Ordering::Relaxed) {
                    if self.pause.load(Ordering::Relaxed) {
                        self.resting.fetch_add(1, Ordering::Relaxed);
                        while self.pause.load(Ordering::Relaxed)
                            && !self.stop.load(Ordering::Relaxed)
                        {
                            std::thread::sleep(Duration::from_millis(5));
                        }
                        self.resting.fetch_sub(1, Ordering::Relaxed);
                        continue;
                    }
                    let count = if thread == 0 {
                        a.ask(&["ping", "b"]).is_ok().then_some(&self.dialled)
                    } else {
                        rehearsal.shaker.shake().is_ok().then_some(&self.done)
                    };
                    count
                        .unwrap_or(&self.failed)
                        .fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
    }
}

/// Also when an assertion failed: the other threads end, and the test does.
struct StopWhenDropped<'a>(&'a Load);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Stops the load and waits until nothing is held beyond what `first` held.
#[track_caller]
fn quiet(load: &Load, rehearsal: &Rehearsal, a: &Node, first: Option<&Sample>) -> Sample {
    load.pause.store(true, Ordering::Relaxed);
    eventually("the load rests", || {
        (load.resting.load(Ordering::Relaxed) == THREADS).then_some(())
    });
    let mut last = String::new();
    let until = Instant::now() + crate::support::PATIENCE;
    let sample = loop {
        let sample = sample(rehearsal, a);
        let wrong = match (&sample, first) {
            (None, _) => "a process is missing, or there is one too many".to_owned(),
            (Some(sample), Some(first)) => sample.beyond(first),
            (Some(_), None) => connections(a),
        };
        match sample {
            Some(sample) if wrong.is_empty() => break sample,
            _ => last.clone_from(&wrong),
        }
        assert!(Instant::now() < until, "something is left behind: {last}");
        std::thread::sleep(Duration::from_millis(50));
    };
    load.pause.store(false, Ordering::Relaxed);
    sample
}

/// Why the first sample is not one of a node at rest.
fn connections(a: &Node) -> String {
    let count = a.status()["connections"].as_array().map_or(0, Vec::len);
    // The stream, `b`'s ping and ours; the last may just be dialled anew.
    if count <= 3 {
        String::new()
    } else {
        format!("{count} connections")
    }
}

/// `None` when there are not exactly three processes.
fn sample(rehearsal: &Rehearsal, a: &Node) -> Option<Sample> {
    let status = a.ask(&["status"]).ok()?;
    let supervisor = pid_in(&status, "supervisor");
    let mut held = BTreeMap::new();
    for role in ["supervisor", "keeper", "node"] {
        held.insert(role, Held::of(pid_in(&status, role))?);
    }
    // No orphan, no zombie.
    let children = fs::read_dir("/proc").ok()?.flatten().filter(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1).map(str::to_owned));
        parent.is_some_and(|parent| parent == supervisor.to_string())
    });
    (children.count() == 2).then_some(())?;
    let sessions = rehearsal.fault.sessions(held["keeper"].pid)?;
    Some(Sample { held, sessions })
}

impl Held {
    fn of(pid: u32) -> Option<Self> {
        let count =
            |folder: &str| Some(fs::read_dir(format!("/proc/{pid}/{folder}")).ok()?.count());
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let field = |name: &str| {
            let value = rollup.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim().strip_suffix(" kB")?.parse().ok()
        };
        Some(Self {
            pid,
            descriptors: count("fd")?,
            threads: count("task")?,
            memory: field("Anonymous:")?,
            proportional: field("Pss:")?,
        })
    }
}

impl Sample {
    /// What is more than in `first`: an empty text when nothing is. A connection more is none: peers
    /// come and go.
    fn beyond(&self, first: &Self) -> String {
        let mut beyond = String::new();
        for (role, held) in &self.held {
            let before = &first.held[role];
            let connections = if *role == "node" { 2 } else { 0 };
            if held.descriptors > before.descriptors + connections {
                beyond += &format!(
                    "{role}: {} descriptors, first {}; ",
                    held.descriptors, before.descriptors
                );
            }
            if held.threads > before.threads {
                beyond += &format!(
                    "{role}: {} threads, first {}; ",
                    held.threads, before.threads
                );
            }
        }
        if self.sessions > first.sessions {
            beyond += &format!("{} sessions, first {}", self.sessions, first.sessions);
        }
        beyond
    }

    fn line(&self) -> String {
        let each = self.held.iter().map(|(role, held)| {
            format!(
                "{role} {} KiB ({} PSS) {} fds {} threads, ",
                held.memory, held.proportional, held.descriptors, held.threads
            )
        });
        format!("{}{} sessions", each.collect::<String>(), self.sessions)
    }
}

/// Compares the end with the end of the first quarter, as long as it is the same process. A keeper that
/// was replaced begins anew, so all keepers are compared with one another.
fn no_memory_grew(samples: &[Sample]) {
    let quarter = samples.len() / 4;
    let (early, late) = (
        &samples[quarter..samples.len() / 2],
        &samples[samples.len() - quarter.max(1)..],
    );
    if early.is_empty() {
        return println!("too few samples to compare memory");
    }
    for role in ["supervisor", "keeper", "node"] {
        let middle = |part: &[Sample]| {
            let mut all: Vec<u64> = part.iter().map(|sample| sample.held[role].memory).collect();
            all.sort_unstable();
            all[all.len() / 2]
        };
        let (before, after) = (middle(early), middle(late));
        println!("{role}: {before} KiB in the second quarter, {after} KiB in the last");
        assert!(
            after <= before + before / 10 + GROWTH,
            "{role} grew from {before} to {after} KiB"
        );
    }
}
