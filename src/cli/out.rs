//! `--out FILE`: refused before anybody types a PIN for nothing, where it could not be written afterwards.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// What stands against writing a file.
#[derive(Debug, thiserror::Error)]
pub enum OutFault {
    /// It is there.
    #[error("--out: {} exists and is not overwritten; choose another file, or {instead}", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
        /// What to do instead.
        instead: &'static str,
    },
    /// It is there, and is no file.
    #[error("--out: {} is not a regular file and is not replaced; choose another name", .0.display())]
    NotAFile(PathBuf),
    /// It has no folder.
    #[error("--out: the folder of {} does not exist, make it first", .0.display())]
    NoFolder(PathBuf),
    /// Its folder is not ours to write in.
    #[error("--out: this user cannot write in the folder of {} ({cause}); choose another folder", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
}

/// Looks whether `path` can be written; where it is there, whether `--force` was given, or `None` for a command
/// without. What happens afterwards is told when it is written.
pub(super) fn check(path: &Path, force: Option<bool>) -> Result<(), OutFault> {
    match path.symlink_metadata() {
        Ok(there) if !there.is_file() => return Err(OutFault::NotAFile(path.to_owned())),
        Ok(_) if force != Some(true) => {
            return Err(OutFault::Exists {
                path: path.to_owned(),
                instead: match force {
                    Some(_) => "replace it with --force",
                    None => "move it away",
                },
            });
        }
        _ => {}
    }
    let folder = match path.parent() {
        Some(folder) if folder == Path::new("") => Path::new("."),
        Some(folder) => folder,
        None => return Err(OutFault::NotAFile(path.to_owned())),
    };
    if !folder.is_dir() || path.file_name().is_none() {
        return Err(OutFault::NoFolder(path.to_owned()));
    }
    access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| OutFault::NotOurs {
        path: path.to_owned(),
        cause: errno.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_a_new_file_or_with_force_a_file_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        symlink("file", at("link")).unwrap();
        assert!(check(&at("new"), None).is_ok());
        assert!(check(&at("file"), Some(true)).is_ok());
        for force in [None, Some(false)] {
            let checked = check(&at("file"), force);
            assert!(matches!(checked, Err(OutFault::Exists { .. })));
        }
        for odd in [folder.path().to_owned(), at("link"), "/".into()] {
            for force in [None, Some(false), Some(true)] {
                let checked = check(&odd, force);
                assert!(
                    matches!(checked, Err(OutFault::NotAFile(_))),
                    "{odd:?}: {checked:?}"
                );
            }
        }
        for nowhere in [at("no/new"), at("file/new"), at("no/..")] {
            let checked = check(&nowhere, Some(true));
            assert!(
                matches!(checked, Err(OutFault::NoFolder(_))),
                "{nowhere:?}: {checked:?}"
            );
        }
    }
}
