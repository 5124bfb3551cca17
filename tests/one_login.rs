//! Several keepers of one token: a wrong PIN is tried once for all of them, and `unlock` feeds them all.

use rustix::process::Signal;

use crate::support::node::signal;
use crate::support::rehearsal::{Rehearsal, is_ready};
use crate::support::{Node, Options, eventually, said};

/// A node with four keepers of the token behind the fault module; the last ones name it in another way.
fn four_of_one() -> Rehearsal {
    let rehearsal = Rehearsal::new();
    let text = rehearsal.mesh.read("a/node.toml");
    let (before, rest) = text.split_once("[[token]]").unwrap();
    let (token, after) = rest.split_once("\n[limits]").unwrap();
    let other = token.replace("pkcs11:token=a", "pkcs11:token=a;model=SoftHSM%20v2");
    let tokens = [token, token, &other, &other].map(|token| format!("[[token]]{token}\n"));
    let text = format!("{before}{}\n[limits]{after}", tokens.concat());
    rehearsal.mesh.write("a/node.toml", &text);
    rehearsal
}

fn logins(rehearsal: &Rehearsal) -> u64 {
    rehearsal.fault.counts().calls("C_Login")
}

/// Process ids of the keepers; 0 for one that is not there.
fn keepers(a: &Node) -> Vec<u32> {
    let status = a.status();
    let processes = status["processes"].as_array().unwrap();
    let keepers = processes
        .iter()
        .filter(|process| process["role"] == "keeper");
    keepers
        .map(|keeper| u32::try_from(keeper["pid"].as_u64().unwrap_or_default()).unwrap())
        .collect()
}

#[test]
fn a_wrong_pin_at_a_start_is_tried_once_for_all_keepers_of_a_token() {
    let rehearsal = four_of_one();
    let mesh = &rehearsal.mesh;
    mesh.write("a/token/pin", "this is not it");
    let checked = mesh.check("a");
    assert_eq!(checked.status.code(), Some(4), "{}", said(&checked));
    assert_eq!(logins(&rehearsal), 1, "{}", said(&checked));
    for token in 1..4 {
        let held_back =
            format!("token[{token}].pin: not tried: a PIN of the same token was refused");
        assert!(said(&checked).contains(&held_back), "{}", said(&checked));
    }
    let mut node = Node::spawn("a", &mesh.path("a"), mesh.ports["a"], Options::default());
    assert_eq!(node.wait_exit().code(), Some(4));
    assert_eq!(logins(&rehearsal), 1, "the token has it on record");
}

#[test]
fn four_keepers_with_as_many_sessions_as_there_may_be_are_started() {
    let rehearsal = four_of_one();
    let text = rehearsal.mesh.read("a/node.toml");
    let text = text.replace("pin = ", "sessions = 64\npin = ");
    rehearsal.mesh.write("a/node.toml", &text);
    let a = rehearsal.mesh.start("a");
    eventually("ready", || is_ready(&a));
    rehearsal.shaker.shake().expect("it signs");
}

#[test]
fn a_pin_refused_to_one_keeper_is_tried_by_no_other_and_unlock_feeds_them_all() {
    let rehearsal = four_of_one();
    let a = rehearsal.mesh.start("a");
    eventually("ready", || is_ready(&a));
    assert_eq!(logins(&rehearsal), 4);

    rehearsal.fault.order("fail C_Login CKR_PIN_INCORRECT");
    let before = keepers(&a);
    signal(before[0], Signal::KILL);
    a.wait_log("no further login by itself");
    for keeper in &before[1..3] {
        signal(*keeper, Signal::KILL);
    }
    eventually("three are held back", || {
        (keepers(&a) == [0, 0, 0, before[3]]).then_some(())
    });
    assert_eq!(logins(&rehearsal), 5, "one try and no more");
    rehearsal
        .shaker
        .shake()
        .expect("the keeper that is logged in goes on");

    rehearsal.fault.clear();
    let unlocked = a.admin(&["unlock"]);
    assert!(unlocked.status.success(), "{}", said(&unlocked));
    eventually("all of them are back", || {
        (is_ready(&a).is_some() && !keepers(&a).contains(&0)).then_some(())
    });
    assert_eq!(logins(&rehearsal), 8);

    // Nothing is held back any more.
    signal(before[3], Signal::KILL);
    a.wait_replaced("keeper", 0);
    eventually("the last one is replaced", || {
        let now = keepers(&a);
        (now[3] != 0 && now[3] != before[3]).then_some(())
    });
}
