//! Serving signatures: one thread a channel, one request at a time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock, PoisonError};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};

use super::health::Probe;
use super::message::{MAX_REPLY, MAX_REQUEST, Refusal, Reply, Request};
use super::refusals::Refusals;
use super::vault::{SignError, Vault};
use crate::control::{FromKeeper, Vitals, frame};
use crate::sandbox::Confined;
use crate::token::TokenError;
use crate::token::heal::{self, Action, Doing};

/// The supervisor's channel, for threads that have something to say.
#[derive(Debug)]
pub(super) struct Supervisor {
    channel: Mutex<UnixStream>,
    told_lost: AtomicBool,
}

impl Supervisor {
    pub(super) fn new(channel: UnixStream) -> Arc<Self> {
        Arc::new(Self {
            channel: Mutex::new(channel),
            told_lost: AtomicBool::new(false),
        })
    }

    /// Sends one message. A supervisor that is gone takes this process with it.
    pub(super) fn tell(&self, message: &FromKeeper) {
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = frame::send(&*channel, message) {
            tracing::error!(%error, "cannot tell the supervisor");
        }
    }

    /// Says, once, that this process will not sign again.
    pub(super) fn token_lost(&self, error: &TokenError, vault: &Vault, refusals: &Refusals) {
        if !self.told_lost.swap(true, Ordering::Relaxed) {
            let latch = heal::after(error, Doing::Reopening) == Action::Latch;
            self.tell(&FromKeeper::TokenLost {
                reason: error.to_string(),
                latch,
                last: Box::new(vitals(vault, refusals)),
            });
        }
    }
}

/// How this keeper is, but for what troubles its token.
pub(super) fn vitals(vault: &Vault, refusals: &Refusals) -> Vitals {
    Vitals {
        longest_call: vault.calls.longest(),
        sessions: vault.sessions(),
        signatures: vault.signatures(),
        refusals: refusals.total(),
        evictions: vault.evictions(),
        trouble: None,
    }
}

/// Threads that exist and wait for the proof that this process is confined.
#[must_use]
pub(super) struct Waiting(Arc<OnceLock<Confined>>);

impl Waiting {
    /// Lets them serve.
    pub(super) fn serve(self, confined: Confined) {
        // Nobody else sets it.
        let _ = self.0.set(confined);
    }
}

/// Starts one signing thread for each of `channels`; each is past its start when this returns.
pub(super) fn start(
    vault: &Arc<Vault>,
    channels: Vec<OwnedFd>,
    refusals: &Arc<Refusals>,
    probe: &Arc<Probe>,
    supervisor: &Arc<Supervisor>,
) -> io::Result<Waiting> {
    let gate = Arc::new(OnceLock::new());
    let started = Arc::new(Barrier::new(channels.len() + 1));
    for (number, channel) in channels.into_iter().enumerate() {
        let server = Server {
            vault: Arc::clone(vault),
            refusals: Arc::clone(refusals),
            probe: Arc::clone(probe),
            supervisor: Arc::clone(supervisor),
        };
        let (gate, started) = (Arc::clone(&gate), Arc::clone(&started));
        thread::Builder::new()
            .name(format!("sign-{number}"))
            .stack_size(256 << 10)
            .spawn(move || {
                started.wait();
                server.serve(*gate.wait(), &channel);
                // The calls that end a thread are not allowed.
                loop {
                    thread::park();
                }
            })?;
    }
    started.wait();
    Ok(Waiting(gate))
}

/// Whether nothing will come through `channel` any more.
fn has_hung_up(channel: &impl AsFd) -> bool {
    let mut looked = [PollFd::new(channel, PollFlags::RDHUP)];
    let immediately = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let _ = poll(&mut looked, Some(&immediately));
    looked[0]
        .revents()
        .intersects(PollFlags::RDHUP | PollFlags::HUP)
}

struct Server {
    vault: Arc<Vault>,
    refusals: Arc<Refusals>,
    probe: Arc<Probe>,
    supervisor: Arc<Supervisor>,
}

impl Server {
    /// Answers requests until the channel is gone. Nothing a request contains ends this loop.
    fn serve(&self, _: Confined, channel: &impl AsFd) {
        let keeper = std::process::id();
        // One byte more than the longest request, so that a longer packet shows as malformed.
        let mut packet = [0; MAX_REQUEST + 1];
        let mut answer = [0; MAX_REPLY];
        loop {
            let length = match rustix::net::recv(channel, &mut packet, RecvFlags::empty()) {
                // A packet may have no bytes; what has hung up gives none for ever.
                Ok((0, _)) if has_hung_up(channel) => return,
                Ok((length, _)) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => {
                    tracing::error!(%errno, "a channel to the node failed");
                    return;
                }
            };
            let (id, outcome) = self.answer(&packet[..length]);
            let reply = Reply {
                id,
                keeper,
                outcome: outcome.as_deref().map_err(|refusal| *refusal),
            };
            let Ok(length) = reply.encode(&mut answer) else {
                tracing::error!("the token's signature is longer than any we know");
                continue;
            };
            // A node that does not read its answers loses them; it never stalls the keeper.
            let _ = rustix::net::send(
                channel,
                &answer[..length],
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            );
        }
    }

    fn answer(&self, packet: &[u8]) -> (u64, Result<Vec<u8>, Refusal>) {
        let request = match Request::decode(packet) {
            Ok(request) => request,
            Err(_malformed) => {
                self.refusals.note(Refusal::Malformed);
                return (u64::MAX, Err(Refusal::Malformed));
            }
        };
        let outcome = match self.vault.sign(&request) {
            Ok(signature) => Ok(signature),
            Err(SignError::Refused(refusal)) => {
                self.refusals.note(refusal);
                Err(refusal)
            }
            Err(SignError::Token(error)) => {
                tracing::warn!(%error, "no signature");
                self.probe.suspect();
                Err(Refusal::Token)
            }
            Err(SignError::Lost(error)) => {
                tracing::error!(%error, "this process will not sign again");
                self.supervisor
                    .token_lost(&error, &self.vault, &self.refusals);
                Err(Refusal::Token)
            }
        };
        (request.id, outcome)
    }
}
