//! `fastness check`: everything that a run does before it serves, and nothing after it.

use tokio::sync::mpsc;

use super::admin::Socket;
use super::keepers::{Happened, Keeper};
use super::sockets::Listeners;
use super::{Event, POLL, QUEUED_EVENTS, Supervisor, SupervisorError, sockets};
use crate::config::Config;
use crate::control::KeeperReady;

/// Does everything that [`run`](super::run) does before it serves, and takes it down again.
pub(crate) async fn check(config: Config) -> Result<Vec<KeeperReady>, SupervisorError> {
    let mut faults = Vec::new();
    let listeners = sockets::bind(&config).unwrap_or_else(|found| {
        faults.extend(found);
        Listeners::default()
    });
    if let Err(fault) = Socket::bind(&config.admin) {
        faults.push(fault);
    }
    let confined = match super::confine(&config) {
        Ok(confined) => confined,
        Err(found) => {
            faults.extend(found);
            return Err(SupervisorError::Faults(faults));
        }
    };
    let (sender, mut events) = mpsc::channel(QUEUED_EVENTS);
    let mut supervisor = Supervisor::new(confined, config, listeners, sender)?;
    let mut running = 0;
    for keeper in &mut supervisor.keepers {
        match keeper.start(&supervisor.events) {
            Ok(()) => running += 1,
            Err(fault) => faults.push(fault),
        }
    }
    let mut latched = false;
    let mut tick = tokio::time::interval(POLL);
    while running > 0 {
        let event = tokio::select! {
            Some(event) = events.recv() => event,
            _ = tick.tick() => {
                supervisor.keepers.iter_mut().for_each(Keeper::poll);
                continue;
            }
        };
        let Event::Keeper {
            index,
            incarnation,
            event,
        } = event
        else {
            continue;
        };
        let Some(keeper) = supervisor.keepers.get_mut(index) else {
            continue;
        };
        match keeper.on_event(incarnation, event) {
            Happened::Opened { .. } => keeper.stop(),
            happened @ (Happened::Gone | Happened::Latched) => {
                running -= 1;
                latched |= happened == Happened::Latched;
                if keeper.known().is_none() {
                    faults.extend(keeper.exit_faults());
                }
            }
            Happened::Nothing | Happened::Vitals => {}
        }
    }
    match faults.is_empty() {
        true => Ok(supervisor
            .keepers
            .iter()
            .filter_map(|keeper| keeper.known().cloned())
            .collect()),
        false if latched => Err(SupervisorError::Pin(faults)),
        false => Err(SupervisorError::Faults(faults)),
    }
}
