//! A slow, hung or dying HSM never takes the node down. Real processes on a real SoftHSM, behind the
//! fault module (`hsm-setup/fault-module`), which is a test double for what no real part can do.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::node::{is_alive, signal};
use crate::support::rehearsal::{Rehearsal, is_ready, restarts, restarts_of};
use crate::support::{FASTNESS, Mesh, Node, Options, eventually, id_of, run};

#[test]
fn a_handshake_opens_no_session_and_looks_for_no_key() {
    let rehearsal = Rehearsal::probed_each(3_600_000);
    let (a, b) = rehearsal.start();
    b.ping("a");
    let before = rehearsal.fault.counts();
    for _ in 0..40 {
        rehearsal.shaker.shake().expect("a handshake");
    }
    let after = rehearsal.fault.counts();
    assert!(after.signatures() >= before.signatures() + 40);
    for call in [
        "C_OpenSession",
        "C_FindObjectsInit",
        "C_FindObjects",
        "C_Login",
    ] {
        assert!(before.calls(call) > 0, "{call} at the start");
        assert_eq!(after.calls(call), before.calls(call), "{call}");
    }
    assert_eq!(restarts(&a), 0);
}

#[test]
fn a_refused_pin_latches_and_unlock_heals_it() {
    let rehearsal = Rehearsal::new();
    let (a, b) = rehearsal.start();
    b.ping("a");
    let logins = rehearsal.fault.counts().calls("C_Login");
    rehearsal.fault.order("fail C_Login CKR_PIN_INCORRECT");
    // The verdict is told before the module is asked for anything more.
    for (call, end) in [("C_CloseSession", "abort"), ("C_Finalize", "hang")] {
        rehearsal
            .fault
            .order(&format!("{end} {call} times=forever"));
    }
    signal(a.pid("keeper"), Signal::KILL);
    eventually("the status says why", || {
        let status = a.status();
        status["reason"].as_str()?.contains("unlock").then_some(())
    });
    eventually("the process is ended", || {
        (a.pid("keeper") == 0).then_some(())
    });
    assert!(rehearsal.shaker.shake().is_err());
    let text = String::from_utf8(a.admin(&["metrics"]).stdout).unwrap();
    assert!(
        text.contains("fastness_sign_failures_total{token=\"0\",label=\"a\",reason=\"gone\"} 1"),
        "it was refused at once: {text}"
    );
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(
        rehearsal.fault.counts().calls("C_Login"),
        logins + 1,
        "one try and no more"
    );
    assert!(b.ask(&["ping", "a"]).is_ok(), "established calls go on");
    rehearsal.fault.clear();
    assert!(a.admin(&["unlock"]).status.success());
    rehearsal.recovered();
    assert_eq!(rehearsal.fault.counts().calls("C_Login"), logins + 2);
}

#[test]
fn a_wrong_pin_in_a_vendors_own_words_is_one_login_and_latches() {
    let rehearsal = Rehearsal::new();
    let (a, b) = rehearsal.start();
    b.ping("a");
    let pin = rehearsal.mesh.read("a/token/pin");
    for code in ["CKR_GENERAL_ERROR", "CKR_FUNCTION_REJECTED", "0x80000001"] {
        let logins = rehearsal.fault.counts().calls("C_Login");
        rehearsal.mesh.write("a/token/pin", "this is not it");
        rehearsal.fault.order(&format!("reword C_Login {code}"));
        signal(a.pid("keeper"), Signal::KILL);
        eventually(&format!("{code}: the status says why"), || {
            let status = a.status();
            let reason = status["reason"].as_str()?;
            (reason.contains("unlock") && reason.contains("wrong try on record")).then_some(())
        });
        assert_eq!(
            rehearsal.fault.counts().calls("C_Login"),
            logins + 1,
            "{code}: one try and no more"
        );
        rehearsal.fault.clear();
        rehearsal.mesh.write("a/token/pin", &pin);
        assert!(a.admin(&["unlock"]).status.success(), "{code}");
        rehearsal.recovered();
        assert_eq!(rehearsal.fault.counts().calls("C_Login"), logins + 2);
    }
}

