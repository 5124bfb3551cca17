//! `fastness token`: what is wrong with a command line is found before a module is loaded or a PIN read; and
//! several at once.

use std::process::Stdio;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::softhsm::{MODULE, Ran, SoftHsm};
use crate::support::json;

const NOWHERE: [&str; 4] = ["--module", "/nowhere", "--pin", "file:/nowhere"];

/// A usage error of `fastness token …`, without module and PIN.
#[track_caller]
fn is_usage(hsm: &SoftHsm, arguments: &[&str], problem: &str) -> Ran {
    let ran = hsm.fastness(&[&["token"], arguments, &NOWHERE].concat());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains(problem), "{problem:?} is not in {ran:?}");
    ran
}

#[test]
fn a_request_that_could_not_be_written_costs_no_login() {
    let hsm = SoftHsm::new();
    let csr = |out: &str, more: &[&str], problem: &str| {
        let order = ["csr", "--key", "pkcs11:token=x;object=y", "--out", out];
        is_usage(&hsm, &[&order[..], more].concat(), problem);
    };
    let fifo = hsm.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
    csr("no/x.csr", &[], "no/x.csr does not exist");
    csr("pin", &[], "exists and is not overwritten");
    csr("fifo", &[], "not a regular file");
    csr("fifo", &["--force"], "not a regular file");
    csr(".", &["--force"], "not a regular file");
    csr("x.csr", &["--subject", ""], "1 to 64 printable characters");
    assert!(fifo.exists(), "it is still there");
}

#[test]
fn a_key_that_could_not_be_named_costs_no_login() {
    let hsm = SoftHsm::new();
    let long = "x".repeat(3000);
    for (label, problem) in [
        ("", "the label is empty"),
        (long.as_str(), "longer than 64 bytes"),
        ("a\u{1b}[31m", "control characters"),
    ] {
        let order = ["keygen", "--token", "pkcs11:token=x", "--purpose", "ca"];
        let order = [&order[..], &["--label", label]].concat();
        let ran = is_usage(&hsm, &order, problem);
        assert!(
            !ran.err.contains("xxx") && !ran.err.contains('\u{1b}'),
            "{ran:?}"
        );
    }
}

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

#[test]
fn a_user_is_not_the_security_officer() {
    let hsm = SoftHsm::new();
    let init = [
        "init", "--module", MODULE, "--label", "x", "--pin", "file:pin",
    ];
    let ran = hsm.fastness(&[&["token"], &init[..], &["--so-pin", "file:pin"]].concat());
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.err.contains("are the same"), "{ran:?}");
    let list = hsm.fastness(&["token", "list", "--module", MODULE]).good();
    assert!(!list.out.contains("\"x\""), "{list:?}");
}
