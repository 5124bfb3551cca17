//! More of them than a token can serve: at a listed peer's own address, and at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::*;

#[test]
fn strangers_at_a_peer_s_address_have_a_rate_too_and_the_peer_has_its_turn_among_them() {
    const RATE: f64 = 20.0;
    const TRIES: u32 = 12;
    let (mesh, listed) =
        stage("stranger_signatures_per_second = 20\nhandshake_deadline_ms = 60000");
    let fault = FaultModule::before(&mesh);
    let a = mesh.start("a");
    let (nobody, peer, to) = (client(None), client(Some(&listed)), a.address());
    // A second's worth, and one for each thread of the lane.
    let at_once = RATE + of(&metrics(&a), "fastness_lane_threads");
    let (before, began) = (fault.counts().signatures(), Instant::now());
    runtime().block_on(async {
        let dialled = Arc::new(AtomicU64::new(0));
        let mut flood = JoinSet::new();
        for _ in 0..6 {
            let (nobody, dialled) = (nobody.clone(), Arc::clone(&dialled));
            flood.spawn(async move {
                loop {
                    let signed = connect(&nobody, PEER, to).await.is_ok();
                    dialled.fetch_add(u64::from(signed), Ordering::Relaxed);
                }
            });
        }
        while (dialled.load(Ordering::Relaxed) as f64) < at_once + 5.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for number in 0..TRIES {
            assert!(is_let_in(&peer, PEER, to).await, "try {number}");
        }
    });
    let spent = fault.counts().signatures() - before;
    let seconds = began.elapsed().as_secs_f64();
    let samples = metrics(&a);
    assert_eq!(of(&samples, ESTABLISHED), f64::from(TRIES));
    // Theirs, the peer's, and the health probe's two each five seconds at most.
    let most = at_once + RATE * seconds + f64::from(TRIES) + 4.0 + 2.0 * seconds / 5.0;
    assert!(
        spent as f64 <= most,
        "{spent} signatures in {seconds} s, {most} at most"
    );
    let proved = of(&samples, "fastness_signatures_total{class=\"listed\"}");
    assert!(proved >= at_once + 5.0 + f64::from(TRIES), "{proved}");
}

#[test]
fn those_who_left_while_they_waited_at_a_peer_s_address_are_not_in_its_way() {
    const CROWD: usize = 200;
    const HALF_OPEN: &str = "fastness_half_open_connections{class=\"listed\"}";
    let (mesh, listed) =
        stage("stranger_signatures_per_second = 1\nhandshake_deadline_ms = 120000");
    let a = mesh.start("a");
    let (nobody, peer, to) = (client(None), client(Some(&listed)), a.address());
    let half_open = || of(&metrics(&a), HALF_OPEN);
    runtime().block_on(async {
        let mut crowd = JoinSet::new();
        for _ in 0..CROWD {
            let nobody = nobody.clone();
            crowd.spawn(async move { connect(&nobody, PEER, to).await.is_ok() });
        }
        while half_open() < 0.9 * CROWD as f64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        crowd.shutdown().await;
        eventually("they have left", || (half_open() == 0.0).then_some(()));
        // Each in its turn they would have had theirs, one a second, until none may wait any longer.
        let spent = of(&metrics(&a), "fastness_signatures_total{class=\"listed\"}");
        assert!(spent < 35.0, "{spent}");
        assert!(is_let_in(&peer, PEER, to).await);
    });
}

#[test]
fn seven_hundred_handshakes_at_once_need_no_more_threads_than_stated() {
    const SESSIONS: usize = 8;
    // How slow this machine is is not asked.
    let (mesh, listed) = stage("handshake_deadline_ms = 120000\nsign_deadline_ms = 60000");
    let sessions = format!("sessions = {SESSIONS}\npin = ");
    mesh.edit("a/node.toml", "pin = ", &sessions);
    let fault = FaultModule::before(&mesh);
    raise_open_files();
    let a = mesh.start("a");
    fault.order(&format!("set C_Sign delay=20ms sessions={SESSIONS}"));
    let (peer, to) = (client(Some(&listed)), a.address());
    let threads = format!("/proc/{}/task", a.pid("node"));
    let done = AtomicBool::new(false);
    let (most, let_in) = std::thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                let threads = std::fs::read_dir(&threads).expect("the node runs");
                most = most.max(threads.count());
                std::thread::sleep(Duration::from_millis(5));
            }
            most
        });
        let let_in = runtime().block_on(async {
            let mut all = JoinSet::new();
            for _ in 0..700 {
                let peer = peer.clone();
                all.spawn(async move { is_let_in(&peer, PEER, to).await });
            }
            all.join_all().await
        });
        done.store(true, Ordering::Relaxed);
        (counting.join().expect("it counts"), let_in)
    });
    assert_eq!(let_in.iter().filter(|let_in| **let_in).count(), 700);
    let workers = std::thread::available_parallelism().expect("a number");
    let allowed = workers.get() + SESSIONS + 6;
    assert!(most > SESSIONS, "{most} threads cannot be right");
    assert!(most <= allowed, "{most} threads, {allowed} at most");
}
