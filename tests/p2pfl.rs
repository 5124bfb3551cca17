//! P2PFL 0.4.4 as it is on PyPI, beside nodes whose keys are in tokens: learners that know nothing of TLS,
//! on hosts (network namespaces) of their own.

mod fleet;

use fleet::{Fleet, connect, learn, no_private_key_below};

/// What a busy test machine may take for what P2PFL wants within 5 and 10 seconds.
const PATIENT: [&str; 2] = ["--patience", "60"];

#[test]
fn two_learners_learn_two_rounds_and_the_wire_shows_tls_alone() {
    let mut fleet = Fleet::new(&["a", "b"]);
    let wire = fleet.watch();
    fleet.start_nodes();
    let (mut a, mut b) = (fleet.learner("a", &PATIENT), fleet.learner("b", &PATIENT));
    connect(&mut [&mut a, &mut b]);
    let model = learn(&mut [&mut a, &mut b], 2, |_| {});
    // Both steps, averaged, in each of two rounds.
    assert_eq!(model["first"], 3888.0);
    wire.saw_tls_alone();
    for host in ["a", "b"] {
        no_private_key_below(&fleet.mesh.path(host));
    }
}
