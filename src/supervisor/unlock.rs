//! `fastness unlock`: an administrator's descriptor with a PIN, handed on to a new keeper unread.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::keepers::Keeper;
use super::{Event, Supervisor, admin};
use crate::control::{Unlock, Unlocked, frame};
use crate::fault::Fault;
use crate::secret::PinKind;

/// An administrator who does not finish the request within this time is not one.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a connection that could not be taken: there may be no descriptor for it now.
const PAUSE: Duration = Duration::from_millis(200);
/// Until a request is looked at again that came while a process was ending.
const SOON: Duration = Duration::from_millis(50);

/// A token's label, the PIN that came if one did, and whoever waits for the outcome.
#[derive(Debug)]
pub(crate) struct Request {
    token: String,
    pin: Option<(OwnedFd, PinKind)>,
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
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot take an unlock request: trying again soon");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if !admin::allowed(&stream) {
            continue;
        }
        let events = events.clone();
        tokio::task::spawn_blocking(move || match receive(stream) {
            Ok(request) => drop(events.blocking_send(Event::Unlock(request))),
            // Whoever looks whether a node listens there says nothing.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
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
    let asked = Waiting(stream);
    match paired(descriptors, unlock.pin) {
        Ok(pin) => Ok(Request {
            token: unlock.token,
            pin,
            asked,
        }),
        Err(fault) => {
            let why = io::Error::other(fault.problem.clone());
            asked.answer(&Unlocked::NotTried(vec![fault]));
            Err(why)
        }
    }
}

/// The one descriptor that was announced, or none where none was.
fn paired(
    descriptors: Vec<OwnedFd>,
    announced: Option<PinKind>,
) -> Result<Option<(OwnedFd, PinKind)>, Fault> {
    let mut descriptors = descriptors.into_iter();
    match (descriptors.next(), announced, descriptors.next()) {
        (None, None, None) => Ok(None),
        (Some(pin), Some(kind), None) => Ok(Some((pin, kind))),
        _ => Err(Fault::new(
            "pin",
            "what came is not the one PIN that was announced",
            "use the `fastness` of this node",
        )),
    }
}

impl Supervisor {
    /// Starts the keeper that waits, with the PIN that came or the one that its source gives.
    pub(super) fn unlock(&mut self, request: Request) {
        if self.draining {
            let fault = Fault::new("node", "the node is stopping", "start it again");
            return request.asked.answer(&Unlocked::NotTried(vec![fault]));
        }
        let index = match self.wanted(&request.token) {
            Ok(index) => index,
            Err(answer) => return request.asked.answer(&answer),
        };
        // What a process said last holds for the others of its token once it is gone.
        if self.keepers[index].is_ending() {
            return self.later(Instant::now() + SOON, Event::Unlock(request));
        }
        let Request { pin, asked, .. } = request;
        let keeper = &mut self.keepers[index];
        let started = match pin {
            Some((pin, kind)) => keeper.start_with(&pin, kind, &self.events),
            None if keeper.is_spent() => Err(Fault::new(
                format!("{}.pin", keeper.place()),
                "the PIN cannot be taken from its source again",
                "come with it: `fastness unlock --pin prompt`",
            )),
            None => keeper.unlock(&self.events),
        };
        match started {
            Ok(()) => keeper.unlocking = Some(asked),
            Err(fault) => asked.answer(&Unlocked::NotTried(vec![fault])),
        }
        self.tell_node();
    }

    /// The keeper of the token with this label, of any with none, that is to be unlocked: one that waits for an
    /// operator before one that fails to start by itself, and that before one that is logging in.
    fn wanted(&self, label: &str) -> Result<usize, Unlocked> {
        let keepers = || {
            let keepers = self.keepers.iter().enumerate();
            keepers.filter(|(_, keeper)| label.is_empty() || keeper.is_named(label))
        };
        if keepers().next().is_none() {
            let labels: Vec<_> = self.keepers.iter().map(Keeper::label).collect();
            return Err(Unlocked::Unknown(Fault::new(
                label,
                format!("no such token; there are: {}", labels.join(", ")),
                "name one of them with --token, or none: then it is the one that waits",
            )));
        }
        let locked = || keepers().filter(|(_, keeper)| keeper.is_locked());
        // A PIN is shown to the token alone that it is meant for.
        if label.is_empty() && are_several(locked().map(|(index, keeper)| (index, keeper.twins())))
        {
            let labels: Vec<_> = locked().map(|(_, keeper)| keeper.label()).collect();
            return Err(Unlocked::NotTried(vec![Fault::new(
                "token",
                format!("several wait: {}", labels.join(", ")),
                "name one of them with --token",
            )]));
        }
        let waiting = keepers().filter(|(_, keeper)| keeper.takes_unlock());
        let order = |keeper: &Keeper| (!keeper.is_locked(), keeper.is_logging_in());
        let Some((index, keeper)) = waiting.min_by_key(|(_, keeper)| order(keeper)) else {
            return Err(Unlocked::NothingWaits(Fault::new(
                label,
                "no such token waits for its PIN",
                "see `fastness status`",
            )));
        };
        let busy = match keeper.is_logging_in() {
            true => "its keeper is logging in",
            false if self.is_token_busy(keeper) => "another keeper of the same token is logging in",
            false => return Ok(index),
        };
        Err(Unlocked::NotTried(vec![Fault::new(
            keeper.place(),
            busy,
            "wait until `fastness status` shows how that ended",
        )]))
    }
}

/// Whether not all of these keepers may be of one token; each comes with those of the same one.
fn are_several<'a>(mut keepers: impl Iterator<Item = (usize, &'a [usize])>) -> bool {
    let first = keepers.next();
    first.is_some_and(|(first, _)| keepers.any(|(_, twins)| !twins.contains(&first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepers_of_one_token_are_not_several() {
        let keepers: [(usize, &[usize]); 3] = [(0, &[2]), (1, &[]), (2, &[0])];
        let of = |which: &[usize]| are_several(which.iter().map(|index| keepers[*index]));
        assert!(!of(&[]) && !of(&[1]) && !of(&[0, 2]));
        assert!(of(&[0, 1]) && of(&[0, 1, 2]));
    }

    #[test]
    fn the_source_is_only_meant_when_neither_a_pin_was_announced_nor_one_came() {
        let descriptors =
            |count| std::iter::repeat_with(|| std::io::pipe().unwrap().0.into()).take(count);
        for (came, announced, taken) in [
            (0, None, Some(false)),
            (1, Some(PinKind::Stream), Some(true)),
            (0, Some(PinKind::Stream), None),
            (1, None, None),
            (2, Some(PinKind::Stream), None),
        ] {
            let pin = paired(descriptors(came).collect(), announced);
            assert_eq!(pin.ok().map(|pin| pin.is_some()), taken, "{came}");
        }
    }
}
