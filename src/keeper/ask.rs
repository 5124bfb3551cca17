//! The node's side of the boundary: asks a keeper for one signature and waits for it.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, sockopt};

use super::breaker::Breaker;
pub use super::breaker::Standing;
use super::message::{
    KeyIndex, MAX_REPLY, MAX_REQUEST, MOST_STALE, Malformed, REPLACED, Refusal, Reply, Request,
};
use crate::telemetry::metrics::{Histogram, Tally};
use crate::token::{self, Scheme, WrongSignature};

/// The channels to one keeper: one for each of its signing threads.
///
/// A channel carries one request at a time, so a keeper thread is never asked for two signatures
/// at once, and a caller waits for a free channel: first come first served.
#[derive(Debug)]
pub struct Asker {
    free: Mutex<Free>,
    returned: Condvar,
    next_id: AtomicU64,
    deadline: Duration,
    breaker: Breaker,
    waits: Histogram,
    times: Histogram,
    failures: Tally,
}

/// The channels that carry no request, and who waits for one.
#[derive(Debug, Default)]
struct Free {
    channels: Vec<OwnedFd>,
    next: u64,
    waiting: VecDeque<u64>,
}

/// A signature and who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The signature in TLS form (ECDSA: DER), 1 … 512 bytes.
    pub signature: Vec<u8>,
    /// Process id of the keeper that made it.
    pub keeper: u32,
}

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The keeper answered that it will not or cannot sign.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No answer within the deadline: the token hangs, or the keeper is being replaced.
    #[error("no answer from the keeper within {0:?}")]
    Deadline(Duration),
    /// Its keeper waits for an operator, or could not be started again: nobody waits for it.
    #[error("no keeper of this token can sign now: see `fastness status`")]
    Gone,
    /// The signature does not verify.
    #[error("the token made a wrong signature")]
    Wrong(#[from] WrongSignature),
    /// The channel failed.
    #[error("the channel to the keeper failed")]
    Channel(#[source] io::Error),
    /// The keeper's answer is not one (a bug, or a keeper of another version).
    #[error("the keeper's answer is malformed")]
    Malformed(#[from] Malformed),
}

impl AskError {
    /// The name for metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.name(),
            Self::Deadline(_) => "deadline",
            Self::Gone => "gone",
            Self::Wrong(_) => "wrong-signature",
            Self::Channel(_) => "channel",
            Self::Malformed(_) => "malformed",
        }
    }
}

