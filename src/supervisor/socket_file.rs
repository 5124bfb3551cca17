//! Unix sockets with a file of their own, which goes when they do.

use std::io;
use std::os::unix::fs::{FileTypeExt, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::umask;

use crate::fault::{Fault, Passing};

/// The file of a bound socket.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl SocketFile {
    /// Binds `path` for `user` alone (mode 0600). A socket file that nobody listens on is taken over;
    /// anything else in the place is a fault of the configuration's `key`.
    pub(super) fn bind(
        path: &Path,
        key: &str,
        user: Option<u32>,
    ) -> Result<(Self, UnixListener), Fault> {
        let shown = path.display();
        let fault = |problem: String, mend: &str| Fault::new(key, problem, mend);
        if let Ok(metadata) = std::fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                return Err(fault(
                    format!("{shown} exists and is not a socket"),
                    "name another path",
                ));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(fault(
                    format!("another process listens on {shown}"),
                    "this node already runs: stop it, or use `fastness reload`",
                )
                .that_may_pass(Passing::Address));
            }
            let _ = std::fs::remove_file(path);
        }
        let bind = || -> io::Result<UnixListener> {
            // Not chmod(2): whose the folder is could put a link in the file's place.
            let before = umask(Mode::from_raw_mode(0o177));
            let listener = UnixListener::bind(path);
            umask(before);
            let listener = listener?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let bound = bind().map_err(|error| {
            fault(
                format!("cannot listen on {shown}: {error}"),
                "the folder must exist and be writable, and the path shorter than 108 bytes",
            )
        })?;
        let file = Self(path.to_owned());
        if let Some(user) = user
            && user != rustix::process::geteuid().as_raw()
        {
            lchown(path, Some(user), None).map_err(|error| {
                fault(
                    format!("cannot give {shown} to user {user}: {error}"),
                    "start with the right to (root, or CAP_CHOWN), or run the application as this node's user and leave `user` out",
                )
            })?;
        }
        Ok((file, bound))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
