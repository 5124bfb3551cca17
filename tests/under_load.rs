//! A process is lost while 200 handshakes a second come in.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::node::signal;
use crate::support::rehearsal::{Rehearsal, restarts_of};
use crate::support::{Node, Shaker, eventually};

const THREADS: u32 = 4;
/// Between two handshakes of a thread: 50 a second each, as far as the machine can.
const PAUSE: Duration = Duration::from_millis(20);

/// Handshakes one after the other until it is dropped.
#[derive(Default)]
struct Load {
    ends: AtomicBool,
    done: AtomicU64,
    /// How many succeeded since the last that failed.
    unbroken: AtomicU64,
}

impl Load {
    fn run(&self, shaker: &Shaker) {
        let mut next = Instant::now();
        while !self.ends.load(Ordering::Relaxed) {
            match shaker.shake() {
                Ok(_) => self.unbroken.fetch_add(1, Ordering::Relaxed),
                Err(_) => self.unbroken.swap(0, Ordering::Relaxed),
            };
            self.done.fetch_add(1, Ordering::Relaxed);
            next = (next + PAUSE).max(Instant::now());
            thread::sleep(next - Instant::now());
        }
    }

    fn has_done(&self, more: u64) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("handshakes go on", || {
            (self.done.load(Ordering::Relaxed) >= before + more).then_some(())
        });
    }
}

/// Ends the load when a check fails, too: a scope waits for its threads.
struct Ending<'a>(&'a Load);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.ends.store(true, Ordering::Relaxed);
    }
}

/// The process in `role` is sent `lost` under load; it is started again once, and then no handshake fails.
#[track_caller]
fn is_lost_and_replaced(rehearsal: &Rehearsal, a: &Node, role: &str, lost: Signal) {
    let load = Load::default();
    thread::scope(|scope| {
        let _ending = Ending(&load);
        for _ in 0..THREADS {
            scope.spawn(|| load.run(&rehearsal.shaker));
        }
        load.has_done(200);
        let old = a.pid(role);
        signal(old, lost);
        a.wait_replaced(role, old);
        load.unbroken.store(0, Ordering::Relaxed);
        eventually("400 handshakes in a row succeed", || {
            (load.unbroken.load(Ordering::Relaxed) >= 400).then_some(())
        });
    });
    assert_eq!(restarts_of(a, role), 1);
}

#[test]
fn a_keeper_killed_at_200_handshakes_a_second_loses_no_message() {
    let rehearsal = Rehearsal::new();
    let (a, stream) = rehearsal.start_with_stream();
    is_lost_and_replaced(&rehearsal, &a, "keeper", Signal::KILL);
    stream.goes_on("with a new keeper");
    stream.end();
    assert_eq!(restarts_of(&a, "node"), 0);
}

#[test]
fn a_keeper_stopped_at_200_handshakes_a_second_is_replaced_and_loses_no_message() {
    let rehearsal = Rehearsal::new();
    let (a, stream) = rehearsal.start_with_stream();
    is_lost_and_replaced(&rehearsal, &a, "keeper", Signal::STOP);
    stream.goes_on("with a new keeper");
    stream.end();
    assert_eq!(restarts_of(&a, "node"), 0);
}

#[test]
fn a_node_killed_at_200_handshakes_a_second_comes_back_and_its_keeper_stays() {
    let rehearsal = Rehearsal::new();
    let (a, b) = rehearsal.start();
    b.ping("a");
    let keeper = a.pid("keeper");
    is_lost_and_replaced(&rehearsal, &a, "node", Signal::KILL);
    assert_eq!(a.pid("keeper"), keeper, "it stayed logged in");
    b.ping("a");
}
