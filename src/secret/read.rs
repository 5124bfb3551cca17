//! Reading a PIN so that no copy of it stays behind.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use fastness_secret_page::{Kind, Page};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios};

use super::{Line, PinError, PinKind, PinSource};

/// The longest PIN in bytes. Tokens state 4 … 255 (SoftHSM: 255); vendors' password files are
/// shorter.
pub const LONGEST_PIN: usize = 255;

/// One PIN, `\r\n`, and one byte more to see that there is more.
const BUFFER: usize = LONGEST_PIN + 3;

/// What Ctrl-C sends.
const INTERRUPT: u8 = 0x03;

pub(super) fn pin(fd: BorrowedFd<'_>, kind: &PinKind, what: &str) -> Result<Line, PinError> {
    let mut page = Page::new().map_err(PinError::Memory)?;
    match page.kind() {
        Kind::Secret => tracing::debug!(pin = what, "read into memory that nobody else can read"),
        Kind::Locked(reason) => tracing::warn!(
            pin = what,
            %reason,
            "no memfd_secret(2) here: read into locked memory, which root can read until the login"
        ),
    }
    let buffer = &mut page.bytes_mut()[..BUFFER];
    let read = match kind {
        PinKind::Stream => stream(fd, buffer)?,
        PinKind::Terminal { token } => terminal(fd, buffer, what, token)?,
    };
    let length = checked(&buffer[..read])?;
    Ok(Line { page, length })
}

/// The length of the PIN that these bytes begin with: the rest is one line end at most.
fn checked(bytes: &[u8]) -> Result<usize, PinError> {
    let line = match bytes.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => bytes,
    };
    if line.is_empty() {
        return Err(PinError::Empty);
    }
    if line.len() > LONGEST_PIN {
        return Err(PinError::TooLong);
    }
    let control = line.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
    if control || std::str::from_utf8(line).is_err() {
        return Err(PinError::NotText);
    }
    Ok(line.len())
}

/// Reads to the end, or until the buffer is full. A regular file is read from its start whatever
/// its offset, as several processes may share it.
fn stream(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, PinError> {
    let stat = rustix::fs::fstat(fd).map_err(failed)?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let mut length = 0;
    while length < buffer.len() {
        let rest = &mut buffer[length..];
        let read = if is_file {
            rustix::io::pread(fd, rest, length as u64)
        } else {
            rustix::io::read(fd, rest)
        };
        match read {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(length)
}

/// Asks on the terminal, echo off, and reads one line.
fn terminal(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    what: &str,
    token: &str,
) -> Result<usize, PinError> {
    let before =
        rustix::termios::tcgetattr(fd).map_err(|errno| PinError::NotATerminal(errno.into()))?;
    let _restore = Restore {
        fd,
        before: before.clone(),
    };
    rustix::termios::tcsetattr(fd, OptionalActions::Flush, &quiet(before)).map_err(failed)?;
    // Not one formatted text: a label is no secret, but nothing here should grow a String.
    for part in [what, " for token ", token, ": "] {
        write_all(fd, part.as_bytes())?;
    }
    let length = line(fd, buffer);
    write_all(fd, b"\n")?;
    length
}

/// Echo off, and Ctrl-C as a line end of its own: were it a signal, the process would die with
/// the echo still off.
fn quiet(mut termios: Termios) -> Termios {
    termios.local_modes -= LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ISIG;
    termios.local_modes |= LocalModes::ICANON;
    termios.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
    termios
}

fn line(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, PinError> {
    let mut length = 0;
    while length < buffer.len() {
        match rustix::io::read(fd, &mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(failed(errno)),
        }
        match buffer[length - 1] {
            INTERRUPT => return Err(PinError::Interrupted),
            b'\n' => break,
            _ => {}
        }
    }
    Ok(length)
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), PinError> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(())
}

fn failed(errno: Errno) -> PinError {
    PinError::Read(io::Error::from(errno))
}

/// Gives the terminal its settings back on every way out; what was typed too much is thrown away.
struct Restore<'a> {
    fd: BorrowedFd<'a>,
    before: Termios,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(self.fd, OptionalActions::Flush, &self.before);
    }
}

/// The terminal as it is before another process asks for a PIN there, which may be killed with the echo off.
#[derive(Debug)]
pub(crate) struct Echo {
    terminal: OwnedFd,
    before: Termios,
}

impl Echo {
    /// Takes note of the settings of the terminal that a prompt asks on, if there is one.
    pub(crate) fn of_prompt() -> Option<Self> {
        let terminal = PinSource::Prompt.open().ok()?;
        let before = rustix::termios::tcgetattr(&terminal).ok()?;
        Some(Self { terminal, before })
    }

    /// Gives it its settings back.
    pub(crate) fn restore(&self) {
        let _ = rustix::termios::tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};
    use std::os::fd::AsFd;

    use super::*;

    fn text(pin: &Line) -> &str {
        std::str::from_utf8(pin.bytes()).unwrap()
    }

    fn read_back(bytes: &[u8]) -> Result<String, PinError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        pin(file.as_fd(), &PinKind::Stream, "PIN").map(|pin| text(&pin).to_owned())
    }

    #[test]
    fn one_line_end_is_removed_and_no_more() {
        for bytes in [&b"1234"[..], b"1234\n", b"1234\r\n"] {
            assert_eq!(read_back(bytes).unwrap(), "1234");
        }
        assert_eq!(read_back(b" 12 \n").unwrap(), " 12 ");
        for bytes in [
            &b"1234\n\n"[..],
            b"12\n34",
            b"1234\r",
            b"12\0",
            b"\xff\xfe12",
        ] {
            assert!(
                matches!(read_back(bytes), Err(PinError::NotText)),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn an_empty_pin_is_refused() {
        for bytes in [&b""[..], b"\n", b"\r\n"] {
            assert!(
                matches!(read_back(bytes), Err(PinError::Empty)),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn a_pin_of_255_bytes_is_read_and_a_longer_one_refused() {
        let longest = "x".repeat(LONGEST_PIN);
        assert_eq!(read_back(longest.as_bytes()).unwrap(), longest);
        assert_eq!(
            read_back(format!("{longest}\r\n").as_bytes()).unwrap(),
            longest
        );
        for bytes in [
            format!("{longest}x"),
            format!("{longest}x\n"),
            "x".repeat(5000),
        ] {
            assert!(matches!(
                read_back(bytes.as_bytes()),
                Err(PinError::TooLong)
            ));
        }
    }

    #[test]
    fn a_pipe_is_read_to_its_end_and_a_file_can_be_read_twice() {
        let (reader, mut writer) = io::pipe().unwrap();
        std::thread::spawn(move || {
            for part in [&b"12"[..], b"34\n"] {
                writer.write_all(part).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        let read = pin(reader.as_fd(), &PinKind::Stream, "PIN").unwrap();
        assert_eq!(text(&read), "1234");

        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"5678\n").unwrap();
        for _ in 0..2 {
            let read = pin(file.as_fd(), &PinKind::Stream, "PIN").unwrap();
            assert_eq!(text(&read), "5678");
        }
    }

    #[test]
    fn a_prompt_on_something_that_is_no_terminal_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let kind = PinKind::Terminal {
            token: "node".into(),
        };
        assert!(matches!(
            pin(file.as_fd(), &kind, "PIN"),
            Err(PinError::NotATerminal(_))
        ));
    }
}
