use super::*;

const LISTED: &str = "192.0.2.1";

fn gate(pending: usize) -> Arc<Gate> {
    let limits = GateLimits {
        pending,
        source_pending: 2,
        source_signatures: 3,
        stranger_signatures: 5,
        lane_threads: 100,
    };
    Gate::new(limits, Instant::now())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn stranger(number: u32) -> IpAddr {
    IpAddr::V4((0x0a00_0000 + number).into())
}

/// Whether it was displaced.
async fn is_out(entry: &Entry) -> bool {
    tokio::time::timeout(std::time::Duration::ZERO, entry.displaced())
        .await
        .is_ok()
}

#[tokio::test]
async fn strangers_leave_a_quarter_to_listed_addresses_and_displace_the_oldest_silent_of_their_own()
{
    let (gate, now) = (gate(16), Instant::now());
    let all: Vec<_> = (0..100)
        .map(|number| gate.enter(stranger(number), false, now).unwrap())
        .collect();
    assert_eq!(gate.sizes().strangers, 12);
    assert!(is_out(&all[87]).await && !is_out(&all[88]).await);
    let listed: Vec<_> = (0..4)
        .map(|_| gate.enter(ip(LISTED), true, now).unwrap())
        .collect();
    assert!(!is_out(&all[88]).await, "the reserve is used first");
    // Beyond the reserve each takes a stranger's place, and at last they meet themselves.
    let more: Vec<_> = (0..12)
        .map(|_| gate.enter(ip(LISTED), true, now).unwrap())
        .collect();
    assert_eq!(
        gate.sizes(),
        GateSizes {
            listed: 16,
            strangers: 0,
            sources: 100
        }
    );
    assert!(is_out(&all[99]).await);
    for entry in listed.iter().chain(&more) {
        entry.spend(now).unwrap();
    }
    assert_eq!(gate.enter(ip(LISTED), true, now).err(), Some(Turned::Busy));
    assert_eq!(
        gate.enter(stranger(500), false, now).err(),
        Some(Turned::Busy)
    );
    drop((all, listed));
    assert_eq!(gate.sizes().listed, 12);
    drop(more);
    assert_eq!(gate.sizes().listed, 0);
    assert!(
        gate.inside()
            .addresses
            .values()
            .all(|known| known.held == 0)
    );
}

#[tokio::test]
async fn strangers_who_have_spoken_yield_to_listed_addresses_only() {
    let (gate, now) = (gate(2), Instant::now());
    let spoken = gate.enter(stranger(1), false, now).unwrap();
    spoken.spend(now).unwrap();
    assert_eq!(
        gate.enter(stranger(2), false, now).err(),
        Some(Turned::Busy)
    );
    let _one = gate.enter(ip(LISTED), true, now).unwrap();
    assert!(!is_out(&spoken).await);
    let _two = gate.enter(ip(LISTED), true, now).unwrap();
    assert!(is_out(&spoken).await);
    drop(spoken);
    assert_eq!(gate.sizes().strangers, 0);
}

#[tokio::test]
async fn one_listed_address_cannot_keep_another_out() {
    let (gate, now) = (gate(8), Instant::now());
    let hogs: Vec<_> = (0..8)
        .map(|_| gate.enter(ip("192.0.2.9"), true, now).unwrap())
        .collect();
    hogs[0].spend(now).unwrap();
    let other: Vec<_> = (0..4)
        .map(|_| gate.enter(ip(LISTED), true, now).unwrap())
        .collect();
    assert!(!is_out(&hogs[0]).await && is_out(&hogs[1]).await && is_out(&hogs[4]).await);
    assert!(!is_out(&hogs[5]).await);
    // Half each: from now on an address displaces its own.
    let one_more = gate.enter(ip(LISTED), true, now).unwrap();
    assert!(is_out(&other[0]).await && !is_out(&hogs[5]).await);
    for entry in other[1..].iter().chain([&one_more]) {
        entry.spend(now).unwrap();
    }
    assert_eq!(gate.enter(ip(LISTED), true, now).err(), Some(Turned::Busy));
    drop((hogs, other, one_more));
    assert_eq!(gate.sizes().listed, 0);
}

#[test]
fn a_stranger_s_address_has_its_bound_and_a_listed_one_has_not() {
    let (gate, now) = (gate(100), Instant::now());
    let held: Vec<_> = (0..2)
        .map(|_| gate.enter(stranger(1), false, now).unwrap())
        .collect();
    assert_eq!(
        gate.enter(stranger(1), false, now).err(),
        Some(Turned::SourceBusy)
    );
    let _other = gate.enter(stranger(2), false, now).unwrap();
    drop(held);
    assert!(gate.enter(stranger(1), false, now).is_ok());
    let listed: Vec<_> = (0..50)
        .map(|_| gate.enter(ip("::ffff:192.0.2.1"), true, now).unwrap())
        .collect();
    assert!(
        listed
            .iter()
            .all(|entry| entry.spend(now) == Ok(Spent::Now))
    );
}

#[test]
fn signatures_for_one_address_and_for_all_strangers_are_rationed() {
    let (gate, now) = (gate(100), Instant::now());
    let ask = |address| gate.enter(address, false, now).unwrap().spend(now);
    for _ in 0..3 {
        ask(stranger(1)).unwrap();
    }
    assert_eq!(ask(stranger(1)), Err(Turned::SourceRate));
    ask(stranger(2)).unwrap();
    ask(stranger(3)).unwrap();
    assert_eq!(ask(stranger(4)), Err(Turned::StrangerRate));
}

/// Two threads, so that a listed address has five signatures at once.
fn narrow(pending: usize) -> Arc<Gate> {
    let limits = GateLimits {
        pending,
        source_pending: 2,
        source_signatures: 3,
        stranger_signatures: 5,
        lane_threads: 2,
    };
    Gate::new(limits, Instant::now())
}

#[test]
fn a_listed_address_has_its_rate_of_signatures_that_prove_nobody_a_peer() {
    let (gate, now) = (narrow(100), Instant::now());
    let ask = |address, now| {
        let entry = gate.enter(address, true, now).unwrap();
        (entry.spend(now).unwrap(), entry)
    };
    // Connections that end are not forgotten with it.
    let spent = |now| {
        let asked = (0..100).filter(|_| ask(ip(LISTED), now).0 == Spent::Now);
        asked.count()
    };
    assert_eq!(spent(now), 5);
    let wait = Spent::NotBefore(Duration::from_secs(1) / 3);
    assert_eq!(ask(ip(LISTED), now).0, wait);
    assert_eq!(ask(ip("192.0.2.2"), now).0, Spent::Now);
    let elsewhere = gate.enter(stranger(1), false, now).unwrap();
    assert_eq!(elsewhere.spend(now), Ok(Spent::Now));

    let second = Duration::from_secs(1);
    assert_eq!(spent(now + second), 3);
    let (_, one) = ask(ip(LISTED), now + second);
    one.give_back();
    assert_eq!(spent(now + second), 1);
    drop(one);
    // As good as new it is not kept.
    let _other = ask(ip("192.0.2.3"), now + 10 * second);
    assert!(!gate.inside().addresses.contains_key(&ip(LISTED)));
}

#[test]
fn peers_who_prove_themselves_meet_no_rate() {
    let (gate, now) = (narrow(100), Instant::now());
    for _ in 0..1000 {
        let entry = gate.enter(ip(LISTED), true, now).unwrap();
        assert_eq!(entry.spend(now), Ok(Spent::Now));
        entry.give_back();
    }
}

#[test]
fn the_least_rate_of_a_listed_address_is_one() {
    let limits = GateLimits {
        stranger_signatures: 0,
        ..narrow(100).limits
    };
    assert_eq!(limits.unproven().a_second, 1);
}

#[tokio::test]
async fn who_waits_for_a_signature_gives_way_like_the_silent_and_then_who_does_not() {
    let (gate, now) = (narrow(8), Instant::now());
    let enter = |address| gate.enter(ip(address), true, now).unwrap();
    let hogs: Vec<_> = (0..8).map(|_| enter("192.0.2.9")).collect();
    let spent = hogs.iter().filter(|hog| hog.spend(now) == Ok(Spent::Now));
    assert_eq!(spent.count(), 5);
    let one_more = enter("192.0.2.9");
    assert!(is_out(&hogs[5]).await);
    assert_eq!(hogs[5].spend(now), Err(Turned::Displaced));
    let other = || {
        let other = enter(LISTED);
        other.spend(now).unwrap();
        other
    };
    let _others = [other(), other(), other()];
    assert!(is_out(&hogs[6]).await && is_out(&hogs[7]).await && is_out(&one_more).await);
    assert!(!is_out(&hogs[0]).await);
    // Five against three.
    let _fourth = other();
    assert!(is_out(&hogs[0]).await && !is_out(&hogs[1]).await);
    assert_eq!(gate.enter(ip(LISTED), true, now).err(), Some(Turned::Busy));
}

#[tokio::test]
async fn those_of_one_address_wait_in_line_for_what_is_given_back_and_no_longer_than_they_may() {
    let limits = GateLimits {
        source_signatures: 1,
        lane_threads: 0,
        ..narrow(100).limits
    };
    let (gate, now) = (Gate::new(limits, Instant::now()), Instant::now());
    let enter = || gate.enter(ip(LISTED), true, now).unwrap();
    let long = Duration::from_secs(1000);
    let (first, second, third) = (enter(), enter(), enter());
    // None comes by itself before that.
    assert_eq!(first.spend(now + long), Ok(Spent::Now));
    let mut second_s = Box::pin(second.heard(now + long));
    let mut third_s = Box::pin(third.heard(now + long));
    assert!(timeout(Duration::ZERO, &mut second_s).await.is_err());
    assert!(timeout(Duration::ZERO, &mut third_s).await.is_err());
    assert_eq!(enter().heard(now).await, Err(Turned::SourceRate));
    first.give_back();
    let not_its_turn = timeout(Duration::ZERO, &mut third_s).await;
    assert!(not_its_turn.is_err());
    assert_eq!(second_s.await, Ok(()));
    second.give_back();
    assert_eq!(third_s.await, Ok(()));
}
