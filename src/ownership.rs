//! Who may change a file, or put another one in its place: nobody but root and the user that we are.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Write permission for somebody else than the owner.
const OTHERS_WRITE: u32 = 0o022;
/// In a sticky folder, such as /tmp, others cannot move what is ours (chmod(1)).
const STICKY: u32 = 0o1000;

/// Who else may change something, and so what is read from it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exposed {
    /// It belongs to another user.
    #[error("{} belongs to user {owner}", path.display())]
    Owner {
        /// What.
        path: PathBuf,
        /// Whose.
        owner: u32,
    },
    /// It stands in a folder of another user.
    #[error("the folder {} belongs to user {owner}", path.display())]
    FolderOwner {
        /// The folder.
        path: PathBuf,
        /// Whose.
        owner: u32,
    },
    /// Its mode lets others change it.
    #[error("{} has mode {mode:04o}: others may change it", path.display())]
    Mode {
        /// What.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It stands in a folder where others may put another thing in its place.
    #[error("the folder {} has mode {mode:04o}: others may put another file there", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl Exposed {
    /// What to do about it.
    pub fn mend(&self) -> String {
        match self {
            Self::Owner { .. } => match rustix::process::geteuid().as_raw() {
                0 => "it must belong to root: chown it".to_owned(),
                ourselves => format!("it must belong to root or to user {ourselves}: chown it"),
            },
            Self::FolderOwner { .. } => {
                "put the file where only root or this user can replace it".to_owned()
            }
            Self::Mode { path, .. } | Self::Folder { path, .. } => {
                format!("chmod go-w {}", path.display())
            }
        }
    }

    /// What `found` says about `path`: first whose it is, then who else may change it.
    pub(crate) fn of(path: &Path, found: &Metadata) -> Vec<Self> {
        let ourselves = rustix::process::geteuid().as_raw();
        let (path, owner, mode) = (path.to_owned(), found.uid(), found.mode() & 0o7777);
        let others = owner != 0 && owner != ourselves;
        let open = mode & OTHERS_WRITE != 0;
        let of = path.clone();
        let (owner, mode) = if found.is_dir() {
            (
                others.then_some(Self::FolderOwner { path: of, owner }),
                open.then_some(Self::Folder { path, mode }),
            )
        } else {
            (
                others.then_some(Self::Owner { path: of, owner }),
                open.then_some(Self::Mode { path, mode }),
            )
        };
        owner.into_iter().chain(mode).collect()
    }

    /// The same of the folders on the way to `path`, which must have no symbolic link in it.
    ///
    /// # Errors
    /// When one cannot be looked at.
    pub(crate) fn on_the_way(path: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for folder in path.ancestors().skip(1) {
            let metadata = std::fs::metadata(folder)?;
            let sticky = metadata.mode() & STICKY != 0;
            let exposed = Self::of(folder, &metadata).into_iter();
            found.extend(exposed.filter(|it| !(sticky && matches!(it, Self::Folder { .. }))));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_others_may_change_or_replace_is_exposed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("file");
        fs::write(&path, "").unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        let of = || Exposed::of(&path, &fs::metadata(&path).unwrap());
        mode(&path, 0o644);
        assert_eq!(of(), []);
        assert_eq!(Exposed::on_the_way(&path).unwrap(), []);
        mode(&path, 0o620);
        let exposed = Exposed::Mode {
            path: path.clone(),
            mode: 0o620,
        };
        assert_eq!(of(), [exposed]);
        mode(folder.path(), 0o777);
        let found = Exposed::on_the_way(&path).unwrap();
        assert!(
            matches!(found[..], [Exposed::Folder { mode: 0o777, .. }]),
            "{found:?}"
        );
        mode(folder.path(), 0o1777);
        assert_eq!(Exposed::on_the_way(&path).unwrap(), []);
    }
}
