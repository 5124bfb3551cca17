use super::*;

const LISTED: &str = "192.0.2.1";

fn gate(pending: usize) -> Arc<Gate> {
    let limits = GateLimits {
        pending,
        source_pending: 2,
        source_signatures: 3,
        stranger_signatures: 5,
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
        entry.heard(now).unwrap();
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
    assert!(gate.inside().held.is_empty());
}

#[tokio::test]
async fn strangers_who_have_spoken_yield_to_listed_addresses_only() {
    let (gate, now) = (gate(2), Instant::now());
    let spoken = gate.enter(stranger(1), false, now).unwrap();
    spoken.heard(now).unwrap();
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
    hogs[0].heard(now).unwrap();
    let other: Vec<_> = (0..4)
        .map(|_| gate.enter(ip(LISTED), true, now).unwrap())
        .collect();
    assert!(!is_out(&hogs[0]).await && is_out(&hogs[1]).await && is_out(&hogs[4]).await);
    assert!(!is_out(&hogs[5]).await);
    // Half each: from now on an address displaces its own.
    let one_more = gate.enter(ip(LISTED), true, now).unwrap();
    assert!(is_out(&other[0]).await && !is_out(&hogs[5]).await);
    for entry in other[1..].iter().chain([&one_more]) {
        entry.heard(now).unwrap();
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
    assert!(listed.iter().all(|entry| entry.heard(now).is_ok()));
}

#[test]
fn signatures_for_one_address_and_for_all_strangers_are_rationed() {
    let (gate, now) = (gate(100), Instant::now());
    let ask = |address| gate.enter(address, false, now).unwrap().heard(now);
    for _ in 0..3 {
        ask(stranger(1)).unwrap();
    }
    assert_eq!(ask(stranger(1)), Err(Turned::SourceRate));
    ask(stranger(2)).unwrap();
    ask(stranger(3)).unwrap();
    assert_eq!(ask(stranger(4)), Err(Turned::StrangerRate));
}
