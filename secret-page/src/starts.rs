//! Ways to start programs that are settled before anybody can have taken this process over.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

/// A program with its arguments and its environment, as execve(2) takes them.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its path, absolute.
    pub program: CString,
    /// Its name first.
    pub arguments: Vec<CString>,
    /// Variables, each with its value (`NAME=value`).
    pub environment: Vec<CString>,
}

/// Some [`Start`]s in a page at [`Starts::ADDRESS`]. Nothing that this process does, not by memory of its own in
/// /proc either, changes, moves or replaces that page in it: the file behind it is sealed (memfd_create(2),
/// F_SEAL_WRITE) and so is the mapping (mseal(2)). So a system call filter that knows the three addresses of a start,
/// as it knows no text, lets the process start these programs and nothing else.
///
/// A child may be without the page (madvise(2), MADV_DONTFORK), and a started program is. The filter has to see to it
/// that nothing comes to the address there: no mmap(2) at an address below 8 GiB, none with MAP_32BIT or MAP_GROWSDOWN,
/// no mremap(2) to a place of its own, no shmat(2) at an address; and limits (getrlimit(2), RLIMIT_AS and RLIMIT_STACK)
/// to it that the space above cannot be filled or left out, which would bring the kernel's own choice down there. Gaps
/// that are too small for what is asked for bring it there too, and the limits do not keep anybody from making them.
#[derive(Debug)]
pub struct Starts {
    count: usize,
}

/// Bytes of the page that are used: the smallest page of any machine that Linux runs on.
const SIZE: usize = 4096;
/// Bytes from one start to the next: its arguments' addresses, then its variables', then its program's path.
const STRIDE: usize = 512;
const VARIABLES: usize = 128;
const PROGRAM: usize = 256;
/// Bytes of an address.
const WORD: usize = size_of::<u64>();

impl Starts {
    /// Where the page is: above what 32 bits reach, below everything that Linux maps by itself.
    pub const ADDRESS: usize = 1 << 32;

    /// Puts `starts` into the page.
    ///
    /// # Errors
    /// When they do not fit into 4096 bytes (15 arguments and 15 variables each), when something is at the address
    /// already, or when the kernel has no mseal(2) (before Linux 6.10).
    pub fn settle(starts: &[Start]) -> io::Result<Self> {
        let bytes = lay_out(starts)?;
        let file = sealed(&bytes)?;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
        let (address, fd) = (ptr::without_provenance_mut(Self::ADDRESS), file.as_raw_fd());
        // SAFETY: MAP_FIXED_NOREPLACE replaces no mapping of others.
        let start = unsafe { libc::mmap(address, SIZE, libc::PROT_READ, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(failed("a page at 4 GiB (mmap(2), MAP_FIXED_NOREPLACE)"));
        }
        // SAFETY: the page is ours, and stays mapped as long as this process lives.
        match unsafe { libc::syscall(libc::SYS_mseal, start, SIZE, 0) } {
            0 => Ok(Self {
                count: starts.len(),
            }),
            _ => Err(failed("mseal(2), since Linux 6.10")),
        }
    }

    /// Has the process of `command` become the start of this number, whatever else `command` says of a program, its
    /// arguments and its environment.
    ///
    /// # Panics
    /// When there is no such start.
    pub fn instead_of(&self, command: &mut Command, number: usize) {
        assert!(number < self.count, "no start has number {number}");
        let addresses = Self::addresses(number);
        let become_it = move || {
            let [program, arguments, variables] = addresses;
            // SAFETY: all three are addresses of what `lay_out` has put there, and a child has its parent's memory.
            unsafe { libc::syscall(libc::SYS_execve, program, arguments, variables) };
            Err(io::Error::last_os_error())
        };
        // SAFETY: the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(become_it) };
    }

    /// Addresses of the path, the arguments and the variables of the start of this number: the arguments of its
    /// execve(2).
    #[must_use]
    pub const fn addresses(number: usize) -> [usize; 3] {
        let start = Self::ADDRESS + number * STRIDE;
        [start + PROGRAM, start, start + VARIABLES]
    }
}

/// What the page has: of each start the lists of addresses, ended by zero, and its path; behind all of them the texts.
fn lay_out(starts: &[Start]) -> io::Result<Vec<u8>> {
    let no_room = || io::Error::new(io::ErrorKind::InvalidInput, "too much for one page");
    let mut page = vec![0; SIZE];
    let mut text_at = starts.len() * STRIDE;
    let mut put = |at: usize, bytes: &[u8], end: usize| {
        let range = at..at + bytes.len();
        let place = page.get_mut(range).filter(|_| at + bytes.len() <= end);
        place
            .map(|place| place.copy_from_slice(bytes))
            .ok_or_else(no_room)
    };
    for (number, start) in starts.iter().enumerate() {
        let at = number * STRIDE;
        put(at + PROGRAM, start.program.as_bytes_with_nul(), at + STRIDE)?;
        for (list, texts) in [(at, &start.arguments), (at + VARIABLES, &start.environment)] {
            // The zero behind the last address is there already.
            let end = list + VARIABLES - WORD;
            for (index, text) in texts.iter().enumerate() {
                let address = Starts::ADDRESS + text_at;
                put(list + index * WORD, &address.to_ne_bytes(), end)?;
                let bytes = text.as_bytes_with_nul();
                put(text_at, bytes, SIZE)?;
                text_at += bytes.len();
            }
        }
    }
    Ok(page)
}

/// A file in memory that has these bytes for good.
fn sealed(bytes: &[u8]) -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_NOEXEC_SEAL;
    // SAFETY: the name is a text that ends with zero, and outlives the call.
    let number = unsafe { libc::memfd_create(c"starts".as_ptr(), flags) };
    if number < 0 {
        return Err(failed("memfd_create(2), MFD_NOEXEC_SEAL"));
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    let mut file = unsafe { File::from_raw_fd(number) };
    file.write_all(bytes)?;
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
    // SAFETY: F_ADD_SEALS takes a number and touches no memory of ours.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } {
        0 => Ok(file),
        _ => Err(failed("sealing a file (fcntl(2), F_ADD_SEALS)")),
    }
}