/// How often `node` shook hands as the one that dials.
fn dialled(node: &Node) -> u64 {
    let text = String::from_utf8(node.admin(&["metrics"]).stdout).unwrap();
    let line = text.lines().find_map(|line| {
        line.strip_prefix("fastness_handshakes_total{role=\"client\",outcome=\"established\"} ")
    });
    line.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn streams_on_one_connection_lose_nothing_through_every_outage() {
    const BYTES: u64 = 8 << 20;
    let rehearsal = Rehearsal::new();
    let (a, b) = rehearsal.start();
    b.ping("a");
    let (stop, streams) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let streaming = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let pong = b
                    .ask(&["ping", "a", "--transfer", "8MiB"])
                    .unwrap_or_else(|output| panic!("{}", crate::support::said(&output)));
                assert_eq!(
                    (pong["bytes_sent"].as_u64(), pong["bytes_received"].as_u64()),
                    (Some(BYTES), Some(BYTES))
                );
                streams.fetch_add(1, Ordering::Relaxed);
            }
        });
        for outage in [
            "fail all CKR_DEVICE_REMOVED",
            "fail C_Sign CKR_GENERAL_ERROR",
            "hang C_Sign",
            "logout native close-sessions",
            "abort C_Sign",
            "kill -9 here",
            "SIGSTOP here",
            "kill -9 there",
            "SIGSTOP there",
        ] {
            match outage {
                "kill -9 here" => signal(a.pid("keeper"), Signal::KILL),
                "SIGSTOP here" => signal(a.pid("keeper"), Signal::STOP),
                "kill -9 there" => signal(b.pid("keeper"), Signal::KILL),
                "SIGSTOP there" => signal(b.pid("keeper"), Signal::STOP),
                order => drop(rehearsal.fault.order(order)),
            }
            let before = streams.load(Ordering::Relaxed);
            eventually("streams go on", || {
                let _ = rehearsal.shaker.shake();
                (streaming.is_finished() || streams.load(Ordering::Relaxed) >= before + 4)
                    .then_some(())
            });
            assert!(
                !streaming.is_finished(),
                "a stream was lost during {outage:?}"
            );
            rehearsal.fault.clear();
            rehearsal.recovered();
            eventually("ready again", || is_ready(&a).and(is_ready(&b)));
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{} streams of 8 MiB each way", streams.into_inner());
    assert_eq!(dialled(&b), 1, "it was one connection all the time");
}

#[test]
fn a_wrong_pin_at_the_start_is_tried_exactly_once_and_no_other_by_itself_until_a_check_has_logged_in()
 {
    let rehearsal = Rehearsal::new();
    let mesh = &rehearsal.mesh;
    let logins = || rehearsal.fault.counts().calls("C_Login");
    let start = || Node::spawn("a", &mesh.path("a"), mesh.ports["a"], Options::default());
    let pin = mesh.read("a/token/pin");
    mesh.write("a/token/pin", "this is not it");
    for _ in 0..2 {
        let mut node = start();
        assert_eq!(node.wait_exit().code(), Some(4));
        assert_eq!(logins(), 1);
        // However often it is started again, and whatever the PIN is now.
        mesh.write("a/token/pin", &pin);
    }
    let checked = mesh.check("a");
    assert!(
        checked.status.success(),
        "{}",
        crate::support::said(&checked)
    );
    let a = start();
    a.wait_ready();
    assert_eq!(logins(), 3);
}

