//! Two tokens with the same keys: while one of them fails in any way the other signs, for those who dial us
//! and when we dial, and the first one has its place again when it is well.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::support::rehearsal::{Rehearsal, is_ready, restarts};
use crate::support::{Node, eventually};

/// A node whose keys are reached in two ways: through the fault module, and past it.
fn replicated() -> Rehearsal {
    let rehearsal = Rehearsal::new();
    let token = rehearsal.mesh.tokens("a");
    let environment: String = token
        .environment
        .iter()
        .map(|(name, value)| format!("{name} = {value:?}\n"))
        .collect();
    let second = format!(
        r#"
[[token]]
module = {:?}
uri = "pkcs11:token=a"
pin = "file:token/pin"
server = {{ key = "pkcs11:object=server", certificate = "server.pem" }}
client = {{ key = "pkcs11:object=client", certificate = "client.pem" }}

[token.environment]
{environment}
[limits]"#,
        token.module
    );
    rehearsal.mesh.edit("a/node.toml", "\n[limits]", &second);
    // `b` closes its connections each second, so that `a` has to dial.
    rehearsal.mesh.edit(
        "b/node.toml",
        "[limits]\n",
        "[limits]\nconnection_age_ms = 1000\n",
    );
    rehearsal
}

/// Whether the first token's breaker is open.
fn first_is_avoided(a: &Node) -> bool {
    let text = String::from_utf8(a.admin(&["metrics"]).stdout).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("fastness_breaker_open{token=\"0\",label=\"a\"} "));
    line.expect("each token has a breaker") == "1"
}

/// What `load` counts.
#[derive(Default)]
struct Counted {
    shaken: AtomicU64,
    dialled: AtomicU64,
    failed: AtomicU64,
}

/// Whether no signature is missing to reach `b`. That the old connection was closed under a call is
/// something else.
fn dials(a: &Node) -> bool {
    match a.ask(&["ping", "b"]) {
        Ok(_) => true,
        Err(output) => {
            let said = crate::support::said(&output);
            println!("a ping failed: {said}");
            !said.contains("signature")
        }
    }
}

/// Shakes hands from three threads and dials from a fourth while `meanwhile` runs.
fn load(rehearsal: &Rehearsal, a: &Node, meanwhile: impl FnOnce(&Counted)) {
    let (counted, stop) = (Counted::default(), AtomicBool::new(false));
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (counted, stop) = (&counted, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let (worked, count) = if thread == 0 {
                        (dials(a), &counted.dialled)
                    } else {
                        (rehearsal.shaker.shake().is_ok(), &counted.shaken)
                    };
                    let count = if worked { count } else { &counted.failed };
                    count.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        }
        let _stopped_in_any_case = Stop(&stop);
        meanwhile(&counted);
    });
    println!("{counted}");
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (shaken, dialled) = (of(&self.shaken), of(&self.dialled));
        write!(f, "{shaken} in, {dialled} out, {} failed", of(&self.failed))
    }
}

