//! Files that a crash leaves either old or new, never half.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use crate::ownership::Exposed;

/// How long a command waits for another one that works on the same folder. A token's slowest
/// signature takes a second or two.
const PATIENCE: Duration = Duration::from_secs(30);
/// The file that one command at a time holds.
pub(super) const LOCK: &str = "lock";
/// Whatever the umask: what a group may change is not read again.
const OURS_TO_CHANGE: u32 = 0o644;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// A file that could not be read or written as it must be.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system said no.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is in the way, and is never overwritten.
    #[error("{} exists and is not overwritten: choose another file or move it away", .0.display())]
    Exists(PathBuf),
    /// Another command holds the folder.
    #[error("another fastness command is at work in {}: wait for it to end", .0.display())]
    Busy(PathBuf),
    /// A FIFO or a folder is in the place of a file.
    #[error("{} is not a regular file: restore it from a copy", .0.display())]
    NotAFile(PathBuf),
    /// Something else than a file has the name.
    #[error("{} is not a regular file and is not replaced: choose another name", .0.display())]
    NotReplaced(PathBuf),
    /// The file is larger than it can rightly be.
    #[error("{} is larger than {most} bytes: it is not what it should be", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes.
        most: usize,
    },
    /// One of our own records does not read.
    #[error("{}{} is damaged: restore it from a copy", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Counted from 1, when it is one line.
        line: Option<usize>,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Writes a file that must not exist yet: either it is there in full, or not at all.
///
/// # Errors
/// [`StoreError::Exists`], or [`StoreError::Io`].
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    write_with(path, bytes, RenameFlags::NOREPLACE)
}

/// Writes a file in the place of the one with this name, if any; readers see the old or the new. A device, a
/// FIFO, a folder or a link is not replaced: others use it by that name.
///
/// # Errors
/// [`StoreError::NotReplaced`], or [`StoreError::Io`].
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    if path.symlink_metadata().is_ok_and(|there| !there.is_file()) {
        return Err(StoreError::NotReplaced(path.to_owned()));
    }
    write_with(path, bytes, RenameFlags::empty())
}

fn write_with(path: &Path, bytes: &[u8], flags: RenameFlags) -> Result<(), StoreError> {
    let draft = draft_of(path);
    let written = write_draft(&draft, bytes)
        .map_err(failed("write", &draft))
        .and_then(|()| match renameat_with(CWD, &draft, CWD, path, flags) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::EXIST) => Err(StoreError::Exists(path.to_owned())),
            Err(errno) => Err(failed("write", path)(errno.into())),
        });
    if written.is_err() {
        // Best effort: the first error is the one to tell.
        let _ = std::fs::remove_file(&draft);
    }
    written?;
    sync_folder(path)
}

fn draft_of(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.draft", std::process::id()));
    path.with_file_name(name)
}

fn write_draft(draft: &Path, bytes: &[u8]) -> io::Result<()> {
    // A draft of a killed process that had our id is garbage.
    match std::fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OURS_TO_CHANGE)
        .open(draft)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a rename or a new file in the folder of `path` durable.
fn sync_folder(path: &Path) -> Result<(), StoreError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync", folder))
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// [`StoreError::Io`] or [`StoreError::TooLarge`].
pub fn read_at_most(path: &Path, most: usize) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes))
        .map_err(failed("read", path))?;
    if bytes.len() > most {
        return Err(StoreError::TooLarge {
            path: path.to_owned(),
            most,
        });
    }
    Ok(bytes)
}

/// Who else may change what is in `folder` and in its files called `names`, or put others in their place. Of
/// a folder that is not there yet, who may change where it will be.
pub(super) fn exposed(folder: &Path, names: &[&str]) -> Result<Vec<Exposed>, StoreError> {
    let look = |path: &Path| std::fs::metadata(path).map_err(failed("look at", path));
    let way = |path: &Path| Exposed::on_the_way(path).map_err(failed("look at", path));
    let Ok(real) = folder.canonicalize() else {
        let folder = std::path::absolute(folder).map_err(failed("find", folder))?;
        let there = folder.ancestors().find_map(|it| it.canonicalize().ok());
        return way(&there.unwrap_or_default().join("new"));
    };
    let mut found = way(&real)?;
    found.extend(Exposed::of(&real, &look(&real)?));
    for name in names {
        // What is missing is said by whoever reads it.
        let Ok(file) = real.join(name).canonicalize() else {
            continue;
        };
        let metadata = look(&file)?;
        if !metadata.is_file() {
            return Err(StoreError::NotAFile(file));
        }
        found.extend(Exposed::of(&file, &metadata));
        if !file.starts_with(&real) {
            found.extend(way(&file)?);
        }
    }
    Ok(found)
}

/// Makes the folder, for its owner only, unless it is there.
pub(super) fn folder(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("make", path))
}

/// The right to change a folder's records, for one command at a time. It ends with the value, or
/// with the process.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits up to half a minute for the folder's lock file (flock(2)).
    pub(super) fn take(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(OURS_TO_CHANGE)
            .open(&path)
            .map_err(failed("open", &path))?;
        let until = Instant::now() + PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                    std::thread::sleep(BETWEEN_TRIES);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(StoreError::Busy(folder.to_owned()));
                }
                Err(errno) => return Err(failed("lock", &path)(errno.into())),
            }
        }
    }
}

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        doing,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{FileType, Mode};

    use super::*;

    #[test]
    fn a_new_file_never_overwrites_and_a_replaced_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_new(&path, b"one").unwrap();
        assert!(matches!(
            write_new(&path, b"two"),
            Err(StoreError::Exists(_))
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        replace(&path, b"three").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "a draft was left"
        );
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (fifo, link) = (folder.path().join("fifo"), folder.path().join("link"));
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for path in [fifo.as_path(), &link, folder.path()] {
            let before = path.symlink_metadata().unwrap().ino();
            let replaced = replace(path, b"x");
            assert!(
                matches!(replaced, Err(StoreError::NotReplaced(_))),
                "{replaced:?}"
            );
            assert_eq!(path.symlink_metadata().unwrap().ino(), before);
        }
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_new(&path, &[0; 11]).unwrap();
        assert!(read_at_most(&path, 11).is_ok());
        assert!(matches!(
            read_at_most(&path, 10),
            Err(StoreError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_lock_is_held_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = Lock::take(folder.path()).unwrap();
        let file = File::open(folder.path().join("lock")).unwrap();
        assert!(flock(&file, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(held);
        assert!(flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
    }
}
