use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::*;
use crate::secret::PinKind;

/// A keeper whose processes end by themselves at once: they are this test's binary, with nothing to run.
fn keeper() -> Keeper {
    let config = TokenConfig {
        place: "token[0]".into(),
        module: "/nowhere.so".into(),
        uri: "pkcs11:token=a".parse().unwrap(),
        pin: PinSource::File("/dev/null".into()),
        environment: BTreeMap::new(),
        sessions: 1,
        probe_ms: 1000,
        keys: Vec::new(),
        files: Vec::new(),
        ports: BTreeSet::new(),
        user: None,
        profile: None,
    };
    Keeper::new(0, config, LogSetup::default(), Duration::from_secs(1)).unwrap()
}

fn start(keeper: &mut Keeper, giver: Giver) -> Result<(), Fault> {
    let nothing = std::fs::File::open("/dev/null").unwrap().into();
    let (events, _) = tokio::sync::mpsc::channel(1);
    loop {
        let started = keeper.start_process(&nothing, PinKind::Stream, giver, &events);
        match &started {
            // It had ended before it was told anything.
            Err(fault) if fault.problem.contains("Broken pipe") => {}
            _ => return started,
        }
    }
}

fn say(keeper: &mut Keeper, said: FromKeeper) {
    keeper.on_event(keeper.incarnation, ChildEvent::Said(said));
}

