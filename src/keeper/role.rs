//! The keeper's life, as one story: hear what to do, take the PIN, open the token, check every key,
//! sign until told to stop.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::health::Probe;
use super::open::{self, Refused, Said};
use super::refusals::Refusals;
use super::serve::{self, Supervisor};
use super::wall;
use crate::control::{FromKeeper, Retry, ToKeeper, Vitals, frame};
use crate::sandbox;
use crate::secret::UserPin;
use crate::telemetry;

/// How long running signatures may take to end when this process is to; its supervisor waits two seconds.
const DRAIN: Duration = Duration::from_millis(1500);
/// Descriptors of a keeper beside its channels: a module's own, and a file of the token at a time.
const DESCRIPTORS: u64 = 256;

/// How many descriptors a keeper with so many channels may have.
pub(crate) fn open_files(channels: usize) -> u64 {
    DESCRIPTORS + channels as u64
}

/// Runs this process as a keeper: standard input is its supervisor.
pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not have been started yet.
            let line = format!("fastness keeper {}: {error}\n", std::process::id());
            telemetry::write_or_drop(line.into_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    // 1. Rights are given up; then the supervisor's channel, and everything this process will ever be
    //    given.
    let entered = sandbox::enter(sandbox::Role::Keeper);
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (message, mut descriptors) = frame::receive_with_descriptors::<ToKeeper>(&control)?;
    let ToKeeper::Setup(setup) = message else {
        return Err(io::Error::other("the first order was not the setup"));
    };
    telemetry::start("keeper", setup.log);
    let refuse = |faults| {
        frame::send(
            &control,
            &FromKeeper::Refused {
                faults,
                retry: Retry::Freely,
            },
        )
    };
    if descriptors.is_empty() {
        return Err(io::Error::other("no PIN source came with the setup"));
    }
    let pin_source = descriptors.remove(0);
    let channels = descriptors;
    let limited = entered.and_then(|entered| {
        entered.limit_descriptors(open_files(channels.len()))?;
        Ok(entered)
    });
    let entered = match limited {
        Ok(entered) => entered,
        Err(error) => return refuse(vec![error.into()]),
    };

    // 2. The PIN, once, straight to the token.
    let pin = match UserPin::read(&pin_source, setup.pin.clone()) {
        Ok(pin) => pin,
        Err(error) => {
            let fault = crate::fault::Fault::new(
                format!("{}.pin", setup.place),
                error.to_string(),
                error.mend(),
            );
            return refuse(vec![fault]);
        }
    };
    drop(pin_source);

    // 3. Module, token, login, keys: everything is checked before anything is served.
    //    What was refused is said before the module is asked for anything more, then nothing is: it may
    //    hang or crash, and a refused PIN that is not heard of would be tried again.
    let tell = |message: &FromKeeper| {
        if let Err(error) = frame::send(&control, message) {
            tracing::error!(%error, "cannot tell the supervisor");
            end_at_once()
        }
    };
    let say = |Refused { faults, retry }| {
        tell(&FromKeeper::Refused { faults, retry });
        end_at_once()
    };
    tell(&FromKeeper::HasPin);
    let (vault, mut ready) = match open::open(&setup, pin, &tell, &say) {
        Ok(opened) => opened,
        Err(Said) => end_at_once(),
    };
    let vault = Arc::new(vault);

    // 4. Landlock: from now on nothing is written, only the token is read, and only its ports are dialled.
    let maker = sandbox::Maker::of(&ready.manufacturer);
    let (walled, profile) = match wall::wall(entered, maker, &setup) {
        Ok(walled) => walled,
        Err(fault) => return refuse(vec![fault]),
    };

    // 5. One thread a channel signs, one watches the token's health; this one answers the supervisor.
    //    They wait for the seal.
    let supervisor = Supervisor::new(control.try_clone()?);
    let lost = Arc::clone(&supervisor);
    let refusals = Arc::new(Refusals::default());
    let counted = Arc::clone(&refusals);
    let probe = Probe::start(
        &vault,
        Duration::from_millis(setup.probe_ms),
        move |error, vault| lost.token_lost(error, vault, &counted),
    )?;
    let signers = serve::start(&vault, channels, &refusals, &probe, &supervisor)?;
    // The first random bytes are drawn with calls that are not needed again; a key whose certificate is faulty has
    // needed none until now.
    aws_lc_rs::rand::fill(&mut [0; 32]).map_err(io::Error::other)?;
    let (confined, report) = match walled.seal(&profile) {
        Ok(sealed) => sealed,
        Err(error) => return refuse(vec![error.into()]),
    };
    ready.sandbox = report;
    signers.serve(confined);
    probe.serve(confined);
    supervisor.tell(&FromKeeper::Ready(Box::new(ready)));
    while let Some(order) = frame::receive::<ToKeeper>(&control)? {
        match order {
            ToKeeper::Poll => supervisor.tell(&FromKeeper::Vitals(Box::new(Vitals {
                trouble: probe.health().trouble(),
                ..serve::vitals(&vault, &refusals)
            }))),
            ToKeeper::Stop => break,
            #[cfg(feature = "attack-trigger")]
            ToKeeper::Attack(attack) => attack.run(None),
            ToKeeper::Setup(_) => tracing::error!("a second setup: ignored"),
        }
    }
    if !vault.close(DRAIN) {
        tracing::warn!("a call into the module has not ended: it is left as it is");
        end_at_once();
    }
    Ok(())
}

/// Ends this process without a further word to the module, whose own end exit(3) would run.
fn end_at_once() -> ! {
    std::process::abort()
}