#[test]
fn a_hung_signature_costs_its_handshake_and_the_keeper_is_replaced() {
    let rehearsal = Rehearsal::new();
    let (a, b) = rehearsal.start();
    b.ping("a");
    let keeper = a.pid("keeper");
    rehearsal.fault.order("hang C_Sign times=1");
    let shaker = rehearsal.shaker.clone();
    let stuck = std::thread::spawn(move || shaker.shake().is_ok());
    rehearsal.fault.await_count("C_Sign", "hung", 1);
    assert!(b.ask(&["ping", "a"]).is_ok(), "established calls go on");
    a.wait_replaced("keeper", keeper);
    rehearsal.recovered();
    println!(
        "the handshake that hung succeeded in the end: {}",
        stuck.join().unwrap()
    );
    assert!(!is_alive(keeper));
}

#[test]
fn a_replacement_that_hangs_while_it_starts_is_cut_off_long_before_a_first_start_would_be() {
    let rehearsal = Rehearsal::new();
    let (a, b) = rehearsal.start();
    b.ping("a");
    let hung = |call: &str| rehearsal.fault.counts().of(call, "hung");
    for call in [
        "C_Initialize",
        "C_GetTokenInfo",
        "C_Login",
        "C_FindObjectsInit",
        "C_Sign",
    ] {
        let (before, restarted) = (hung(call), restarts(&a));
        rehearsal.fault.order(&format!("hang {call} times=1"));
        let since = std::time::Instant::now();
        signal(a.pid("keeper"), Signal::KILL);
        rehearsal.fault.await_count(call, "hung", before + 1);
        rehearsal.recovered();
        println!(
            "{call} hung: recovered {:?} after the kill",
            since.elapsed()
        );
        // A first start has a minute.
        assert!(since.elapsed() < Duration::from_secs(30));
        eventually("ready again", || is_ready(&a));
        assert_eq!(restarts(&a), restarted + 2, "{call}");
        assert!(b.ask(&["ping", "a"]).is_ok(), "established calls go on");
    }
    // A handshake hangs, and then the check of the keys after it.
    rehearsal.fault.order("hang C_Sign times=2");
    let since = std::time::Instant::now();
    let _ = rehearsal.shaker.shake();
    rehearsal.recovered();
    println!("C_Sign hung twice: recovered after {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(30));
}

#[test]
fn wrong_signatures_are_found_out_by_requests_and_reported() {
    let rehearsal = Rehearsal::probed_each(3_600_000);
    let (a, b) = rehearsal.start();
    b.ping("a");
    rehearsal.fault.order("corrupt C_Sign");
    eventually("the status says so", || {
        assert!(rehearsal.shaker.shake().is_err());
        let status = a.status();
        status["reason"]
            .as_str()?
            .contains("does not verify")
            .then_some(())
    });
    rehearsal.fault.clear();
    eventually("ready again", || is_ready(&a));
    rehearsal.recovered();
}

/// What a keeper counted last comes with its word that it is lost.
#[test]
fn what_a_lost_keeper_has_counted_is_not_lost() {
    let rehearsal = Rehearsal::new();
    let (a, b) = rehearsal.start();
    b.ping("a");
    let keeper = a.pid("keeper");
    rehearsal.fault.order("fail all CKR_DEVICE_REMOVED");
    eventually("the keeper is replaced", || {
        let _ = rehearsal.shaker.shake();
        a.log().contains("replacing the keeper").then_some(())
    });
    rehearsal.fault.clear();
    a.wait_replaced("keeper", keeper);
    rehearsal.recovered();
    let metrics = a.ask(&["metrics"]).expect("its counts");
    let text = metrics["text"].as_str().expect("text");
    let counted = text.lines().find(|line| {
        line.starts_with("fastness_keeper_evictions_total{") && line.contains("CKR_DEVICE_REMOVED")
    });
    assert!(counted.is_some(), "{text}");
    assert!(text.contains("\nfastness_ready 1\n"), "{text}");
}

#[test]
fn a_logout_elsewhere_replaces_the_keeper() {
    for order in ["logout", "logout native close-sessions"] {
        let rehearsal = Rehearsal::new();
        let (a, b) = rehearsal.start();
        b.ping("a");
        rehearsal.fault.order(order);
        let took = rehearsal.recovered();
        println!("{order}: recovered in {took:?}");
        assert!(b.ask(&["ping", "a"]).is_ok(), "established calls go on");
        eventually("ready again", || is_ready(&a));
    }
}

#[test]
fn a_token_that_goes_away_is_taken_up_again_when_it_is_back() {
    let rehearsal = Rehearsal::new();
    let (a, b) = rehearsal.start();
    b.ping("a");
    let (there, away) = (
        rehearsal.mesh.path("a/token"),
        rehearsal.mesh.path("a/away"),
    );
    std::fs::rename(&there, &away).unwrap();
    eventually("the status says why", || {
        let status = a.status();
        (status["state"] == "degraded" && status["reason"] != "").then_some(())
    });
    assert!(b.ask(&["ping", "a"]).is_ok(), "established calls go on");
    std::fs::rename(&away, &there).unwrap();
    let took = rehearsal.recovered();
    println!("recovered in {took:?}");
    eventually("ready again", || is_ready(&a));
}

#[test]
fn a_deleted_key_is_reported_by_name() {
    let rehearsal = Rehearsal::new();
    let (a, b) = rehearsal.start();
    b.ping("a");
    let token = rehearsal.mesh.tokens("a");
    let mut destroy = token.fastness();
    destroy.args([
        "token",
        "destroy",
        "--yes",
        "--key",
        &token.uri("server"),
        "--pin",
        &token.pin_source(),
        "--module",
    ]);
    assert!(destroy.arg(&token.module).status().unwrap().success());
    eventually("the status names the key", || {
        let _ = rehearsal.shaker.shake();
        let status = a.status();
        let reason = status["reason"].as_str()?;
        (reason.contains("object=server") && reason.contains("no private key")).then_some(())
    });
    assert!(b.ask(&["ping", "a"]).is_ok(), "established calls go on");
}

/// What is the case while a handshake is under way.
const WELL: u32 = 0;
const OUTAGE: u32 = 1;
const RECOVERED: u32 = 2;

/// Shakes hands 200 times a second, or as often as this machine can, while `meanwhile` runs and makes an
/// outage that is over at its end; how many succeeded and failed. Only handshakes that the outage met may
/// fail.
fn under_load(rehearsal: &Rehearsal, meanwhile: impl FnOnce()) -> (u32, u32) {
    let stop = AtomicBool::new(false);
    let (next, now) = (AtomicU32::new(0), AtomicU32::new(WELL));
    let (done, failed) = (AtomicU32::new(0), AtomicU32::new(0));
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        let loads: Vec<_> = std::iter::repeat_with(|| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let due = next.fetch_add(1, Ordering::Relaxed) * Duration::from_millis(5);
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                    let before = now.load(Ordering::SeqCst);
                    match rehearsal.shaker.shake() {
                        Ok(_) => done.fetch_add(1, Ordering::Relaxed),
                        Err(error) => {
                            let after = now.load(Ordering::SeqCst);
                            let met = before <= OUTAGE && after >= OUTAGE;
                            assert!(met, "{before} to {after}: {error}");
                            failed.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                }
            })
        })
        .take(8)
        .collect();
        let twenty_more = || {
            let before = done.load(Ordering::Relaxed);
            eventually("handshakes go on", || {
                let failed = loads.iter().any(|load| load.is_finished());
                (failed || done.load(Ordering::Relaxed) >= before + 20).then_some(())
            });
        };
        twenty_more();
        now.store(OUTAGE, Ordering::SeqCst);
        meanwhile();
        now.store(RECOVERED, Ordering::SeqCst);
        twenty_more();
        stop.store(true, Ordering::Relaxed);
    });
    (done.into_inner(), failed.into_inner())
}

