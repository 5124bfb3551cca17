//! The channels between a node and a keeper: they outlive both, so whoever is started next goes on where
//! the one before stopped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::keeper::message::{MAX_REPLY, MAX_REQUEST, MOST_STALE, REPLACED, Refusal, Reply};

/// Both ends of each.
#[derive(Debug)]
pub(super) struct Channels(Vec<Channel>);

#[derive(Debug)]
struct Channel {
    node: OwnedFd,
    keeper: OwnedFd,
}

impl Channels {
    /// So many of them.
    pub(super) fn new(count: usize) -> io::Result<Self> {
        (0..count)
            .map(|_| Channel::new())
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The node's ends.
    pub(super) fn node_ends(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|channel| channel.node.as_fd())
    }

    /// The keeper's ends.
    pub(super) fn keeper_ends(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|channel| channel.keeper.as_fd())
    }

    /// Makes those anew of which a node or a keeper has taken a direction down (shutdown(2) reaches both ends,
    /// and every copy of them). Whether there were any.
    pub(super) fn renew_dead(&mut self) -> io::Result<bool> {
        let mut renewed = false;
        for channel in &mut self.0 {
            if channel.is_dead()? {
                *channel = Channel::new()?;
                renewed = true;
            }
        }
        Ok(renewed)
    }

    /// Throws away what a keeper was asked and has not read: a slow token would sign all of that before the
    /// first request that somebody still waits for.
    pub(super) fn discard_requests(&self) {
        self.0.iter().for_each(Channel::discard_requests);
    }

    /// The keeper is gone: throws away what it was asked, and tells the node, on each channel, that this is
    /// lost, so that it asks again at once.
    pub(super) fn announce_loss(&self) {
        let mut packet = [0; MAX_REPLY];
        let lost = Reply {
            id: REPLACED,
            keeper: 0,
            outcome: Err(Refusal::Token),
        };
        let Ok(length) = lost.encode(&mut packet) else {
            return;
        };
        for channel in &self.0 {
            channel.discard_requests();
            // A full channel holds replies that nobody reads: nobody waits there.
            let _ = rustix::net::send(
                &channel.keeper,
                &packet[..length],
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            );
        }
    }
}

impl Channel {
    fn new() -> io::Result<Self> {
        let (node, keeper) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self { node, keeper })
    }

    fn discard_requests(&self) {
        let mut request = [0; MAX_REQUEST];
        for _ in 0..MOST_STALE {
            // An empty packet is one too.
            if rustix::net::recv(&self.keeper, &mut request, RecvFlags::DONTWAIT).is_err() {
                break;
            }
        }
    }

    /// Whether either direction of it was shut down.
    fn is_dead(&self) -> io::Result<bool> {
        let gone = PollFlags::RDHUP | PollFlags::HUP;
        let mut ends = [&self.node, &self.keeper].map(|end| PollFd::new(end, gone));
        let immediately = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut ends, Some(&immediately))?;
        Ok(ends.iter().any(|end| end.revents().intersects(gone)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustix::net::sockopt;

    use super::*;
    use crate::keeper::ask::{AskError, Asker};
    use crate::keeper::message::{KeyIndex, Request};
    use crate::token::Scheme;

    /// Sends until nothing more goes in, empty packets first; how many went.
    fn fill(channel: BorrowedFd<'_>) -> usize {
        let packets = [&[][..], &[0; MAX_REQUEST]].into_iter();
        let packets = packets.chain(std::iter::repeat(&[0; MAX_REQUEST][..]));
        let sent = packets
            .map_while(|packet| rustix::net::send(channel, packet, SendFlags::DONTWAIT).ok());
        sent.count()
    }

    /// How many packets wait.
    fn waiting(channel: BorrowedFd<'_>) -> usize {
        let taken = || rustix::net::recv(channel, &mut [0; MAX_REQUEST], RecvFlags::DONTWAIT);
        std::iter::from_fn(|| taken().ok()).count()
    }

    #[test]
    fn what_a_node_that_is_gone_had_asked_is_thrown_away_whole() {
        let channels = Channels::new(2).unwrap();
        for end in channels.node_ends() {
            assert!(fill(end) > 100);
        }
        channels.discard_requests();
        assert_eq!(channels.keeper_ends().map(waiting).sum::<usize>(), 0);
    }

    #[test]
    fn a_node_that_goes_on_sending_holds_nobody_up() {
        let channels = Channels::new(1).unwrap();
        let node = channels.node_ends().next().unwrap();
        // What is there beyond the bound stands for what comes meanwhile.
        sockopt::set_socket_send_buffer_size(node, 1 << 20).unwrap();
        let sent = fill(node);
        assert!(sent > MOST_STALE, "{sent}");
        channels.announce_loss();
        let keeper = channels.keeper_ends().next().unwrap();
        assert_eq!(waiting(keeper), sent - MOST_STALE);
    }

    #[test]
    fn a_new_keeper_finds_each_request_that_is_waited_for_once_and_no_other() {
        let channels = Channels::new(1).unwrap();
        let node = |_| channels.node_ends().next().unwrap().try_clone_to_owned();
        let asker = |milliseconds| {
            let ends = vec![node(()).unwrap()];
            Arc::new(Asker::new(ends, Duration::from_millis(milliseconds)).unwrap())
        };
        let ask = |asker: &Asker, input: u8| {
            asker.sign(KeyIndex(0), b"", Scheme::EcdsaP256Sha256, &[input; 130])
        };
        // Nobody is there for long: these are given up.
        let impatient = asker(20);
        for _ in 0..3 {
            let outcome = ask(&impatient, 1);
            assert!(matches!(outcome, Err(AskError::Deadline(_))), "{outcome:?}");
        }
        let keeper = channels.keeper_ends().next().unwrap();
        let next = |flags| {
            let mut packet = [0; MAX_REQUEST];
            let (length, _) = rustix::net::recv(keeper, &mut packet, flags).ok()?;
            let request = Request::decode(&packet[..length]).unwrap();
            Some((request.id, request.input[0]))
        };
        channels.announce_loss();
        let patient = asker(20_000);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| ask(&patient, 2));
            // Two starts fail before one succeeds.
            for _ in 0..2 {
                assert_eq!(next(RecvFlags::PEEK).unwrap().1, 2);
                channels.announce_loss();
            }
            let (id, input) = next(RecvFlags::empty()).unwrap();
            assert_eq!(input, 2);
            assert_eq!(next(RecvFlags::DONTWAIT), None);
            let reply = Reply {
                id,
                keeper: 7,
                outcome: Err(Refusal::UnknownKey),
            };
            let mut packet = [0; MAX_REPLY];
            let length = reply.encode(&mut packet).unwrap();
            rustix::net::send(keeper, &packet[..length], SendFlags::empty()).unwrap();
            let outcome = waiting.join().unwrap();
            assert!(
                matches!(outcome, Err(AskError::Refused(Refusal::UnknownKey))),
                "{outcome:?}"
            );
        });
    }
}
