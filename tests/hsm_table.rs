//! Every row of the table in `src/token/heal.rs`, from every call that a keeper makes: what the table
//! says happens, nothing else does, it is over when the fault is, and a stream between two applications
//! loses no message through all of it.
//!
//! `benches/run outages` runs this and says how long each recovery took.

use fastness::token::heal::{self, Action, Doing, Row};
use rustix::process::Signal;

use crate::support::node::{kill_if_there, signal};
use crate::support::rehearsal::{Rehearsal, Stream, is_ready, restarts};
use crate::support::{Node, eventually, said};

/// What a keeper calls while it serves.
const SERVING: [&str; 8] = [
    "C_SignInit",
    "C_Sign",
    "C_OpenSession",
    "C_FindObjectsInit",
    "C_FindObjects",
    "C_FindObjectsFinal",
    "C_GetAttributeValue",
    "C_CloseSession",
];
/// What it calls up to the login.
const STARTING: [&str; 5] = [
    "C_Initialize",
    "C_GetSlotList",
    "C_GetTokenInfo",
    "C_OpenSession",
    "C_Login",
];
/// And then, while it checks its keys. C_WrapKey is left out: SoftHSM refuses it when it is only asked for
/// the size, which no rule strikes.
const CHECKING: [&str; 9] = [
    "C_FindObjectsInit",
    "C_FindObjects",
    "C_FindObjectsFinal",
    "C_GetAttributeValue",
    "C_GetMechanismList",
    "C_GenerateKey",
    "C_DestroyObject",
    "C_SignInit",
    "C_Sign",
];
/// So rare that no probe takes a fault that is meant for a handshake.
const NO_PROBES: u64 = 3_600_000;

/// A node and what it is rehearsed with.
struct Scene {
    rehearsal: Rehearsal,
    a: Node,
    stream: Stream,
}

impl Scene {
    fn new() -> Self {
        let rehearsal = Rehearsal::probed_each(NO_PROBES);
        let (a, stream) = rehearsal.start_with_stream();
        Self {
            rehearsal,
            a,
            stream,
        }
    }

    fn order(&self, order: &str) {
        self.rehearsal.fault.order(order);
    }

    fn count(&self, call: &str, counter: &str) -> u64 {
        self.rehearsal.fault.counts().of(call, counter)
    }

    /// The fault is over: handshakes succeed again, and the node is ready.
    #[track_caller]
    fn recovered(&self, call: &str, fault: &str) {
        self.rehearsal.fault.clear();
        let took = self.rehearsal.recovered();
        println!("recovered {call} {fault} {}", took.as_millis());
        eventually("ready again", || is_ready(&self.a));
        self.stream.goes_on(&format!("{fault} from {call}"));
    }

    /// Makes the node open a session, or close one, or sign, until `call` was struck.
    fn until_met(&self, call: &str, counter: &str, before: u64) {
        self.rehearsal.until_met(call, counter, before, || {
            if !call.starts_with("C_Sign") {
                self.order("fail C_Sign CKR_SESSION_HANDLE_INVALID times=1");
            }
        });
    }
}

/// Runs `body` for each call at once, each with nodes of its own; in turn when recovery is measured.
fn each(calls: &[&'static str], body: impl Fn(&'static str, &Scene) + Sync) {
    let in_turn = std::env::var_os("FASTNESS_TABLE_IN_TURN").is_some();
    let run = |call| {
        let scene = Scene::new();
        body(call, &scene);
        println!("{call}: {} messages, none lost", scene.stream.end());
    };
    let run = &run;
    std::thread::scope(|scope| {
        for &call in calls {
            let running = scope.spawn(move || run(call));
            if in_turn {
                running.join().expect("what it says stands above");
            }
        }
    });
}

/// Rows that heal by themselves.
fn healing() -> impl Iterator<Item = &'static Row> {
    heal::rows().filter(|row| row.action(Doing::Signing) != Action::Latch)
}

/// Rows that do not: what they say of the PIN is an operator's to mend.
fn latching() -> impl Iterator<Item = &'static Row> {
    heal::rows().filter(|row| row.action(Doing::Signing) == Action::Latch)
}

/// Whether a failure of `call` that lasts ends the process: its own code does, or what it hides.
fn replaces(call: &str, row: &Row) -> bool {
    let ends = |action| matches!(action, Action::ReplaceKeeper | Action::Latch);
    let in_a_new_one = ends(row.action(Doing::Reopening));
    match call {
        "C_SignInit" | "C_Sign" => in_a_new_one || ends(row.action(Doing::Signing)),
        // Its answer changes nothing.
        "C_CloseSession" => false,
        // Kept from us: the next search in that session says CKR_OPERATION_ACTIVE, and others go on.
        "C_FindObjectsFinal" => false,
        _ => in_a_new_one,
    }
}

