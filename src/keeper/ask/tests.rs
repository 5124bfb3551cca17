use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;

fn pair() -> (OwnedFd, OwnedFd) {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    socketpair(family, kind, SocketFlags::CLOEXEC, None).unwrap()
}

#[test]
fn answers_that_came_too_late_are_not_read_beyond_the_deadline() {
    let (ours, keeper) = pair();
    let copy = ours.try_clone().unwrap();
    let asker = Asker::new(vec![ours], Duration::from_nanos(1)).unwrap();
    let send = || rustix::net::send(&keeper, &[0; 40], SendFlags::DONTWAIT);
    let sent = std::iter::from_fn(|| send().ok()).count();
    let outcome = asker.sign(KeyIndex(0), b"", Scheme::EcdsaP256Sha256, &[1; 130]);
    assert!(matches!(outcome, Err(AskError::Deadline(_))), "{outcome:?}");
    let next = || rustix::net::recv(&copy, &mut [0; 40], RecvFlags::DONTWAIT);
    let left = std::iter::from_fn(|| next().ok()).count();
    assert_eq!(left, sent - 1);
}

#[test]
fn the_wait_for_a_channel_counts_into_the_deadline() {
    let (ours, _keeper) = pair();
    let deadline = Duration::from_secs(2);
    let asker = Asker::new(vec![ours], deadline).unwrap();
    let ask = || {
        let began = Instant::now();
        let outcome = asker.sign(KeyIndex(0), b"", Scheme::EcdsaP256Sha256, &[1; 130]);
        assert!(matches!(outcome, Err(AskError::Deadline(_))), "{outcome:?}");
        began.elapsed()
    };
    // The keeper says nothing, so that one has the channel and the other waits for it.
    let slower = std::thread::scope(|scope| {
        let both = [scope.spawn(ask), scope.spawn(ask)];
        both.map(|one| one.join().unwrap()).into_iter().max()
    });
    assert!(slower < Some(deadline * 3 / 2), "{slower:?}");
}
