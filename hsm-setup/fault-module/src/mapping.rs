//! The state file: made by a controller before the start, mapped by everyone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::ptr;

use crate::state::State;

const SIZE: usize = size_of::<State>();

/// Makes a state file without rules and maps it. An existing one is refused, unless `replace`:
/// then a new file takes its name, and processes that have the old one mapped keep the old one.
///
/// # Errors
/// When it cannot be made or mapped.
pub fn create(path: &Path, mode: u32, replace: bool) -> io::Result<&'static State> {
    if replace {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    // Whatever the umask: a confined process of another user may have to open it.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.set_len(SIZE as u64)?;
    let state = map(Some(&file))?;
    state.declare();
    Ok(state)
}

/// Maps an existing state file.
///
/// # Errors
/// When it cannot be opened or is not a state file of this version.
pub fn open(path: &Path) -> io::Result<&'static State> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let invalid = |text| io::Error::new(io::ErrorKind::InvalidData, text);
    if file.metadata()?.len() != SIZE as u64 {
        return Err(invalid(
            "it is not a state file of this version; `fault-ctl FILE create` makes one".to_owned(),
        ));
    }
    let state = map(Some(&file))?;
    state.check().map_err(invalid)?;
    Ok(state)
}

/// A state of this process alone, for a module without a state file.
///
/// # Errors
/// When there is no memory.
pub fn private() -> io::Result<&'static State> {
    let state = map(None)?;
    state.declare();
    Ok(state)
}

fn map(file: Option<&File>) -> io::Result<&'static State> {
    let (flags, descriptor) = match file {
        Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let address = unsafe { libc::mmap(ptr::null_mut(), SIZE, protection, flags, descriptor, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is page aligned, as long as a State and never unmapped. A State consists
    // of atomics only, for which every bit pattern is valid, also while other processes write it.
    Ok(unsafe { &*address.cast::<State>() })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn two_mappings_of_a_file_are_one_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let first = super::create(&path, 0o600, false).unwrap();
        let second = super::open(&path).unwrap();
        first.pin_flags.store(5, Relaxed);
        assert_eq!(second.pin_flags.load(Relaxed), 5);
        assert!(
            super::create(&path, 0o600, false).is_err(),
            "an existing file is not overwritten"
        );
    }

    #[test]
    fn any_other_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        std::fs::write(&path, vec![0; super::SIZE]).unwrap();
        assert!(super::open(&path).is_err());
        std::fs::write(&path, "short").unwrap();
        assert!(super::open(&path).is_err());
    }
}