#[test]
fn every_lasting_failure_of_every_call_heals_when_it_ends() {
    each(&SERVING, |call, scene| {
        for row in healing() {
            let (code, before) = (row.code(), restarts(&scene.a));
            let struck = scene.count(call, "injected");
            scene.order(&format!("fail {call} {code}"));
            scene.until_met(call, "injected", struck);
            scene.stream.goes_on(&format!("{code} from {call}"));
            if replaces(call, row) {
                eventually(&format!("{code} from {call} ends the keeper"), || {
                    (restarts(&scene.a) > before).then_some(())
                });
            }
            scene.recovered(call, &code);
            let replaced = restarts(&scene.a) - before;
            assert!(
                replaced == 0 || replaces(call, row),
                "{code} from {call}: {replaced} restarts that the table does not know"
            );
        }
    });
}

#[test]
fn a_failure_costs_exactly_the_restarts_of_the_table() {
    each(&["C_SignInit", "C_Sign"], |call, scene| {
        for row in healing() {
            let code = row.code();
            let signing = row.action(Doing::Signing) == Action::ReplaceKeeper;
            let reopening = row.action(Doing::Reopening) == Action::ReplaceKeeper;
            // Once: in a session that worked. Twice: in the new one, too.
            for (times, replaced) in [(1, signing), (2, reopening)] {
                if signing && times == 2 {
                    // The second would meet the next keeper.
                    continue;
                }
                let fault = format!("{code} times={times}");
                // A probe after a start may take one of two: then it is done again.
                eventually(&format!("{fault} from {call}"), || {
                    let before = restarts(&scene.a);
                    scene.order(&format!("fail {call} {fault}"));
                    let outcome = scene.rehearsal.shaker.shake();
                    scene.recovered(call, &fault.replace(' ', "-"));
                    let restarts = restarts(&scene.a) - before;
                    assert!(
                        restarts <= u64::from(replaced),
                        "{fault} from {call}: {restarts} restarts"
                    );
                    if times == 1 && !replaced {
                        outcome.unwrap_or_else(|error| panic!("{fault} from {call}: {error}"));
                    }
                    (restarts == u64::from(replaced)).then_some(())
                });
            }
        }
    });
}

/// What a start does until the fault ends: it is tried again and again, and says why.
fn start_under(scene: &Scene, call: &str, row: &Row) {
    let code = row.code();
    let (struck, logins, starts) = (
        scene.count(call, "injected"),
        scene.count("C_Login", "calls"),
        scene.count("C_Initialize", "calls"),
    );
    scene.order(&format!("fail {call} {code}"));
    signal(scene.a.pid("keeper"), Signal::KILL);
    eventually(&format!("{code} from {call}"), || {
        (scene.count(call, "injected") > struck).then_some(())
    });
    eventually(&format!("the status says why: {code} from {call}"), || {
        let status = scene.a.status();
        (status["state"] == "degraded" && status["reason"] != "").then_some(())
    });
    scene.recovered(call, &format!("{code}-at-start"));
    if call == "C_Login" {
        let (logins, starts) = (
            scene.count("C_Login", "calls") - logins,
            scene.count("C_Initialize", "calls") - starts,
        );
        assert!(
            logins <= starts,
            "{code}: {logins} logins in {starts} starts"
        );
    }
}

#[test]
fn every_failure_of_every_call_of_a_start_is_tried_again_until_it_ends() {
    each(&STARTING, |call, scene| {
        healing().for_each(|row| start_under(scene, call, row));
    });
}

#[test]
fn a_key_that_cannot_be_checked_is_not_used_until_it_can() {
    // Every code ends such a start in the same way: one from each part of the table, and the last row.
    each(&CHECKING, |call, scene| {
        for row in healing().step_by(6).chain(healing().last()) {
            start_under(scene, call, row);
        }
    });
}

/// Logins and keepers that were started again so far.
fn tally(scene: &Scene) -> (u64, u64) {
    (scene.count("C_Login", "calls"), restarts(&scene.a))
}

/// Under a code that says something of the PIN: since `before` no more than one login for each keeper that was
/// started again, then none by itself, and one for an operator.
#[track_caller]
fn latches(scene: &Scene, call: &str, code: &str, before: (u64, u64)) -> u64 {
    eventually(&format!("{code} from {call} latches"), || {
        let _ = scene.rehearsal.shaker.shake();
        let status = scene.a.status();
        let reason = status["reason"].as_str()?;
        (reason.contains("`fastness unlock`") && scene.a.pid("keeper") == 0).then_some(())
    });
    let latched = tally(scene);
    let (logins, starts) = (latched.0 - before.0, latched.1 - before.1);
    assert!(
        logins <= starts,
        "{code} from {call}: {logins} logins in {starts} starts"
    );
    scene.stream.goes_on(&format!("{code} from {call}"));
    scene.rehearsal.fault.clear();
    assert!(
        scene.rehearsal.shaker.shake().is_err(),
        "{code} from {call}"
    );
    assert_eq!(tally(scene), latched, "{code} from {call}");
    let unlocked = scene.a.admin(&["unlock"]);
    assert!(unlocked.status.success(), "{}", said(&unlocked));
    scene.recovered(call, &format!("{code}-unlocked"));
    let now = tally(scene);
    let (more, starts) = (now.0 - latched.0, now.1 - latched.1);
    assert!(
        (1..=1 + starts).contains(&more),
        "{code} from {call}: {more} logins, {starts} starts"
    );
    logins
}