fn refuse(keeper: &mut Keeper, retry: Retry) {
    let faults = vec![Fault::new("token[0].pin", "wrong", "mend it")];
    say(keeper, FromKeeper::Refused { faults, retry });
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
    refuse(&mut keeper, Retry::Never);
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
    refuse(&mut keeper, Retry::Never);
    assert_eq!(end(&mut keeper), Happened::Latched { anew: true });
    for says_something in [true, false] {
        start(&mut keeper, Giver::Operator).unwrap();
        if says_something {
            refuse(&mut keeper, Retry::Freely);
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
async fn a_pin_that_the_token_took_is_tried_once_more_after_words_that_may_mean_a_wrong_one() {
    let login = [FromKeeper::LoggingIn, FromKeeper::LoggedIn];
    let mut keeper = keeper();
    start(&mut keeper, Giver::Source).unwrap();
    for words in login {
        say(&mut keeper, words);
    }
    // What a start is told that follows one that was refused so.
    for (retry, trusted) in [(Retry::Freely, true), (Retry::Once, false)] {
        assert!(keeper.trusted);
        end(&mut keeper);
        start(&mut keeper, Giver::Source).unwrap();
        say(&mut keeper, FromKeeper::LoggingIn);
        refuse(&mut keeper, retry);
        assert_eq!(end(&mut keeper), Happened::Gone, "{retry:?}");
        assert_eq!(keeper.trusted, trusted, "{retry:?}");
    }
    // No answer to that one is as bad as the same words again.
    start(&mut keeper, Giver::Source).unwrap();
    say(&mut keeper, FromKeeper::LoggingIn);
    assert_eq!(end(&mut keeper), Happened::Latched { anew: true });
    start(&mut keeper, Giver::Operator).unwrap();
    say(&mut keeper, FromKeeper::LoggedIn);
    assert!(keeper.trusted);
}

#[tokio::test]
async fn a_start_has_a_deadline_once_its_pin_was_typed() {
    let mut keeper = keeper();
    start(&mut keeper, Giver::Source).unwrap();
    let begun = Instant::now();
    keeper.state = State::Starting {
        since: begun,
        typing: true,
    };
    assert!(!keeper.is_logging_in());
    let mut has_pin_since = || {
        say(&mut keeper, FromKeeper::HasPin);
        assert!(keeper.is_logging_in());
        match keeper.state {
            State::Starting { since, .. } => since,
            _ => panic!("{:?}", keeper.state),
        }
    };
    let since = has_pin_since();
    assert!(since > begun);
    assert_eq!(has_pin_since(), since, "said again it changes nothing");
}

#[test]
fn starts_that_hang_have_short_deadlines_and_now_and_then_a_longer_one() {
    let mut keeper = keeper();
    let minute = Duration::from_secs(60);
    assert_eq!(keeper.start_deadline(), minute);
    keeper.usual_start = Some(Duration::from_millis(200));
    let mut deadlines = (0..1024).map(|hung| {
        keeper.hung_starts = hung;
        keeper.start_deadline()
    });
    let first: Vec<_> = deadlines.by_ref().take(15).collect();
    assert_eq!(first[0], Duration::from_millis(1500));
    let short = Duration::from_secs(3);
    assert_eq!(first[1..], [short; 14]);
    let all: Vec<_> = first.into_iter().chain(deadlines).collect();
    // A token that now takes twenty seconds is taken up within minutes.
    let slow = |deadline: &Duration| *deadline > Duration::from_secs(20);
    let until_slow = all.iter().position(slow).unwrap();
    let before: Duration = all[..until_slow].iter().sum();
    assert!(before < 5 * minute, "{before:?}");
    assert_eq!(all.iter().max(), Some(&minute));
    // An outage mostly ends while a start is under way that is over soon.
    let in_short: Duration = all.iter().filter(|deadline| **deadline <= short).sum();
    assert!(
        in_short * 3 > all.iter().sum::<Duration>() * 2,
        "{in_short:?}"
    );
    // One that was always slow has its time.
    keeper.hung_starts = 1;
    keeper.usual_start = Some(Duration::from_secs(4));
    assert_eq!(keeper.start_deadline(), Duration::from_secs(24));
    keeper.attended = true;
    assert_eq!(keeper.start_deadline(), minute);
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

/// One whose token is open.
fn open(keeper: &mut Keeper) {
    start(keeper, Giver::Source).unwrap();
    keeper.state = State::Ready { polled: None };
}

fn vitals(signatures: u64) -> FromKeeper {
    FromKeeper::Vitals(Box::new(Vitals {
        signatures,
        evictions: (0..1000).map(|n| (format!("CKR {n}"), u64::MAX)).collect(),
        trouble: Some("lost\nMAINPID=1\u{1b}[2J".into()),
        ..Vitals::default()
    }))
}

fn ready(label: &str) -> FromKeeper {
    FromKeeper::Ready(Box::new(KeeperReady {
        label: label.into(),
        serial: String::new(),
        manufacturer: String::new(),
        model: String::new(),
        sessions: 1,
        keys: Vec::new(),
        sandbox: crate::sandbox::Report::default(),
    }))
}

#[tokio::test]
async fn what_a_keeper_counts_is_added_up_whatever_it_says() {
    let mut keeper = keeper();
    for _ in 0..2 {
        open(&mut keeper);
        keeper.state = State::Ready {
            polled: Some(Instant::now()),
        };
        say(&mut keeper, vitals(u64::MAX));
        assert_eq!(
            keeper.vitals.trouble.as_deref(),
            Some("lost\u{fffd}MAINPID=1\u{fffd}[2J")
        );
        end(&mut keeper);
    }
    let totals = keeper.totals();
    assert_eq!(totals.signatures, u64::MAX);
    assert!(totals.evictions.len() < 100);
    start(&mut keeper, Giver::Source).unwrap();
}

#[tokio::test]
async fn what_no_poll_asked_for_ends_a_keeper() {
    let mut keeper = keeper();
    open(&mut keeper);
    say(&mut keeper, vitals(1));
    assert!(keeper.ending.is_some());
    assert_eq!(keeper.vitals.signatures, 0);
}

#[tokio::test]
async fn a_refused_pin_is_not_taken_back() {
    let mut keeper = keeper();
    start(&mut keeper, Giver::Source).unwrap();
    refuse(&mut keeper, Retry::Never);
    say(&mut keeper, ready("a"));
    assert_eq!(end(&mut keeper), Happened::Latched { anew: true });
    assert!(keeper.known.is_none());
    // Nor is a refusal lost that comes while it is killed.
    let mut slow = self::keeper();
    start(&mut slow, Giver::Source).unwrap();
    slow.replace("slow");
    refuse(&mut slow, Retry::Never);
    assert_eq!(end(&mut slow), Happened::Latched { anew: true });
}

#[tokio::test]
async fn a_keeper_of_another_token_is_not_this_ones() {
    for (label, ours) in [("a", true), ("b", false)] {
        let mut keeper = keeper();
        start(&mut keeper, Giver::Source).unwrap();
        say(&mut keeper, ready(label));
        // The test's process is not confined as a keeper's.
        assert!(keeper.known.is_none() && keeper.ending.is_some());
        let fault = keeper.faults.first().map(|fault| fault.key.clone());
        assert_eq!(fault.as_deref() == Some("token[0]"), !ours, "{fault:?}");
    }
}

#[tokio::test]
async fn a_keeper_that_is_killed_and_does_not_end_does_not_sign() {
    let mut keeper = keeper();
    open(&mut keeper);
    assert!(keeper.signs());
    keeper.replace("it hangs");
    assert!(!keeper.signs());
    assert_eq!(keeper.standing(), crate::keeper::ask::Standing::Doubtful);
    assert!(keeper.trouble().contains("its process was killed"));
}
