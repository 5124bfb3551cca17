//! `fastness run`

use std::path::Path;

use super::{Exit, Failure, given};
use crate::config::Config;
use crate::supervisor::{self, SupervisorError};
use crate::telemetry;

/// Of what no file has to be mended for.
const LATER: &str = "the node does not start now: it will when the above is over";

/// Runs a node until it is told to stop.
pub(super) fn run(file: &Path) -> Result<(), Failure> {
    let inherited = given::take()?;
    let config = Config::load(file).map_err(|faults| {
        Failure::faults(
            "the node does not start: mend the faults above, then try `fastness check`",
            faults,
        )
    })?;
    given::close_others(inherited, &config);
    telemetry::start("supervisor", config.log);
    // Sockets and files of ours are nobody else's business from the moment they exist.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let runtime = runtime()?;
    let file = config.file.clone();
    runtime
        .block_on(supervisor::run(config))
        .map_err(|error| Failure::from(error).placed_in(&file))
}

/// The supervisor's runtime: its children must be started from the thread that lives as long as it.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

impl From<SupervisorError> for Failure {
    fn from(error: SupervisorError) -> Self {
        match error {
            SupervisorError::Faults(faults) => {
                let exit = Exit::of_start(&faults);
                let message = match exit {
                    Exit::Faults => "the node does not start: mend the faults above",
                    _ => LATER,
                };
                Failure {
                    exit,
                    message: message.into(),
                    faults,
                }
            }
            SupervisorError::Tokens(faults) => Failure {
                exit: Exit::Token,
                message: LATER.into(),
                faults,
            },
            SupervisorError::Pin(faults) => Failure {
                exit: Exit::Pin,
                message:
                    "no PIN is tried again by itself: mend it, then `fastness check` tries it once"
                        .into(),
                faults,
            },
            SupervisorError::NotConfined(faults) => Failure {
                exit: Exit::Failed,
                message: "the node was stopped: a process of it is not what it must be".into(),
                faults,
            },
            SupervisorError::Stopped(faults) => Failure {
                exit: Exit::Failed,
                message: "told to stop: not everything was checked".into(),
                faults,
            },
            SupervisorError::System(error) => {
                Failure::new(Exit::Failed, format!("the supervisor cannot work: {error}"))
            }
        }
    }
}
