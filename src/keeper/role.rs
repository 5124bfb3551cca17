//! The keeper's life, as one story: hear what to do, take the PIN, open the token, check every key,
//! sign until told to stop.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use super::health::Probe;
use super::refusals::Refusals;
use super::serve::{self, Supervisor};
use super::open;
use crate::control::{FromKeeper, ToKeeper, Vitals, frame};
use crate::sandbox;
use crate::secret::UserPin;
use crate::telemetry;

/// Runs this process as a keeper: standard input is its supervisor.
pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not have been started yet.
            eprintln!("fastness keeper {}: {error}", std::process::id());
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    // 1. The supervisor's channel, and everything this process will ever be given.
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (message, mut descriptors) = frame::receive_with_descriptors::<ToKeeper>(&control)?;
    let ToKeeper::Setup(setup) = message else {
        return Err(io::Error::other("the first order was not the setup"));
    };
    telemetry::start("keeper", setup.log);
    sandbox::bind_to_parent()?;
    if descriptors.is_empty() {
        return Err(io::Error::other("no PIN source came with the setup"));
    }
    let pin_source = descriptors.remove(0);
    let channels = descriptors;

    // 2. The PIN, once, straight to the token.
    let pin = match UserPin::read(&pin_source, setup.pin.clone()) {
        Ok(pin) => pin,
        Err(error) => {
            let fault = crate::fault::Fault::new(format!("{}.pin", setup.place), error.to_string(), "mend the PIN's source");
            return frame::send(&control, &FromKeeper::Refused { faults: vec![fault], latch: false });
        }
    };
    drop(pin_source);

    // 3. Module, token, login, keys: everything is checked before anything is served.
    let (vault, ready) = match open::open(&setup, pin) {
        Ok(opened) => opened,
        Err(refused) => {
            let refused = FromKeeper::Refused { faults: refused.faults, latch: refused.latch };
            return frame::send(&control, &refused);
        }
    };
    let vault = Arc::new(vault);

    // 4. One thread a channel signs, one watches the token's health; this one answers the supervisor.
    let supervisor = Supervisor::new(control.try_clone()?);
    let lost = Arc::clone(&supervisor);
    let probe = Probe::start(&vault, move |error| lost.token_lost(error))?;
    let refusals = Arc::new(Refusals::default());
    serve::start(&vault, channels, &refusals, &probe, &supervisor)?;
    supervisor.tell(&FromKeeper::Ready(Box::new(ready)));
    while let Some(order) = frame::receive::<ToKeeper>(&control)? {
        match order {
            ToKeeper::Poll => supervisor.tell(&FromKeeper::Vitals(Box::new(Vitals {
                longest_call: vault.calls.longest(),
                sessions: vault.sessions(),
                signatures: vault.signatures(),
                refusals: refusals.total(),
                evictions: vault.evictions(),
                trouble: probe.health().trouble(),
            }))),
            ToKeeper::Stop => break,
            ToKeeper::Setup(_) => tracing::error!("a second setup: ignored"),
        }
    }
    vault.close();
    Ok(())
}