#[test]
fn processes_that_die_or_stop_under_load_are_replaced_and_handshakes_go_on() {
    let rehearsal = Rehearsal::new();
    let (a, b) = rehearsal.start();
    b.ping("a");
    for (role, how) in [
        ("keeper", Signal::KILL),
        ("keeper", Signal::STOP),
        ("node", Signal::KILL),
    ] {
        let began = std::time::Instant::now();
        let before = restarts_of(&a, role);
        let (done, failed) = under_load(&rehearsal, || {
            let stream = || b.ask(&["ping", "a", "--transfer", "64MiB"]);
            std::thread::scope(|scope| {
                let stream = scope.spawn(stream);
                let old = a.pid(role);
                signal(old, how);
                a.wait_replaced(role, old);
                rehearsal.recovered();
                eventually("ready again", || is_ready(&a));
                let pong = stream.join().unwrap();
                if role == "keeper" {
                    let pong =
                        pong.unwrap_or_else(|output| panic!("{}", crate::support::said(&output)));
                    assert_eq!(
                        pong["bytes_received"],
                        64 << 20,
                        "an open stream lost something"
                    );
                }
            });
        });
        println!(
            "{role} {how:?}: {done} handshakes, {:.0} a second, {failed} failed",
            f64::from(done) / began.elapsed().as_secs_f64()
        );
        assert_eq!(restarts_of(&a, role), before + 1, "{role} {how:?}");
    }
}

