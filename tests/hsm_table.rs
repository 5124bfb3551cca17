//! Every return code of the table in `src/token/heal.rs`, from every call that a keeper makes: what the
//! table says happens, nothing else does, and it is over when the fault is.

use std::time::Duration;

use fastness::token::heal::{self, Action};
use rustix::process::Signal;

use crate::support::eventually;
use crate::support::node::signal;
use crate::support::rehearsal::{Rehearsal, is_ready, restarts};

/// What a keeper calls while it serves.
const SERVING: [&str; 7] = [
    "C_SignInit",
    "C_Sign",
    "C_OpenSession",
    "C_FindObjectsInit",
    "C_FindObjects",
    "C_FindObjectsFinal",
    "C_GetAttributeValue",
];
/// What it calls before, beside those.
const STARTING: [&str; 6] = [
    "C_Initialize",
    "C_GetSlotList",
    "C_GetTokenInfo",
    "C_Login",
    "C_GetMechanismList",
    "C_OpenSession",
];

/// Runs `body` for each call at once, each with nodes of its own; it returns how long the slowest
/// recovery took.
fn each(calls: &[&'static str], body: impl Fn(&'static str) -> Duration + Sync) {
    let body = &body;
    std::thread::scope(|scope| {
        for &call in calls {
            scope.spawn(move || println!("{call}: slowest recovery {:?}", body(call)));
        }
    });
}

#[test]
fn every_lasting_failure_of_every_call_heals_when_it_ends() {
    each(&SERVING, |call| {
        let rehearsal = Rehearsal::new();
        let (a, b) = rehearsal.start();
        b.ping("a");
        let mut slowest = Duration::ZERO;
        for (code, signing, reopening) in heal::rows() {
            // A lost PIN is not regained by itself: see `hsm_outage`.
            if signing == Action::Latch {
                continue;
            }
            let before = restarts(&a);
            if !call.starts_with("C_Sign") {
                // Something must make it open sessions.
                rehearsal
                    .fault
                    .order("fail C_Sign CKR_SESSION_HANDLE_INVALID");
            }
            rehearsal.fault.order(&format!("fail {call} {code}"));
            assert!(
                rehearsal.shaker.shake().is_err(),
                "{code} from {call}: a signature came from nowhere"
            );
            // Established calls do not notice.
            assert!(
                b.ask(&["ping", "a"]).is_ok(),
                "{code} from {call}: an established connection was lost"
            );
            rehearsal.fault.clear();
            slowest = slowest.max(rehearsal.recovered());
            eventually("ready again", || is_ready(&a));
            let replaced = restarts(&a) - before;
            let expected = signing == Action::ReplaceKeeper || reopening == Action::ReplaceKeeper;
            assert!(
                replaced == 0 || expected,
                "{code} from {call}: {replaced} restarts that the table does not know"
            );
        }
        slowest
    });
}

#[test]
fn every_failure_of_every_call_of_a_start_is_tried_again_until_it_ends() {
    each(&STARTING, |call| {
        let rehearsal = Rehearsal::new();
        let (a, b) = rehearsal.start();
        b.ping("a");
        let mut slowest = Duration::ZERO;
        for (code, signing, _) in heal::rows() {
            if signing == Action::Latch {
                continue;
            }
            let injected = || rehearsal.fault.counts().of(call, "injected");
            let before = injected();
            rehearsal.fault.order(&format!("fail {call} {code}"));
            signal(a.pid("keeper"), Signal::KILL);
            eventually(&format!("{code} from {call}"), || {
                (injected() > before).then_some(())
            });
            eventually(&format!("the status says why: {code} from {call}"), || {
                let status = a.status();
                (status["state"] == "degraded" && status["reason"] != "").then_some(())
            });
            assert!(
                b.ask(&["ping", "a"]).is_ok(),
                "{code} from {call}: an established connection was lost"
            );
            rehearsal.fault.clear();
            slowest = slowest.max(rehearsal.recovered());
            eventually("ready again", || is_ready(&a));
        }
        slowest
    });
}

#[test]
fn a_session_that_cannot_be_closed_costs_nothing() {
    let rehearsal = Rehearsal::new();
    let (a, b) = rehearsal.start();
    b.ping("a");
    for (code, _, _) in heal::rows() {
        let before = restarts(&a);
        rehearsal
            .fault
            .order("fail C_Sign CKR_DEVICE_ERROR times=1");
        rehearsal
            .fault
            .order(&format!("fail C_CloseSession {code} times=1"));
        let outcome = rehearsal.shaker.shake();
        rehearsal.fault.clear();
        outcome.unwrap_or_else(|error| panic!("{code} from C_CloseSession: {error}"));
        assert_eq!(restarts(&a), before, "{code} from C_CloseSession");
    }
    assert!(b.ask(&["ping", "a"]).is_ok(), "established calls go on");
}