impl Asker {
    /// An asker over `channels` (connected `SOCK_SEQPACKET` sockets) with `deadline` for each
    /// signature, waiting for a free channel included.
    ///
    /// # Errors
    /// When the receive time-out cannot be set on a channel.
    pub fn new(channels: Vec<OwnedFd>, deadline: Duration) -> io::Result<Self> {
        for channel in &channels {
            for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
                sockopt::set_socket_timeout(channel, direction, Some(deadline))?;
            }
        }
        Ok(Self {
            free: Mutex::new(Free {
                channels,
                ..Free::default()
            }),
            returned: Condvar::new(),
            next_id: AtomicU64::new(first_id()),
            deadline,
            breaker: Breaker::new(Instant::now()),
            waits: Histogram::default(),
            times: Histogram::default(),
            failures: Tally::default(),
        })
    }

    /// Whether this token is to be asked before others; when none is, asking is still allowed.
    pub fn is_usable(&self) -> bool {
        self.breaker.is_closed()
    }

    /// Whether asking is in vain: it is refused at once.
    pub fn is_gone(&self) -> bool {
        self.breaker.is_gone()
    }

    /// Whether it is time to ask this token for a signature that nobody waits for.
    pub fn wants_proof(&self) -> bool {
        self.breaker.wants_proof(Instant::now())
    }

    /// Takes the supervisor's word on how the token is. When it is gone, nobody waits for it any longer.
    pub fn supervisor_says(&self, standing: Standing) {
        self.breaker.supervisor_says(standing, Instant::now());
        // A thread is between its look at the breaker and its wait only while it has the lock.
        drop(self.free.lock().unwrap_or_else(PoisonError::into_inner));
        self.returned.notify_all();
    }

    /// How long requests waited for a free channel.
    pub fn waits(&self) -> &Histogram {
        &self.waits
    }

    /// How long signatures took, from the question to the answer.
    pub fn times(&self) -> &Histogram {
        &self.times
    }

    /// How many were asked for in vain, and why.
    pub(crate) fn failures(&self) -> Vec<(&'static str, u64)> {
        self.failures
            .snapshot()
            .into_iter()
            .map(|((_, code), count)| (code, count))
            .collect()
    }

    /// Asks for a signature over `input` with the key at `key`, whose public key is `spki` (DER
    /// SubjectPublicKeyInfo). Each of a token that is not well or has yet to prove itself is verified; of the others
    /// the keeper verifies some. Blocks: call it from the lane.
    ///
    /// # Errors
    /// [`AskError`]; the channel is usable again after each of them.
    pub fn sign(
        &self,
        key: KeyIndex,
        spki: &[u8],
        scheme: Scheme,
        input: &[u8],
    ) -> Result<Signed, AskError> {
        let outcome = self.ask(key, spki, scheme, input, Instant::now() + self.deadline);
        if let Err(error) = &outcome {
            self.failures.count("", error.code());
        }
        outcome
    }

    fn ask(
        &self,
        key: KeyIndex,
        spki: &[u8],
        scheme: Scheme,
        input: &[u8],
        until: Instant,
    ) -> Result<Signed, AskError> {
        let came = Instant::now();
        let channel = self.take(until)?;
        let began = Instant::now();
        self.waits.observe(began - came);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = Request {
            id,
            key,
            scheme,
            input,
        };
        let outcome = self.exchange(&channel, request, until);
        self.give_back(channel);
        let outcome = outcome.and_then(|signed| {
            self.times.observe(began.elapsed());
            if !self.is_usable() {
                token::verify(spki, scheme, input, &signed.signature)?;
            }
            Ok(signed)
        });
        let now = Instant::now();
        match &outcome {
            Ok(_) => self.breaker.succeeded(now),
            Err(AskError::Deadline(_) | AskError::Wrong(_)) => self.breaker.failed(true, now),
            Err(
                AskError::Refused(Refusal::Token) | AskError::Channel(_) | AskError::Malformed(_),
            ) => {
                self.breaker.failed(false, now);
            }
            // What we asked was wrong, or nobody was asked: that says nothing about the token.
            Err(AskError::Refused(_) | AskError::Gone) => {}
        }
        outcome
    }

    fn take(&self, until: Instant) -> Result<OwnedFd, AskError> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = free.next;
        free.next += 1;
        free.waiting.push_back(ours);
        loop {
            if self.breaker.is_gone() {
                free.waiting.retain(|waiting| *waiting != ours);
                return Err(AskError::Gone);
            }
            if free.waiting.front() == Some(&ours)
                && let Some(channel) = free.channels.pop()
            {
                free.waiting.pop_front();
                self.wake(free);
                return Ok(channel);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                free.waiting.retain(|waiting| *waiting != ours);
                self.wake(free);
                return Err(AskError::Deadline(self.deadline));
            }
            (free, _) = self
                .returned
                .wait_timeout(free, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give_back(&self, channel: OwnedFd) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.channels.push(channel);
        self.wake(free);
    }

    /// Lets those who wait look whose turn it is; they are few.
    fn wake(&self, free: MutexGuard<'_, Free>) {
        let wanted = !free.waiting.is_empty() && !free.channels.is_empty();
        drop(free);
        // Waking nobody is a system call too.
        if wanted {
            self.returned.notify_all();
        }
    }

    fn exchange(
        &self,
        channel: &OwnedFd,
        request: Request<'_>,
        until: Instant,
    ) -> Result<Signed, AskError> {
        let mut question = [0; MAX_REQUEST];
        let length = request.encode(&mut question)?;
        let question = &question[..length];
        let mut packet = [0; MAX_REPLY + 1];
        // Answers that came too late for the ones before, and old news, are not for us.
        for _ in 0..MOST_STALE {
            match rustix::net::recv(channel, &mut packet, RecvFlags::DONTWAIT) {
                Ok((1.., _)) if Instant::now() < until => {}
                Ok((1.., _)) => return Err(AskError::Deadline(self.deadline)),
                Ok(_) | Err(_) => break,
            }
        }
        self.send(channel, question, until)?;
        // News of a replaced keeper, perhaps of several: all of them are taken in, and the question is
        // asked once more.
        let mut replaced = false;
        loop {
            let flags = if replaced {
                RecvFlags::DONTWAIT
            } else {
                self.must_be(PollFlags::IN, channel, until)?;
                RecvFlags::empty()
            };
            let length = match rustix::net::recv(channel, &mut packet, flags) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN) if replaced => {
                    replaced = false;
                    self.send(channel, question, until)?;
                    continue;
                }
                // Somebody stopped us and let us go on (signal(7)).
                Err(rustix::io::Errno::INTR) if Instant::now() < until => continue,
                Err(errno) => return Err(self.blame(errno)),
            };
            if length == 0 {
                return Err(AskError::Channel(io::ErrorKind::UnexpectedEof.into()));
            }
            let reply = Reply::decode(&packet[..length])?;
            if reply.id == request.id {
                return Ok(Signed {
                    signature: reply.outcome?.to_vec(),
                    keeper: reply.keeper,
                });
            }
            if Instant::now() >= until {
                return Err(AskError::Deadline(self.deadline));
            }
            replaced |= reply.id == REPLACED;
        }
    }

    fn send(&self, channel: &OwnedFd, packet: &[u8], until: Instant) -> Result<(), AskError> {
        self.must_be(PollFlags::OUT, channel, until)?;
        let sent =
            rustix::io::retry_on_intr(|| rustix::net::send(channel, packet, SendFlags::NOSIGNAL));
        sent.map(drop).map_err(|errno| self.blame(errno))
    }

    /// Waits until `channel` is `ready`, where its own time-outs would last longer than until `until`.
    fn must_be(&self, ready: PollFlags, channel: &OwnedFd, until: Instant) -> Result<(), AskError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // Nearly all of the deadline is left as a rule, and poll(2) is one more system call.
            if left > self.deadline - self.deadline / 16 {
                return Ok(());
            }
            let left = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(channel, ready)], left.as_ref()) {
                Ok(0) => return Err(AskError::Deadline(self.deadline)),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.blame(errno)),
            }
        }
    }

    fn blame(&self, errno: rustix::io::Errno) -> AskError {
        if errno == rustix::io::Errno::AGAIN {
            AskError::Deadline(self.deadline)
        } else {
            AskError::Channel(errno.into())
        }
    }
}

/// Where the ids of one node's process begin: what the process before it had asked for must not be taken
/// for an answer to this one. Never [`REPLACED`], and far from the highest.
fn first_id() -> u64 {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).expect("the system's random numbers never fail after boot");
    (u64::from_be_bytes(random) >> 1).max(REPLACED + 1)
}