impl Counted {
    /// Waits for so many more handshakes in both directions.
    #[track_caller]
    fn await_more(&self, handshakes: u64, dials: u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (shaken, dialled) = (of(&self.shaken), of(&self.dialled));
        eventually("handshakes go on in both directions", || {
            (of(&self.shaken) >= shaken + handshakes && of(&self.dialled) >= dialled + dials)
                .then_some(())
        });
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

#[test]
fn a_token_that_hangs_or_signs_wrongly_costs_no_handshake_once_its_breaker_is_open() {
    let rehearsal = replicated();
    let (a, b) = rehearsal.start();
    b.ping("a");
    let signatures = || rehearsal.fault.counts().signatures();
    for order in [
        "corrupt C_Sign",
        "hang C_Sign",
        "fail C_Sign CKR_DEVICE_ERROR",
    ] {
        load(&rehearsal, &a, |counted| {
            counted.await_more(20, 1);
            rehearsal.fault.order(order);
            eventually("the breaker is open", || first_is_avoided(&a).then_some(()));
            let failed = counted.failed();
            println!("{order}: {failed} failed before the breaker was open");
            counted.await_more(60, 3);
            rehearsal.fault.clear();
            eventually("both tokens are well", || is_ready(&a));
            eventually("the breaker is closed", || {
                (!first_is_avoided(&a)).then_some(())
            });
            let before = signatures();
            eventually("the first token signs again", || {
                (signatures() > before + 20).then_some(())
            });
            assert_eq!(
                counted.failed(),
                failed,
                "{order}: with the breaker open, or at the way back"
            );
        });
        assert!(b.ask(&["ping", "a"]).is_ok(), "established calls go on");
    }
}

#[test]
fn a_token_that_opens_but_fails_on_live_traffic_costs_no_handshake_either() {
    let rehearsal = replicated();
    let (a, _b) = rehearsal.start();
    load(&rehearsal, &a, |counted| {
        counted.await_more(20, 1);
        // It opens and its keys pass, and then it fails.
        rehearsal
            .fault
            .order("fail C_SignInit CKR_DEVICE_ERROR after=30");
        counted.await_more(200, 3);
        assert_eq!(
            counted.failed(),
            0,
            "the other token is asked in the same handshake"
        );
    });
}

#[test]
fn a_node_starts_with_the_token_that_is_there_and_takes_the_other_one_up_later() {
    for (order, latches) in [
        ("fail C_Initialize CKR_GENERAL_ERROR", false),
        ("fail C_Login CKR_PIN_INCORRECT", true),
    ] {
        let rehearsal = replicated();
        rehearsal.fault.order(order);
        let (a, b) = rehearsal.start();
        rehearsal.shaker.shake().expect("the second token signs");
        a.ping("b");
        b.ping("a");
        let status = a.status();
        assert_eq!(status["state"], "degraded", "{status}");
        rehearsal.fault.clear();
        if latches {
            assert_eq!(rehearsal.fault.counts().calls("C_Login"), 1);
            assert!(a.admin(&["unlock"]).status.success());
        }
        eventually("both tokens are well", || is_ready(&a));
        let before = rehearsal.fault.counts().signatures();
        eventually("the first token signs", || {
            rehearsal.shaker.shake().expect("one of the two signs");
            (rehearsal.fault.counts().signatures() > before + 5).then_some(())
        });
    }
}

#[test]
fn a_node_does_not_wait_for_a_token_that_hangs_when_another_one_is_open() {
    let rehearsal = replicated();
    rehearsal.fault.order("hang C_Initialize times=1");
    let (a, b) = rehearsal.start();
    rehearsal.shaker.shake().expect("the second token signs");
    b.ping("a");
    let status = a.status();
    assert_eq!(restarts(&a), 0, "the one that hangs has its time: {status}");
    assert_eq!(status["state"], "degraded", "{status}");
    let reason = status["reason"].as_str().unwrap();
    assert!(
        reason.contains("its keeper is still opening it"),
        "{reason}"
    );

    // What opens only then is taken up all the same.
    rehearsal.fault.clear();
    eventually("both tokens are well", || is_ready(&a));
    assert_eq!(restarts(&a), 0, "it went on, and was not replaced");
    let before = rehearsal.fault.counts().signatures();
    eventually("the first token signs", || {
        rehearsal.shaker.shake().expect("one of the two signs");
        (rehearsal.fault.counts().signatures() > before + 5).then_some(())
    });
}

/// What the status says of the first token when its PIN is not tried by itself.
#[track_caller]
fn first_is_latched(a: &Node, why: &str) {
    eventually(&format!("latched: {why}"), || {
        let status = a.status();
        let reason = status["reason"].as_str()?;
        (reason.contains("`fastness unlock`") && reason.contains(why)).then_some(())
    });
}

#[test]
fn a_first_login_without_an_answer_is_not_tried_again_by_itself() {
    let rehearsal = replicated();
    rehearsal.fault.order("abort C_Login times=100");
    let a = rehearsal.mesh.start("a");
    first_is_latched(&a, "during the login");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(rehearsal.fault.counts().calls("C_Login"), 1);
    rehearsal.fault.clear();
    assert!(a.admin(&["unlock"]).status.success());
    eventually("both are open", || is_ready(&a));
}

#[test]
fn a_start_by_itself_heeds_the_tokens_count_of_wrong_pins() {
    let rehearsal = replicated();
    rehearsal.fault.order("pin-flags count-low");
    let logins = || rehearsal.fault.counts().calls("C_Login");
    for started in 0..2 {
        let a = rehearsal.mesh.start("a");
        first_is_latched(&a, "CKF_USER_PIN_COUNT_LOW");
        assert_eq!(logins(), started);
        assert!(a.admin(&["unlock"]).status.success());
        eventually("both are open", || is_ready(&a));
        assert_eq!(logins(), started + 1);
        // A supervisor that is started again has forgotten what the one before knew.
        drop(a);
        eventually("all of it is gone", || {
            std::net::TcpListener::bind(("127.0.0.1", rehearsal.mesh.ports["a"])).ok()
        });
    }
}
