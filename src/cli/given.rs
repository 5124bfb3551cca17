//! What a supervisor was started with: it keeps what it knows, so that neither it nor its roles carry what
//! somebody left in an environment or in a descriptor.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::Failure;
use crate::config::Config;
use crate::fault::Fault;
use crate::sandbox::{self, Inherited, SandboxError};
use crate::secret::PinSource;

/// systemd's (sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3), systemd.exec(5)).
const KNOWN: &[&str] = &[
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "CREDENTIALS_DIRECTORY",
    #[cfg(feature = "attack-trigger")]
    crate::sandbox::attack::VARIABLE,
];

/// The first listening socket that systemd hands over (sd_listen_fds(3)).
const LISTEN_FDS_START: i32 = 3;

/// Starts this program again where its environment has more than a supervisor knows: the old one would stay
/// in memory, and in /proc. Says what else it was given.
pub(super) fn take() -> Result<Inherited, Failure> {
    let (known, unknown): (Vec<_>, Vec<_>) =
        std::env::vars_os().partition(|(name, _)| KNOWN.iter().any(|known| name == known));
    if !unknown.is_empty() {
        let mut arguments = std::env::args_os();
        let name = arguments
            .next()
            .unwrap_or_else(|| OsString::from("fastness"));
        let arguments: Vec<_> = arguments.collect();
        let again = |program: &Path| {
            let mut again = Command::new(program);
            again.arg0(&name).args(&arguments).env_clear();
            again.envs(known.iter().cloned()).exec()
        };
        // By its path it keeps its name among processes; this user may not be let into a folder on the way.
        let mut error = again(&std::env::current_exe()?);
        if error.kind() == io::ErrorKind::PermissionDenied {
            error = again(Path::new("/proc/self/exe"));
        }
        return Err(error.into());
    }
    sandbox::hide().map_err(refused)?;
    Inherited::find().map_err(refused)
}

/// Closes what `config` does not speak of.
pub(super) fn close_others(inherited: Inherited, config: &Config) {
    let handed: i32 = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or_default();
    inherited.close(|number| {
        let is_pin = |source: &PinSource| matches!(source, PinSource::Fd(pin) if *pin == number);
        number < LISTEN_FDS_START.saturating_add(handed)
            || config.tokens.iter().any(|token| is_pin(&token.pin))
    });
}

fn refused(error: SandboxError) -> Failure {
    Failure::faults(
        "the node does not start: mend the fault above",
        vec![Fault::from(error)],
    )
}
