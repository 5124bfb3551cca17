//! What systemd is told (sd_notify(3)): ready, degraded and why, stopping, and a sign of life for its
//! watchdog. Without `NOTIFY_SOCKET` nobody listens and nothing is said.

use std::time::Instant;

use sd_notify::NotifyState;

use super::Supervisor;
use crate::plain;

/// What was said last.
#[derive(Debug, Default)]
pub(super) struct Systemd {
    ready: bool,
    status: String,
    alive: Option<Instant>,
}

impl Systemd {
    /// We end.
    pub(super) fn stopping(&self) {
        say(&[NotifyState::Stopping]);
    }
}

impl Supervisor {
    /// Tells systemd what changed, and in time that we live: this is called from the main loop, so a
    /// supervisor that hangs is found out.
    pub(super) fn tell_systemd(&mut self) {
        let (state, reason) = self.settled_state();
        let status = if reason.is_empty() {
            state.to_owned()
        } else {
            // A line end would begin another word to systemd.
            plain::line(&format!("{state}: {reason}"))
        };
        if status != self.systemd.status {
            say(&[NotifyState::Status(&status)]);
            self.systemd.status = status;
        }
        if self.served && !self.systemd.ready {
            say(&[NotifyState::Ready]);
            self.systemd.ready = true;
        }
        if let Some(period) = sd_notify::watchdog_enabled()
            && self
                .systemd
                .alive
                .is_none_or(|at| at.elapsed() > period / 3)
        {
            say(&[NotifyState::Watchdog]);
            self.systemd.alive = Some(Instant::now());
        }
    }
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd does not listen");
    }
}