#[test]
fn a_second_token_takes_over_and_gives_back() {
    let mut rehearsal = Rehearsal::new();
    for role in ["server", "client"] {
        rehearsal.mesh.issue(
            "a",
            &format!("{role}-backup"),
            role,
            &id_of("a"),
            &format!("a/{role}-2.pem"),
        );
    }
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
server = {{ key = "pkcs11:object=server-backup", certificate = "server-2.pem" }}
client = {{ key = "pkcs11:object=client-backup", certificate = "client-2.pem" }}

[token.environment]
{environment}
[limits]"#,
        token.module
    );
    rehearsal.mesh.edit("a/node.toml", "\n[limits]", &second);
    let (a, b) = rehearsal.start();
    b.ping("a");
    let first = || rehearsal.fault.counts().signatures();

    let before = first();
    rehearsal.shaker.shake().expect("the first token signs");
    assert!(first() > before);

    rehearsal.fault.order("fail all CKR_DEVICE_REMOVED");
    rehearsal.recovered();
    eventually("the breaker is open", || {
        (a.status()["state"] == "degraded").then_some(())
    });
    for round in 0..50 {
        rehearsal
            .shaker
            .shake()
            .unwrap_or_else(|error| panic!("handshake {round} with the second token: {error}"));
    }
    assert!(b.ask(&["ping", "a"]).is_ok(), "established calls go on");

    rehearsal.fault.clear();
    eventually("ready again", || is_ready(&a));
    eventually("the first token signs again", || {
        let before = first();
        rehearsal.shaker.shake().expect("one of the two signs");
        (first() > before).then_some(())
    });
    rehearsal.mesh.others.clear();
}

#[test]
fn few_sessions_are_enough() {
    for most in 1..=5 {
        let rehearsal = Rehearsal::new();
        rehearsal.fault.order(&format!("max-sessions {most}"));
        let (a, b) = rehearsal.start();
        b.ping("a");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| rehearsal.shaker.shake().expect("it waits for its turn"));
            }
        });
        assert_eq!(restarts(&a), 0, "{most} sessions");
        // The one session that holds the login cannot be replaced: the keeper is.
        let keeper = a.pid("keeper");
        rehearsal
            .fault
            .order("fail C_Sign CKR_DEVICE_ERROR times=1");
        let _ = rehearsal.shaker.shake();
        if most == 1 {
            a.wait_replaced("keeper", keeper);
        }
        rehearsal.recovered();
        assert_eq!(restarts(&a), u64::from(most == 1), "{most} sessions");
    }
}

