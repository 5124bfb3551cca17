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

fn start(keeper: &mut Keeper) -> Result<(), Fault> {
    let nothing = std::fs::File::open("/dev/null").unwrap().into();
    let (events, _) = tokio::sync::mpsc::channel(1);
    keeper.start_with(&nothing, PinKind::Stream, &events)
}

fn end(keeper: &mut Keeper) -> Happened {
    let exited = ChildEvent::Exited(ExitStatus::from_raw(9));
    keeper.on_event(keeper.incarnation, exited)
}

#[tokio::test]
async fn an_unlock_waits_for_the_end_of_a_keeper_whose_pin_was_refused() {
    let mut keeper = keeper();
    start(&mut keeper).unwrap();
    assert!(keeper.is_logging_in() && !keeper.is_ending());
    let refused = FromKeeper::Refused {
        faults: Vec::new(),
        latch: true,
    };
    keeper.on_event(keeper.incarnation, ChildEvent::Said(refused));
    assert!(!keeper.is_logging_in() && keeper.is_ending());
    assert_eq!(end(&mut keeper), Happened::Latched);
    assert!(!keeper.is_ending() && keeper.is_locked());
}

#[tokio::test]
async fn a_keeper_whose_successor_cannot_be_started_is_still_heard() {
    let mut keeper = keeper();
    start(&mut keeper).unwrap();
    let first = keeper.incarnation;
    let refused_by_the_system = ("NAME".into(), "\0".into());
    keeper.config.environment.extend([refused_by_the_system]);
    start(&mut keeper).unwrap_err();
    let exited = ChildEvent::Exited(ExitStatus::from_raw(9));
    assert_eq!(keeper.on_event(first, exited), Happened::Gone);
}
