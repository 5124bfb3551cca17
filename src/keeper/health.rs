//! Health of the token: a real signature, verified, off the hot path, at irregular times that are
//! shorter than a token's idle time-out.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use super::vault::{SignError, Vault};
use crate::sandbox::Confined;
use crate::token::TokenError;

/// Between two probes while all is not well.
const ALARMED: Duration = Duration::from_millis(300);
/// So many failures in a row are bad health; one slow or failed signature is not.
const BAD: u32 = 2;

/// What the probes found.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    failures: u32,
    last_error: String,
}

impl Health {
    /// `None` when good, else why not.
    pub(super) fn trouble(&self) -> Option<String> {
        (self.failures >= BAD).then(|| self.last_error.clone())
    }
}

/// The probe's thread, seen from the others.
#[derive(Debug)]
pub(super) struct Probe {
    /// Between two probes while all is well: half of it to all of it.
    calm: Duration,
    health: Mutex<Health>,
    suspicion: Mutex<bool>,
    suspected: Condvar,
    /// Set once this process is confined: the thread waits for it.
    confined: OnceLock<Confined>,
}

impl Probe {
    /// Starts the thread that will probe `vault`, each `calm` at the latest; `lost` is told when this
    /// process will not sign again.
    pub(super) fn start(
        vault: &Arc<Vault>,
        calm: Duration,
        lost: impl Fn(&TokenError, &Vault) + Send + 'static,
    ) -> std::io::Result<Arc<Self>> {
        let probe = Arc::new(Self {
            calm,
            health: Mutex::default(),
            suspicion: Mutex::default(),
            suspected: Condvar::new(),
            confined: OnceLock::new(),
        });
        let (vault, running) = (Arc::clone(vault), Arc::clone(&probe));
        let (started, waiting) = mpsc::channel();
        thread::Builder::new()
            .name("health".into())
            .stack_size(256 << 10)
            .spawn(move || {
                drop(started);
                running.run(*running.confined.wait(), &vault, &lost);
            })?;
        // Ends when the thread has dropped its side.
        waiting.iter().for_each(|(): ()| {});
        Ok(probe)
    }

    /// Lets it begin.
    pub(super) fn serve(&self, confined: Confined) {
        // Nobody else sets it.
        let _ = self.confined.set(confined);
    }

    /// The health now.
    pub(super) fn health(&self) -> Health {
        self.health
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A signature failed: probe now rather than later.
    pub(super) fn suspect(&self) {
        *self
            .suspicion
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.suspected.notify_one();
    }

    fn run(&self, _: Confined, vault: &Vault, lost: &impl Fn(&TokenError, &Vault)) {
        loop {
            let outcome = vault.probe();
            let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok(()) => *health = Health::default(),
                Err(SignError::Refused(refusal)) => note(&mut health, refusal.to_string()),
                Err(SignError::Token(error)) => note(&mut health, error.to_string()),
                Err(SignError::Lost(error)) => {
                    note(&mut health, error.to_string());
                    lost(&error, vault);
                }
            }
            let calm = health.failures == 0;
            drop(health);
            self.wait(if calm {
                jittered(self.calm)
            } else {
                ALARMED.min(self.calm)
            });
        }
    }

    fn wait(&self, pause: Duration) {
        let suspicion = self
            .suspicion
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .suspected
            .wait_timeout_while(suspicion, pause, |suspected| !*suspected);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

fn note(health: &mut Health, error: String) {
    health.failures = health.failures.saturating_add(1);
    health.last_error = error;
}

/// Half to all of `pause`, so that the nodes of a mesh do not probe a shared HSM in step.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0];
    match aws_lc_rs::rand::fill(&mut random) {
        Ok(()) => pause / 2 + pause / 2 * u32::from(random[0]) / u32::from(u8::MAX),
        Err(_) => pause,
    }
}