#[test]
fn a_shortage_of_sessions_costs_no_handshake_and_is_made_up_for() {
    let rehearsal = Rehearsal::probed_each(3_600_000);
    let (a, b) = rehearsal.start();
    b.ping("a");
    let eight = || {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    rehearsal
                        .shaker
                        .shake()
                        .expect("a busy session is waited for")
                });
            }
        });
    };
    let sessions = || {
        let text = String::from_utf8(a.admin(&["metrics"]).stdout).unwrap();
        let line = "fastness_keeper_sessions{token=\"0\",label=\"a\"} ";
        text.lines()
            .find_map(|at| at.strip_prefix(line)?.parse::<u64>().ok())
    };
    rehearsal.fault.order("set C_Sign delay=30ms");
    rehearsal
        .fault
        .order("fail C_OpenSession CKR_SESSION_COUNT");
    // The first one is made up for with the probe's own.
    for left in [4, 3, 2, 1] {
        rehearsal
            .fault
            .order("fail C_Sign CKR_SESSION_HANDLE_INVALID times=1");
        eight();
        eventually("the metrics say so", || {
            (sessions() == Some(left)).then_some(())
        });
    }
    rehearsal.fault.order("clear C_OpenSession");
    eventually("the pool is whole again", || {
        eight();
        (sessions() == Some(4)).then_some(())
    });
    assert_eq!(restarts(&a), 0);
    assert!(is_ready(&a).is_some());
}

#[test]
fn a_token_that_gives_no_session_for_long_costs_the_keeper_and_not_the_node() {
    // The codes that are waited for.
    for code in ["CKR_SESSION_COUNT", "CKR_DEVICE_MEMORY"] {
        let rehearsal = Rehearsal::probed_each(3_600_000);
        let (a, b) = rehearsal.start();
        b.ping("a");
        let keeper = a.pid("keeper");
        rehearsal
            .fault
            .order(&format!("fail C_OpenSession {code} until=C_Initialize"));
        // Four sessions, and the probe's.
        for _ in 0..5 {
            rehearsal
                .fault
                .order("fail C_Sign CKR_SESSION_HANDLE_INVALID times=1");
            let _ = rehearsal.shaker.shake();
        }
        a.wait_replaced("keeper", keeper);
        rehearsal.recovered();
        assert_eq!(restarts(&a), 1, "{code}");
        assert!(b.ask(&["ping", "a"]).is_ok(), "established calls go on");
    }
}

#[test]
fn a_keeper_that_stops_lets_signatures_end_before_it_ends_the_module() {
    let rehearsal = Rehearsal::probed_each(3_600_000);
    // The node goes at once; what it asked for is still under way in the keeper.
    rehearsal
        .mesh
        .edit("a/node.toml", "drain_ms = 60000", "drain_ms = 0");
    let (mut a, b) = rehearsal.start();
    b.ping("a");
    let ended = |counter: &str| rehearsal.fault.counts().of("C_Finalize", counter);
    for (order, finalized) in [("set C_Sign delay=1s", 1), ("hang C_Sign", 0)] {
        rehearsal.fault.order("zero-counts");
        rehearsal.fault.order(order);
        let signing: Vec<_> = (0..3)
            .map(|_| {
                let shaker = rehearsal.shaker.clone();
                std::thread::spawn(move || drop(shaker.shake()))
            })
            .collect();
        eventually("three signatures are under way", || {
            let counts = rehearsal.fault.counts();
            (counts.of("C_Sign", "delayed") + counts.of("C_Sign", "hung") >= 3).then_some(())
        });
        let keeper = a.pid("keeper");
        signal(a.supervisor(), Signal::TERM);
        a.wait_exit();
        assert!(!is_alive(keeper));
        assert_eq!(
            (ended("calls"), ended("overlapped")),
            (finalized, 0),
            "{order}"
        );
        signing.into_iter().for_each(|one| one.join().unwrap());
        rehearsal.fault.clear();
        a = rehearsal.mesh.start("a");
    }
}

