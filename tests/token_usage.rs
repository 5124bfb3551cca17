//! `fastness token`: several at once.

use std::process::Stdio;

use crate::softhsm::{MODULE, Ran, SoftHsm};
use crate::support::json;

/// Initialises a token for each of `labels`, all at once.
fn init_at_once(hsm: &SoftHsm, labels: &[&str]) -> Vec<Ran> {
    let started: Vec<_> = labels
        .iter()
        .map(|label| {
            hsm.command(env!("CARGO_BIN_EXE_fastness"))
                .args(["token", "init", "--module", MODULE, "--label", label])
                .args(["--so-pin", "file:so-pin", "--pin", "file:pin"])
                .args(["--format", "json"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the binary runs")
        })
        .collect();
    let ended = started.into_iter().map(|child| child.wait_with_output());
    ended.map(|ran| Ran::of(ran.expect("its output"))).collect()
}

#[test]
fn of_programs_that_initialise_one_label_at_once_one_does() {
    let hsm = SoftHsm::new();
    let ran = init_at_once(&hsm, &["same"; 6]);
    let (done, refused): (Vec<_>, Vec<_>) = ran.iter().partition(|ran| ran.code == Some(0));
    assert_eq!(done.len(), 1, "{ran:?}");
    for ran in refused {
        assert_eq!(ran.code, Some(5), "{ran:?}");
        assert!(ran.out.contains("exists already"), "{ran:?}");
    }
    let list = hsm.fastness(&["token", "list", "--module", MODULE, "--format", "json"]);
    let list = json(&list.good().out);
    let tokens = list["tokens"].as_array().expect("tokens").iter();
    let made: Vec<_> = tokens.filter(|token| token["label"] == "same").collect();
    assert_eq!(made.len(), 1, "{list}");
    assert_eq!(made[0]["serial"], json(&done[0].out)["serial"]);
}

#[test]
fn programs_that_initialise_tokens_at_once_have_their_turns() {
    let hsm = SoftHsm::new();
    let ran = init_at_once(&hsm, &["one", "two", "three", "four"]);
    let mut serials: Vec<_> = ran
        .iter()
        .map(|ran| {
            assert_eq!(ran.code, Some(0), "{ran:?}");
            json(&ran.out)["serial"]
                .as_str()
                .expect("a serial")
                .to_owned()
        })
        .collect();
    serials.sort_unstable();
    serials.dedup();
    assert_eq!(serials.len(), 4, "{ran:?}");
}
