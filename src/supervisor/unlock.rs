//! `fastness unlock`: an administrator's descriptor with a PIN, handed on to a new keeper unread.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::keepers::Keeper;
use super::{Event, Supervisor, admin};
use crate::control::{Unlock, Unlocked, frame};
use crate::fault::Fault;

/// An administrator who does not finish the request within this time is not one.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request, the descriptor with the PIN, and whoever waits for the outcome.
#[derive(Debug)]
pub(crate) struct Request {
    unlock: Unlock,
    pin: Option<OwnedFd>,
    asked: Waiting,
}

/// Somebody waits for the outcome of an unlock.
#[derive(Debug)]
pub(super) struct Waiting(UnixStream);

impl Waiting {
    /// Tells the outcome. Whoever asked may have gone.
    pub(super) fn answer(self, outcome: &Unlocked) {
        let _ = frame::send(&self.0, outcome);
    }
}

/// Takes requests on `listener` until the process ends.
pub(super) async fn listen(listener: UnixListener, events: mpsc::Sender<Event>) {
    while let Ok((stream, _)) = listener.accept().await {
        if !admin::allowed(&stream) {
            continue;
        }
        let events = events.clone();
        tokio::task::spawn_blocking(move || match receive(stream) {
            Ok(request) => drop(events.blocking_send(Event::Unlock(request))),
            Err(error) => tracing::warn!(%error, "not an unlock request"),
        });
    }
}

fn receive(stream: tokio::net::UnixStream) -> io::Result<Request> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (unlock, descriptors) = frame::receive_with_descriptors::<Unlock>(&stream)?;
    Ok(Request {
        unlock,
        pin: descriptors.into_iter().next(),
        asked: Waiting(stream),
    })
}

impl Supervisor {
    /// Starts the keeper that waits, with the PIN that came or the one that its source gives.
    pub(super) fn unlock(&mut self, request: Request) {
        let Request { unlock, pin, asked } = request;
        let refuse = |problem: &str, mend: &str| {
            Unlocked::Refused(vec![Fault::new(&*unlock.token, problem, mend)])
        };
        let named = |keeper: &Keeper| unlock.token.is_empty() || keeper.label() == unlock.token;
        // First one that waits for an operator, then one that fails to start by itself.
        let found = self
            .keepers
            .iter()
            .enumerate()
            .filter(|(_, keeper)| named(keeper) && keeper.takes_unlock())
            .min_by_key(|(_, keeper)| !keeper.is_locked());
        let Some((index, keeper)) = found else {
            return asked.answer(&refuse(
                "no such token waits for its PIN",
                "see `fastness status`",
            ));
        };
        if self.is_token_busy(keeper) {
            return asked.answer(&refuse(
                "another keeper of the same token is logging in",
                "wait until `fastness status` shows how that ended",
            ));
        }
        let keeper = &mut self.keepers[index];
        let started = match (pin, unlock.pin) {
            (Some(pin), Some(kind)) => keeper.start_with(&pin, kind, &self.events),
            _ if keeper.is_spent() => {
                return asked.answer(&refuse(
                    "its PIN cannot be taken from its source again",
                    "come with it: `fastness unlock --pin prompt`",
                ));
            }
            _ => keeper.unlock(&self.events),
        };
        match started {
            Ok(()) => keeper.unlocking = Some(asked),
            Err(fault) => asked.answer(&Unlocked::Refused(vec![fault])),
        }
        self.tell_node();
    }
}
