//! One page for a secret.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use zeroize::Zeroize;

/// Bytes that a [`Page`] holds: the smallest page of any machine that Linux runs on.
const SIZE: usize = 4096;

/// Memory of 4096 bytes for a secret, zero at first; wiped and unmapped when dropped. It is never
/// swapped out and not part of a core file, and no child inherits it.
#[derive(Debug)]
pub struct Page {
    start: NonNull<u8>,
    kind: Kind,
}

/// What a [`Page`] is made of.
#[derive(Debug)]
pub enum Kind {
    /// memfd_secret(2): the kernel itself has no mapping of it, so neither /proc/PID/mem nor
    /// ptrace(2) nor process_vm_readv(2) reads it, for root either.
    Secret,
    /// Locked into memory (mlock(2)): readable for whoever may read this process. The error is the
    /// reason why it is not [`Kind::Secret`].
    Locked(io::Error),
}

// SAFETY: the mapping belongs to this value alone and does not care which thread uses it.
unsafe impl Send for Page {}

impl Page {
    /// A page that only this process can read, or a locked one where there is no memfd_secret(2)
    /// (before Linux 5.14; `secretmem.enable=0`; filtered in a container).
    ///
    /// # Errors
    /// When no page can be locked either: RLIMIT_MEMLOCK is too small for one.
    pub fn new() -> io::Result<Self> {
        Self::secret().or_else(Self::locked)
    }

    /// What it is made of.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: SIZE readable bytes are mapped as long as `self` lives, and changed only through
        // `bytes_mut`, which borrows `self` alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), SIZE) }
    }

    /// All of it, to be read into.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the pages are writable, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), SIZE) }
    }

    fn secret() -> io::Result<Self> {
        // SAFETY: memfd_secret(2) takes flags and touches no memory of ours.
        let number = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
        let number = libc::c_int::try_from(number).map_err(io::Error::other)?;
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        let length = libc::off_t::try_from(SIZE).map_err(io::Error::other)?;
        // SAFETY: ftruncate(2) touches no memory of ours.
        succeeded(unsafe { libc::ftruncate(fd.as_raw_fd(), length) })?;
        // The descriptor closes here: the mapping stays.
        Self::map(libc::MAP_SHARED, fd.as_raw_fd(), Kind::Secret)
    }

    fn locked(reason: io::Error) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = Self::map(flags, -1, Kind::Locked(reason))?;
        // SAFETY: the page is mapped; mlock(2) changes nothing in it.
        succeeded(unsafe { libc::mlock(page.start.as_ptr().cast(), SIZE) })?;
        page.advise(libc::MADV_DONTDUMP)?;
        Ok(page)
    }

    fn map(flags: libc::c_int, fd: libc::c_int, kind: Kind) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: no address is asked for, so no mapping of others is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, access, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        let page = Self { start, kind };
        page.advise(libc::MADV_DONTFORK)?;
        Ok(page)
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the page is ours, and neither advice that we give changes what is in it.
        succeeded(unsafe { libc::madvise(self.start.as_ptr().cast(), SIZE, advice) })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        // SAFETY: it was mapped by us, with this length, and nothing borrows it any more. A failure
        // would leave a page of zeros.
        unsafe { libc::munmap(self.start.as_ptr().cast(), SIZE) };
    }
}

fn succeeded(returned: libc::c_int) -> io::Result<()> {
    match returned {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_hold_what_is_written_and_start_empty() {
        for page in [Page::new(), Page::locked(io::Error::other("asked for"))] {
            let mut page = page.expect("a page");
            assert!(page.bytes().iter().all(|byte| *byte == 0));
            page.bytes_mut()[SIZE - 4..].copy_from_slice(b"1234");
            assert_eq!(&page.bytes()[SIZE - 4..], b"1234");
        }
    }
}
