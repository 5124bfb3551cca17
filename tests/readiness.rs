//! Readiness, as load balancers (`grpc.health.v1`) and systemd (sd_notify(3)) see it: it follows the token,
//! and does not see a keeper that is replaced.

use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;

use crate::support::node::signal;
use crate::support::rehearsal::{Rehearsal, is_ready};
use crate::support::{Judge, Options, PATIENCE, eventually};

/// Waits until systemd is told something that begins with `needle`; what it was told before that.
#[track_caller]
fn hear(systemd: &UnixDatagram, needle: &str) -> Vec<String> {
    let (mut before, mut packet) = (Vec::new(), [0; 4096]);
    loop {
        let length = systemd
            .recv(&mut packet)
            .unwrap_or_else(|error| panic!("no {needle:?}: {error}, after {before:?}"));
        for line in String::from_utf8_lossy(&packet[..length]).lines() {
            if line.starts_with(needle) {
                return before;
            }
            before.push(line.to_owned());
        }
    }
}

#[test]
fn readiness_follows_the_token_both_ways_and_ignores_a_keeper_that_is_replaced() {
    let mut rehearsal = Rehearsal::new();
    let identity = crate::judges::python_peer(&mut rehearsal.mesh, "python", None);
    let path = rehearsal.mesh.path("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut a = rehearsal.mesh.start_with(
        "a",
        Options {
            environment: vec![("NOTIFY_SOCKET".into(), path.display().to_string())],
            ..Options::default()
        },
    );
    hear(&systemd, "READY=1");
    let mut watch = crate::judges::client(&rehearsal.mesh, &a, &identity, "watch-health");
    let mut health = Judge::start(&mut watch);
    assert_eq!(health.hear(), "SERVING");

    let old = a.pid("keeper");
    signal(old, Signal::KILL);
    a.wait_replaced("keeper", old);
    rehearsal.fault.order("fail all CKR_DEVICE_REMOVED");
    assert_eq!(health.hear(), "NOT_SERVING");
    let told = hear(&systemd, "STATUS=degraded: token a: ");
    assert!(told.iter().all(|line| line == "STATUS=ready"), "{told:?}");
    rehearsal.fault.clear();
    assert_eq!(health.hear(), "SERVING");
    hear(&systemd, "STATUS=ready");
    eventually("ready again", || is_ready(&a));

    // Only an operator can mend this: no time is given.
    rehearsal.fault.order("fail C_Login CKR_PIN_INCORRECT");
    signal(a.pid("keeper"), Signal::KILL);
    assert_eq!(health.hear(), "NOT_SERVING");
    rehearsal.fault.clear();
    assert!(a.admin(&["unlock"]).status.success());
    assert_eq!(health.hear(), "SERVING");
    assert_eq!(health.close_and_hear(), "the end");

    assert!(a.admin(&["drain"]).status.success());
    hear(&systemd, "STOPPING=1");
    assert!(a.wait_exit().success());
}
