//! How many sockets this process may have.

use std::io;

use rustix::process::{Resource, Rlimit};

use crate::config::Limits;

/// Descriptors beside peers' connections and our own: runtime, log, and what the application opens.
const OTHERS: u64 = 128;

/// Raises the limit of open files to what the process may have (getrlimit(2) `RLIMIT_NOFILE`), and
/// lowers `limits.connections` to what fits beside `own` descriptors and the half-open connections, when
/// each of them takes `each` descriptors: an accepted socket must never fail for want of one.
///
/// # Errors
/// When the limit cannot be raised, or is too low for any connection.
pub(super) fn fit(limits: &mut Limits, own: usize, each: u64) -> io::Result<()> {
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: hard,
            maximum: hard,
        },
    )?;
    let Some(most) = hard else { return Ok(()) };
    let room = most.saturating_sub(OTHERS + own as u64 + limits.pending_handshakes) / each;
    if room == 0 {
        return Err(io::Error::other(format!(
            "no descriptor is left for connections: of {most}, {} half-open handshakes and {own} of our own; \
             raise the limit of open files (LimitNOFILE=) or lower limits.pending_handshakes",
            limits.pending_handshakes
        )));
    }
    if room < limits.connections {
        tracing::warn!(
            configured = limits.connections,
            connections = room,
            open_files = most,
            "fewer connections than configured: raise the limit of open files (LimitNOFILE=)"
        );
        limits.connections = room;
    }
    Ok(())
}
