//! The application's socket as a file: everybody who may call it there can say that he is any peer. The node cannot
//! look at it, as it opens no file.

use std::fs::metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::config::{Config, Place};
use crate::fault::Fault;

/// What others may do with a socket to call it, and with the folders on the way to it (unix(7)).
const WRITE: u32 = 0o002;
const SEARCH: u32 = 0o001;

/// # Errors
/// Every user of this host may call the application.
pub(super) fn must_be_private(config: &Config) -> Result<(), Fault> {
    match Upstream::of(config).now() {
        Some(Seen::Open(mode)) => Err(Upstream::of(config).fault(mode)),
        _ => Ok(()),
    }
}

/// The unix socket of the application, and what was last seen of it.
#[derive(Debug)]
pub(super) struct Upstream {
    path: Option<PathBuf>,
    seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    NotThere,
    Private,
    /// With this mode.
    Open(u32),
}

impl Upstream {
    pub(super) fn of(config: &Config) -> Self {
        let application = config.application.as_ref();
        let path = match application.and_then(|application| application.upstream.as_ref()) {
            Some(Place::Unix(path)) => Some(path.clone()),
            _ => None,
        };
        Self { path, seen: None }
    }

    /// Looks again: the application may start later, and make its socket anew.
    pub(super) fn look(&mut self) {
        let (before, now) = (self.seen, self.now());
        if before == now {
            return;
        }
        self.seen = now;
        let at = self.shown();
        match now {
            Some(Seen::NotThere) => tracing::info!(at, "the application does not listen yet"),
            Some(Seen::Private) if before.is_some() => {
                tracing::info!(at, "the application's socket is there");
            }
            Some(Seen::Open(mode)) => {
                let Fault { problem, mend, .. } = self.fault(mode);
                tracing::warn!(problem, mend, "everybody can call the application");
            }
            Some(Seen::Private) | None => {}
        }
    }

    /// Why the node is not as it should be.
    pub(super) fn trouble(&self) -> Option<String> {
        match self.seen {
            Some(Seen::Open(mode)) => Some(format!(
                "{} (application.upstream)",
                self.fault(mode).problem
            )),
            _ => None,
        }
    }

    fn now(&self) -> Option<Seen> {
        Some(match open_mode(self.path.as_ref()?) {
            Ok(Some(mode)) => Seen::Open(mode),
            Ok(None) => Seen::Private,
            // A folder keeps even us out.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Seen::Private,
            Err(_) => Seen::NotThere,
        })
    }

    fn fault(&self, mode: u32) -> Fault {
        let at = self.shown();
        Fault::new(
            "application.upstream",
            format!(
                "{at} has mode {mode:04o}: every user of this host can call the application as any peer"
            ),
            format!("chmod o= {at}, or take the others' right to search from its folder"),
        )
    }

    fn shown(&self) -> String {
        let path = self.path.as_deref().unwrap_or(Path::new(""));
        path.display().to_string()
    }
}

/// The mode of a socket that everybody can call.
fn open_mode(path: &Path) -> io::Result<Option<u32>> {
    let socket = metadata(path)?;
    let mode = socket.permissions().mode();
    if !socket.file_type().is_socket() || mode & WRITE == 0 {
        return Ok(None);
    }
    for folder in path.canonicalize()?.ancestors().skip(1) {
        if metadata(folder)?.permissions().mode() & SEARCH == 0 {
            return Ok(None);
        }
    }
    Ok(Some(mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_is_open_when_it_and_every_folder_on_the_way_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        assert!(open_mode(&path).is_err());
        let _listener = UnixListener::bind(&path).unwrap();
        for (of_folder, of_socket, open) in [
            (0o755, 0o777, true),
            (0o711, 0o602, true),
            (0o755, 0o775, false),
            (0o750, 0o777, false),
        ] {
            set_permissions(folder.path(), Permissions::from_mode(of_folder)).unwrap();
            set_permissions(&path, Permissions::from_mode(of_socket)).unwrap();
            let found = open_mode(&path).unwrap();
            assert_eq!(
                found,
                open.then_some(of_socket),
                "{of_folder:o} {of_socket:o}"
            );
        }
    }
}