#[test]
fn twenty_times_four_nodes_start_at_once_on_one_token_folder() {
    let mesh = Mesh::new();
    let nodes: Vec<_> = (0..4)
        .map(|number| {
            let (name, port) = (format!("start-{number}"), crate::support::free_port());
            std::fs::create_dir(mesh.path(&name)).unwrap();
            let text = mesh.read("a/node.toml");
            let text = text
                .replace(&format!(":{}", mesh.ports["a"]), &format!(":{port}"))
                .replace("file:token", "file:../a/token")
                .replace("\"server.pem\"", "\"../a/server.pem\"")
                .replace("\"client.pem\"", "\"../a/client.pem\"")
                .replace("\"peers.toml\"", "\"../a/peers.toml\"");
            mesh.write(&format!("{name}/node.toml"), &text);
            (name, port)
        })
        .collect();
    for _ in 0..20 {
        let started: Vec<_> = nodes
            .iter()
            .map(|(name, port)| Node::spawn(name, &mesh.path(name), *port, Options::default()))
            .collect();
        started.iter().for_each(Node::wait_ready);
        for node in &started {
            assert_eq!(restarts(node), 0, "the first try succeeds");
        }
        drop(started);
        // Its processes end with a supervisor that was killed, but a moment later.
        for (_, port) in &nodes {
            eventually("the port is free again", || {
                std::net::TcpListener::bind(("127.0.0.1", *port)).ok()
            });
        }
    }
}

#[test]
fn a_token_that_was_initialised_anew_is_reported_and_the_old_one_is_taken_up_again() {
    let rehearsal = Rehearsal::new();
    let (a, b) = rehearsal.start();
    b.ping("a");
    let token = rehearsal.mesh.tokens("a");
    let (there, kept) = (token.folder.join("tokens"), rehearsal.mesh.path("a/kept"));
    run(Command::new("cp").arg("-a").args([&there, &kept]));
    let so_pin = std::fs::read_to_string(token.folder.join("so-pin")).unwrap();
    run(token
        .command("softhsm2-util")
        .args(["--init-token", "--token", "a", "--label", "a"])
        .args(["--so-pin", &so_pin, "--pin", &token.pin()]));
    eventually("the status names the key", || {
        let _ = rehearsal.shaker.shake();
        let status = a.status();
        let reason = status["reason"].as_str()?;
        (reason.contains("object=server") && reason.contains("no private key")).then_some(())
    });
    assert!(b.ask(&["ping", "a"]).is_ok(), "established calls go on");
    // A keeper that starts writes into the folder: it would not stay empty.
    std::fs::rename(&there, rehearsal.mesh.path("a/anew")).unwrap();
    std::fs::rename(&kept, &there).unwrap();
    let took = rehearsal.recovered();
    println!("recovered in {took:?}");
    eventually("ready again", || is_ready(&a));
}

