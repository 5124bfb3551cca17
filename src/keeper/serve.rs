//! Serving signatures: one thread a channel, one request at a time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::net::{RecvFlags, SendFlags};

use super::message::{MAX_REPLY, MAX_REQUEST, Refusal, Reply, Request};
use super::refusals::Refusals;
use super::vault::{SignError, Vault};
use crate::control::{FromKeeper, frame};

/// Starts one signing thread for each of `channels`.
pub(super) fn start(
    vault: &Arc<Vault>,
    channels: Vec<OwnedFd>,
    control: &UnixStream,
) -> io::Result<()> {
    let refusals = Arc::new(Refusals::default());
    let supervisor = Arc::new(Mutex::new(control.try_clone()?));
    for (number, channel) in channels.into_iter().enumerate() {
        let server = Server {
            vault: Arc::clone(vault),
            refusals: Arc::clone(&refusals),
            supervisor: Arc::clone(&supervisor),
        };
        thread::Builder::new()
            .name(format!("sign-{number}"))
            .stack_size(256 << 10)
            .spawn(move || server.serve(&channel))?;
    }
    Ok(())
}

struct Server {
    vault: Arc<Vault>,
    refusals: Arc<Refusals>,
    supervisor: Arc<Mutex<UnixStream>>,
}

impl Server {
    /// Answers requests until the channel is gone. Nothing a request contains ends this loop.
    fn serve(&self, channel: &impl AsFd) {
        let keeper = std::process::id();
        // One byte more than the longest request, so that a longer packet shows as malformed.
        let mut packet = [0; MAX_REQUEST + 1];
        let mut answer = [0; MAX_REPLY];
        loop {
            let length = match rustix::net::recv(channel, &mut packet, RecvFlags::empty()) {
                Ok((0, _)) => return,
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
                tracing::error!(error = %error, "the token failed to sign");
                Err(Refusal::Token)
            }
            Err(SignError::Lost(error)) => {
                let reason = error.to_string();
                let lost = FromKeeper::TokenLost { reason };
                let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
                // The supervisor's end closed means we are about to end anyway.
                let _ = frame::send(&*supervisor, &lost);
                Err(Refusal::Token)
            }
        };
        (request.id, outcome)
    }
}
