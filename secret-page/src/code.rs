//! This program's code, as far as it is in memory.

use std::fs;
use std::io;
use std::ops::Range;

/// Where this program's own code is mapped: from its file, executable and not writable.
#[derive(Debug)]
pub struct Code(Vec<Range<usize>>);

impl Code {
    /// Reads it from /proc/self/maps (proc_pid_maps(5)).
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn mapped() -> io::Result<Self> {
        let program = fs::read_link("/proc/self/exe")?;
        let maps = fs::read_to_string("/proc/self/maps")?;
        let ours = maps.lines().filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (range, rights) = (fields.next()?, fields.next()?);
            let path = fields.nth(3)?;
            (rights == "r-xp" && program.to_str() == Some(path))
                .then_some(range)?
                .split_once('-')
        });
        let number = |text| usize::from_str_radix(text, 16).map_err(io::Error::other);
        let ranges = ours.map(|(from, to)| Ok(number(from)?..number(to)?));
        ranges.collect::<io::Result<_>>().map(Self)
    }

    /// Gives back the pages that only the start needed: what is needed again is read again, from the
    /// file or from the system's cache of it (madvise(2), MADV_DONTNEED). Returns how many bytes of
    /// addresses that was about: none when the program's file has been replaced.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn give_back(&self) -> io::Result<usize> {
        for range in &self.0 {
            let from = range.start as *mut libc::c_void;
            // SAFETY: code of a position-independent program is never written, not when it is loaded
            // either, so what the file has is what was there.
            match unsafe { libc::madvise(from, range.len(), libc::MADV_DONTNEED) } {
                0 => {}
                _ => return Err(io::Error::last_os_error()),
            }
        }
        Ok(self.0.iter().map(Range::len).sum())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn resident(range: &Range<usize>) -> usize {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{:x}-{:x} ", range.start, range.end);
        let mapping = maps.lines().skip_while(|line| !line.starts_with(&start));
        let rss = mapping
            .into_iter()
            .find(|line| line.starts_with("Rss:"))
            .unwrap();
        rss.split_ascii_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    }

    #[test]
    fn code_that_was_given_back_still_runs() {
        let code = Code::mapped().unwrap();
        let [range] = code.0.as_slice() else {
            panic!("a program has one mapping of code: {code:?}")
        };
        assert_eq!(code.give_back().unwrap(), range.len());
    }

    #[test]
    fn what_was_given_back_is_not_in_memory() {
        // Of this program's file, but nothing that is run.
        let program = fs::File::open("/proc/self/exe").unwrap();
        let length = usize::try_from(program.metadata().unwrap().len()).unwrap() & !0xffff;
        let (access, fd) = (libc::PROT_READ, program.as_raw_fd());
        // SAFETY: no address is asked for, so no mapping of others is replaced.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                access,
                libc::MAP_PRIVATE,
                fd,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        let range = start as usize..start as usize + length;
        // SAFETY: so many bytes are mapped there and can be read; nobody writes to the file of a program
        // that runs.
        let all = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) };
        let sum: u64 = all.iter().step_by(4096).map(|byte| u64::from(*byte)).sum();
        assert!(sum > 0 && resident(&range) > 0);
        assert_eq!(Code(vec![range.clone()]).give_back().unwrap(), length);
        assert_eq!(resident(&range), 0, "KiB");
        // SAFETY: it was mapped above, with this length, and nothing borrows it any more.
        assert_eq!(unsafe { libc::munmap(start, length) }, 0);
    }
}