#[test]
fn a_pin_that_one_more_try_could_lock_is_not_tried_by_itself() {
    let rehearsal = Rehearsal::new();
    let (a, b) = rehearsal.start();
    b.ping("a");
    for (flag, says) in [
        ("count-low", "CKF_USER_PIN_COUNT_LOW"),
        ("final-try", "one more wrong PIN locks this token"),
        ("locked", "locked after too many wrong tries"),
    ] {
        let logins = rehearsal.fault.counts().calls("C_Login");
        rehearsal.fault.order(&format!("pin-flags {flag}"));
        signal(a.pid("keeper"), Signal::KILL);
        eventually(&format!("{flag}: the status says why"), || {
            let status = a.status();
            let reason = status["reason"].as_str()?;
            (reason.contains("unlock") && reason.contains(says)).then_some(())
        });
        assert!(b.ask(&["ping", "a"]).is_ok(), "established calls go on");
        assert_eq!(rehearsal.fault.counts().calls("C_Login"), logins, "{flag}");
        // With a wrong try on record an operator may order one; the others need the token mended.
        if flag != "count-low" {
            assert!(!a.admin(&["unlock"]).status.success(), "{flag}");
            assert_eq!(rehearsal.fault.counts().calls("C_Login"), logins, "{flag}");
            rehearsal.fault.clear();
        }
        assert!(a.admin(&["unlock"]).status.success(), "{flag}");
        rehearsal.fault.clear();
        rehearsal.recovered();
        eventually("ready again", || is_ready(&a));
        let text = String::from_utf8(a.admin(&["metrics"]).stdout).unwrap();
        assert!(text.contains("fastness_keeper_latches_total{token=\"0\",label=\"a\"} "));
    }
}

#[test]
fn a_token_with_a_keypad_is_refused_in_clear_words() {
    let rehearsal = Rehearsal::new();
    rehearsal.fault.order("pin-flags keypad");
    let output = rehearsal.mesh.check("a");
    let said = crate::support::said(&output);
    assert!(!output.status.success());
    assert!(said.contains("CKF_PROTECTED_AUTHENTICATION_PATH"), "{said}");
    assert_eq!(rehearsal.fault.counts().calls("C_Login"), 0);
}

/// A module's start has a minute.
#[test]
fn a_check_that_is_told_to_stop_while_a_module_hangs_ends_with_its_keeper() {
    for told in [Signal::TERM, Signal::INT, Signal::HUP] {
        let rehearsal = Rehearsal::new();
        rehearsal.fault.order("hang C_Initialize times=1");
        let check = Command::new(FASTNESS)
            .args(["check", "--config"])
            .arg(rehearsal.mesh.path("a/node.toml"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        rehearsal.fault.await_count("C_Initialize", "hung", 1);
        let children = format!("/proc/{0}/task/{0}/children", check.id());
        let children = std::fs::read_to_string(children).unwrap();
        let keeper: u32 = children.trim().parse().expect("one child");
        signal(check.id(), told);
        let output = check.wait_with_output().unwrap();
        let said = crate::support::said(&output);
        assert_eq!(output.status.code(), Some(1), "{told:?}: {said}");
        assert!(said.contains("told to stop"), "{told:?}: {said}");
        assert!(!is_alive(keeper), "{told:?}");
    }
}

#[test]
fn what_a_failing_token_cost_stands_in_the_metrics() {
    let rehearsal = Rehearsal::new();
    let (a, b) = rehearsal.start();
    b.ping("a");
    // The probe may take one of them.
    rehearsal
        .fault
        .order("fail C_Sign CKR_DEVICE_ERROR times=1");
    rehearsal.shaker.shake().expect("a new session signs");
    let says = |line: &str| {
        eventually(&format!("the metrics say {line}"), || {
            let text = String::from_utf8(a.admin(&["metrics"]).stdout).unwrap();
            text.lines().any(|has| has == line).then_some(())
        });
    };
    let of = "token=\"0\",label=\"a\"";
    says(&format!(
        "fastness_keeper_evictions_total{{{of},code=\"CKR_DEVICE_ERROR\"}} 1"
    ));
    says(&format!("fastness_keeper_sessions{{{of}}} 4"));
    says(&format!("fastness_keeper_restarts_total{{{of}}} 0"));
    says(&format!("fastness_breaker_open{{{of}}} 0"));
    rehearsal.fault.order("fail all CKR_DEVICE_REMOVED");
    let _ = rehearsal.shaker.shake();
    says(&format!("fastness_breaker_open{{{of}}} 1"));
    rehearsal.fault.clear();
    rehearsal.recovered();
    says(&format!("fastness_breaker_open{{{of}}} 0"));
}