/// What the system has just said of this step.
fn failed(step: &str) -> io::Error {
    let error = io::Error::last_os_error();
    io::Error::new(error.kind(), format!("{step}: {error}"))
}

/// Sets variables of this process's environment, in a process that has one thread: others may read them meanwhile.
///
/// # Errors
/// When there are more threads (proc_pid_task(5)), or a name or a value is none (setenv(3)).
pub fn set_environment<'a>(
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("other threads may read the environment"));
    }
    for (name, value) in variables {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            let text = "not a variable of an environment";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        // SAFETY: no other thread is there to read or to change the environment.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn text(bytes: &[&CStr]) -> Vec<CString> {
        bytes.iter().map(|text| (*text).to_owned()).collect()
    }

    fn start(program: &CStr, arguments: &[&CStr], environment: &[&CStr]) -> Start {
        Start {
            program: program.to_owned(),
            arguments: text(arguments),
            environment: text(environment),
        }
    }

    fn mapping() -> String {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let start = format!("{:08x}-", Starts::ADDRESS);
        let found = maps.lines().find(|line| line.starts_with(&start));
        found.expect("it is mapped").to_owned()
    }

    #[test]
    fn what_is_started_is_what_was_settled_and_nothing_changes_it() {
        let starts = [
            start(c"/bin/false", &[c"false"], &[]),
            start(
                c"/bin/sh",
                &[c"sh", c"-c", c"echo $0 $#: $A $B; env"],
                &[c"A=1", c"B=two words"],
            ),
        ];
        let starts = Starts::settle(&starts).unwrap();
        let said = |number| {
            let mut command = Command::new("/bin/echo");
            command.arg("another program").env("A", "another value");
            starts.instead_of(&mut command, number);
            let output = command.output().unwrap();
            (
                output.status.success(),
                String::from_utf8(output.stdout).unwrap(),
            )
        };
        let before = mapping();
        for _ in 0..2 {
            assert_eq!(said(0), (false, String::new()));
            let (success, text) = said(1);
            assert!(success && text.starts_with("sh 0: 1 two words\n"), "{text}");
            assert!(!text.contains("another"), "{text}");

            // What would change it, by those who run code here.
            let page = ptr::without_provenance_mut::<libc::c_void>(Starts::ADDRESS);
            let (none, fixed) = (libc::PROT_NONE, libc::MAP_FIXED | libc::MAP_PRIVATE);
            let write = libc::PROT_READ | libc::PROT_WRITE;
            let anonymous = fixed | libc::MAP_ANONYMOUS;
            // SAFETY: nothing but this test uses the page, and it is to stay as it is.
            let unmapped = unsafe { libc::munmap(page, SIZE) };
            // SAFETY: as above.
            let protected = unsafe { libc::mprotect(page, SIZE, write) };
            // SAFETY: as above.
            let hidden = unsafe { libc::mprotect(page, SIZE, none) };
            // SAFETY: as above.
            let replaced = unsafe { libc::mmap(page, SIZE, write, anonymous, -1, 0) };
            // SAFETY: as above.
            let moved = unsafe {
                libc::mremap(
                    page,
                    SIZE,
                    SIZE,
                    libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                    page.wrapping_byte_add(1 << 20),
                )
            };
            assert_eq!([unmapped, protected, hidden], [-1; 3]);
            assert_eq!([replaced, moved], [libc::MAP_FAILED; 2]);
            let memory = File::options().write(true).open("/proc/self/mem").unwrap();
            let place = u64::try_from(Starts::ADDRESS).unwrap();
            std::os::unix::fs::FileExt::write_at(&memory, b"x", place).unwrap_err();
            // SAFETY: as above.
            unsafe { libc::madvise(page, SIZE, libc::MADV_DONTNEED) };
        }
        assert_eq!(mapping(), before);
        // Once a process.
        let again = Starts::settle(&[]).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = CString::new(vec![b'x'; 300]).unwrap();
        let many = [c"x"; 16];
        for starts in [
            vec![start(&long, &[c"x"], &[])],
            vec![start(c"/x", &many, &[])],
            vec![start(c"/x", &[], &many)],
            vec![start(
                c"/x",
                &[&CString::new(vec![b'x'; SIZE]).unwrap()],
                &[],
            )],
            vec![start(c"/x", &[c"x"], &[]); 9],
        ] {
            let error = lay_out(&starts).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{starts:?}");
        }
        lay_out(&[start(c"/x", &many[..15], &many[..15])]).unwrap();
    }

    #[test]
    fn an_environment_is_set_by_a_process_alone() {
        std::thread::scope(|threads| {
            let (end, ended) = std::sync::mpsc::channel::<()>();
            let other = threads.spawn(move || ended.recv().unwrap_err());
            set_environment([("NAME", "value")]).unwrap_err();
            drop(end);
            other.join().unwrap();
        });
    }
}