#[test]
fn every_word_of_a_lost_pin_from_every_call_latches_without_a_further_login() {
    each(&SERVING, |call, scene| {
        for row in latching() {
            let code = row.code();
            let (struck, before) = (scene.count(call, "injected"), tally(scene));
            scene.order(&format!("fail {call} {code}"));
            scene.until_met(call, "injected", struck);
            if replaces(call, row) {
                latches(scene, call, &code, before);
                continue;
            }
            scene.recovered(call, &code);
            assert_eq!(tally(scene), before, "{code} from {call}");
        }
    });
}

#[test]
fn every_word_of_a_lost_pin_from_every_call_up_to_the_login_latches() {
    each(&STARTING, |call, scene| {
        for row in latching() {
            match call {
                // A slot that says so, and not what is in it, is left out: it may be another one.
                "C_GetTokenInfo" => start_under(scene, call, row),
                "C_Login" => start_that_latches(scene, call, row, 1),
                _ => start_that_latches(scene, call, row, 0),
            }
        }
    });
}

#[test]
fn every_word_of_a_lost_pin_from_every_check_of_a_key_latches_after_one_login() {
    each(&CHECKING, |call, scene| {
        for row in latching() {
            match call {
                // Kept from us.
                "C_FindObjectsFinal" => start_under(scene, call, row),
                _ => start_that_latches(scene, call, row, 1),
            }
        }
    });
}

fn start_that_latches(scene: &Scene, call: &str, row: &Row, most: u64) {
    let (code, before) = (row.code(), tally(scene));
    scene.order(&format!("fail {call} {code}"));
    eventually("a keeper is killed", || {
        let keeper = scene.a.pid("keeper");
        (keeper != 0).then(|| kill_if_there(keeper))
    });
    let logins = latches(scene, call, &code, before);
    assert!(
        most > 0 || logins == 0,
        "{code} from {call}: {logins} logins"
    );
}

#[test]
fn a_call_that_hangs_or_crashes_costs_one_keeper() {
    each(&SERVING, |call, scene| {
        for (order, counter) in [("hang", "hung"), ("abort", "calls")] {
            let before = restarts(&scene.a);
            let (struck, keeper) = (scene.count(call, counter), scene.a.pid("keeper"));
            scene.order(&format!("{order} {call} times=1"));
            if order == "hang" {
                scene.until_met(call, counter, struck);
            }
            eventually(&format!("{order} {call}: another keeper"), || {
                if order == "abort" {
                    scene.until_met(call, counter, struck);
                }
                (restarts(&scene.a) > before).then_some(())
            });
            scene.stream.goes_on(&format!("{order} {call}"));
            scene.a.wait_replaced("keeper", keeper);
            scene.recovered(call, order);
            assert_eq!(restarts(&scene.a), before + 1, "{order} {call}");
        }
    });
}

#[test]
fn a_start_that_hangs_or_crashes_is_tried_again() {
    let calls: Vec<_> = STARTING.into_iter().chain(CHECKING).collect();
    let scene = Scene::new();
    for call in calls {
        let hung = scene.count(call, "hung");
        scene.order(&format!("hang {call} times=1"));
        signal(scene.a.pid("keeper"), Signal::KILL);
        scene.rehearsal.fault.await_count(call, "hung", hung + 1);
        scene.stream.goes_on(&format!("{call} hangs"));
        scene.recovered(call, "hang-at-start");

        let (before, keeper) = (restarts(&scene.a), scene.a.pid("keeper"));
        scene.order(&format!("abort {call} times=1"));
        kill_if_there(keeper);
        scene.a.wait_replaced("keeper", keeper);
        scene.recovered(call, "abort-at-start");
        // A signature that nobody waits for, a probe's or a proof's, may meet the crash before the start does.
        let more = restarts(&scene.a) - before;
        assert!((1..=2).contains(&more), "{call} crashed: {more} restarts");
    }
    println!("{} messages, none lost", scene.stream.end());
}

#[test]
fn a_probe_alone_heals_what_only_a_login_or_a_fresh_start_cures() {
    let rehearsal = Rehearsal::probed_each(200);
    let (a, stream) = rehearsal.start_with_stream();
    for (code, cure) in [
        ("CKR_USER_NOT_LOGGED_IN", "C_Login"),
        ("CKR_GENERAL_ERROR", "C_Login"),
        ("CKR_CRYPTOKI_NOT_INITIALIZED", "C_Initialize"),
        ("CKR_DEVICE_ERROR", "C_Initialize"),
        // Waiting has an end.
        ("CKR_HOST_MEMORY", "C_Login"),
    ] {
        for call in ["C_SignInit", "C_Sign"] {
            let (before, keeper) = (restarts(&a), a.pid("keeper"));
            rehearsal
                .fault
                .order(&format!("fail {call} {code} until={cure}"));
            a.wait_replaced("keeper", keeper);
            assert_eq!(restarts(&a), before + 1, "{code} from {call} until {cure}");
            rehearsal.shaker.shake().expect("it is cured");
            stream.goes_on(code);
        }
    }
    stream.end();
}
