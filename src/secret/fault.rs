//! What can be wrong with a PIN or its source. No variant holds a PIN, or text that might be one.

use std::io;
use std::path::PathBuf;

/// A text that names no PIN source. The text itself is not repeated: it may be a PIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinSourceError {
    /// None of the four forms.
    #[error(
        "not a PIN source; write file:PATH, fd:N, credential:NAME or prompt. A PIN itself is not \
         taken here: every user of this host can read a command line, and a configuration is \
         copied and backed up"
    )]
    Unknown,
    /// `file:` without a path.
    #[error("file: needs a path, as in file:/etc/fastness/pin")]
    NoPath,
    /// `fd:` without a usable number.
    #[error(
        "fd: needs the number of an inherited descriptor from 3 up, as in fd:3; 0, 1 and 2 are standard input, output and error"
    )]
    BadDescriptor,
    /// `credential:` without a plain file name.
    #[error(
        "credential: needs the plain name of a systemd credential, as in credential:user-pin, without '/'"
    )]
    BadCredential,
}

/// Why there is no PIN.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// A file, credential, descriptor or terminal could not be opened.
    #[error("cannot open the PIN source {source_name} ({cause})")]
    Open {
        /// The source as it was given.
        source_name: String,
        /// What to do about it.
        mend: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// `credential:` outside a systemd unit.
    #[error(
        "CREDENTIALS_DIRECTORY is not set: credential: works in a systemd unit with LoadCredential= or \
         LoadCredentialEncrypted="
    )]
    NoCredentials,
    /// Not a regular file (a folder, a device).
    #[error("{0} is not a regular file")]
    NotAFile(String),
    /// Someone else owns the file, so that someone else can change the PIN.
    #[error("{} belongs to uid {owner}", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who should own it.
        expected: u32,
    },
    /// Others than the owner can read the file.
    #[error("{} can be read or written by others (mode {mode:04o})", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Nothing to read.
    #[error("the PIN is empty")]
    Empty,
    /// More bytes than a PIN has.
    #[error("more than {} bytes: not a PIN", super::LONGEST_PIN)]
    TooLong,
    /// Not text, or with a NUL or a line end inside.
    #[error("not one line of UTF-8 text without NUL")]
    NotText,
    /// Someone pressed Ctrl-C at the prompt.
    #[error("interrupted at the PIN prompt")]
    Interrupted,
    /// A terminal was expected.
    #[error("the PIN was to be typed, but this is not a terminal ({0})")]
    NotATerminal(io::Error),
    /// No page of memory for it: memfd_secret(2) and mlock(2) were refused.
    #[error("no memory that is kept from others and from swap: {0}")]
    Memory(io::Error),
    /// read(2) or write(2) failed.
    #[error("cannot read the PIN: {0}")]
    Read(io::Error),
}

impl PinError {
    /// What to do about it.
    pub fn mend(&self) -> String {
        match self {
            Self::Open { mend, .. } => (*mend).to_owned(),
            Self::NoCredentials => "from a shell, start the command with systemd-run --pipe -p \
                                    LoadCredentialEncrypted=NAME:FILE"
                .to_owned(),
            Self::NotAFile(_) => "name a regular file".to_owned(),
            Self::Owner { path, expected, .. } => {
                let whom = match expected {
                    0 => "root".to_owned(),
                    uid => format!("uid {uid} or to root"),
                };
                let path = path.display();
                format!("it must belong to {whom}: chown {expected} {path}")
            }
            Self::Mode { path, .. } => format!(
                "chmod 600 {}, and change the PIN if others may have read it",
                path.display()
            ),
            Self::Empty => "write the PIN into its source".to_owned(),
            Self::TooLong => "name the file that has the PIN and nothing else in it".to_owned(),
            Self::NotText => "write the PIN alone, as one line of UTF-8 text".to_owned(),
            Self::Interrupted => "give the command again".to_owned(),
            Self::NotATerminal(_) => {
                "type it on a terminal, or use file:PATH, fd:N or credential:NAME".to_owned()
            }
            Self::Memory(_) => {
                "let it lock 64 KiB (ulimit -l; LimitMEMLOCK= of a systemd unit)".to_owned()
            }
            Self::Read(_) => "see whether this user can read the source".to_owned(),
        }
    }
}
