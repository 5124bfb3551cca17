use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::*;
use crate::secret::PinKind;

/// A keeper whose processes end by themselves at once: they are this test's binary, with nothing to run.
fn keeper() -> Keeper {
    let config = TokenConfig {
        module: "/nowhere.so".into(),
        uri: "pkcs11:token=a".parse().unwrap(),
        pin: PinSource::File("/dev/null".into()),
        environment: BTreeMap::new(),
        sessions: 1,
        probe_ms: 1000,
        keys: Vec::new(),
        files: Vec::new(),
        user: None,
        profile: None,
    };
    Keeper::new(0, config, LogSetup::default(), Duration::from_secs(1)).unwrap()
}

fn start(keeper: &mut Keeper, giver: Giver) -> Result<(), Fault> {
    let nothing = std::fs::File::open("/dev/null").unwrap().into();
    let (events, _) = tokio::sync::mpsc::channel(1);
    keeper.start_process(&nothing, PinKind::Stream, giver, &events)
}

fn say(keeper: &mut Keeper, said: FromKeeper) {
    keeper.on_event(keeper.incarnation, ChildEvent::Said(said));
}

fn refuse(keeper: &mut Keeper, latch: bool) {
    let faults = vec![Fault::new("token[0].pin", "wrong", "mend it")];
    say(keeper, FromKeeper::Refused { faults, latch });
}

fn end(keeper: &mut Keeper) -> Happened {
    let exited = ChildEvent::Exited(ExitStatus::from_raw(9));
    keeper.on_event(keeper.incarnation, exited)
}

#[tokio::test]
async fn an_unlock_waits_for_the_end_of_a_keeper_whose_pin_was_refused() {
    let mut keeper = keeper();
    start(&mut keeper, Giver::Source).unwrap();
    assert!(keeper.is_logging_in() && !keeper.is_ending());
    refuse(&mut keeper, true);
    assert!(!keeper.is_logging_in() && keeper.is_ending());
    assert_eq!(end(&mut keeper), Happened::Latched { anew: true });
    assert!(!keeper.is_ending() && keeper.is_locked());
}

#[tokio::test]
async fn a_keeper_whose_successor_cannot_be_started_is_still_heard() {
    let mut keeper = keeper();
    start(&mut keeper, Giver::Source).unwrap();
    let first = keeper.incarnation;
    let refused_by_the_system = ("NAME".into(), "\0".into());
    keeper.config.environment.extend([refused_by_the_system]);
    start(&mut keeper, Giver::Source).unwrap_err();
    let exited = ChildEvent::Exited(ExitStatus::from_raw(9));
    assert_eq!(keeper.on_event(first, exited), Happened::Gone);
}

#[tokio::test]
async fn a_source_whose_pin_was_refused_is_not_tried_after_an_operators_pin_without_a_verdict() {
    let mut keeper = keeper();
    start(&mut keeper, Giver::Source).unwrap();
    refuse(&mut keeper, true);
    assert_eq!(end(&mut keeper), Happened::Latched { anew: true });
    for says_something in [true, false] {
        start(&mut keeper, Giver::Operator).unwrap();
        if says_something {
            refuse(&mut keeper, false);
        }
        assert_eq!(end(&mut keeper), Happened::Latched { anew: false });
    }
}

#[tokio::test]
async fn a_pin_that_the_token_takes_clears_its_own_givers_name() {
    use Giver::{Operator, Source};
    for (refused, accepted, left) in [
        (Source, Operator, Some(Source)),
        (Source, Source, None),
        (Operator, Operator, None),
        (Operator, Source, None),
    ] {
        let mut keeper = keeper();
        keeper.latch(refused);
        keeper.giver = accepted;
        keeper.accepted();
        assert_eq!(keeper.refused, left, "{refused:?}, then {accepted:?}");
    }
}

#[tokio::test]
async fn a_login_without_an_answer_is_a_refusal_until_the_token_was_open_once() {
    for (last_words, latches) in [
        (vec![], false),
        (vec![FromKeeper::LoggingIn], true),
        (vec![FromKeeper::LoggingIn, FromKeeper::LoggedIn], false),
    ] {
        let mut keeper = keeper();
        start(&mut keeper, Giver::Source).unwrap();
        let last = format!("{last_words:?}");
        for words in last_words {
            say(&mut keeper, words);
        }
        let happened = end(&mut keeper);
        let expected = match latches {
            true => Happened::Latched { anew: true },
            false => Happened::Gone,
        };
        assert_eq!(happened, expected, "{last}");
    }
}
