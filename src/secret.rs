//! The user PIN and the SO PIN, and where they come from.
//!
//! A PIN is read with read(2) straight into a page of its own (memfd_secret(2), which not even root
//! reads from outside), handed to the token from there, wiped and unmapped. No copy of it is made. It
//! is never on a command line, in the environment or in a configuration file: those are readable by
//! others, or stay in memory.

mod fault;
mod read;
mod source;

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use fastness_secret_page::Page;
use secrecy::{ExposeSecret, SecretBox};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

pub use fault::{PinError, PinSourceError};
pub(crate) use read::Echo;
pub use read::LONGEST_PIN;
pub use source::PinSource;

/// What kind of descriptor a PIN is read from. It travels next to a descriptor that was handed to
/// another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinKind {
    /// A file or a pipe: the PIN is all of it, but for one final line end.
    Stream,
    /// A terminal: someone is asked to type the PIN, without echo.
    Terminal {
        /// The token that the question names.
        token: String,
    },
}

/// The PIN of a token's user. Shows nothing, is not copied, is wiped when dropped.
///
/// ```compile_fail,E0277
/// fn copied<T: Clone>() {}
/// copied::<fastness::secret::UserPin>();
/// ```
/// ```compile_fail,E0277
/// fn written<T: serde::Serialize>() {}
/// written::<fastness::secret::UserPin>();
/// ```
/// ```compile_fail,E0277
/// fn read<T: serde::de::DeserializeOwned>() {}
/// read::<fastness::secret::UserPin>();
/// ```
#[derive(Debug)]
pub struct UserPin(SecretBox<Line>);

/// The PIN of a token's security officer, needed only to initialise a token. Like [`UserPin`].
#[derive(Debug)]
pub struct SoPin(SecretBox<Line>);

/// One line in a page of its own.
struct Line {
    page: Page,
    length: usize,
}

impl Line {
    fn bytes(&self) -> &[u8] {
        &self.page.bytes()[..self.length]
    }
}

impl Zeroize for Line {
    fn zeroize(&mut self) {
        self.page.bytes_mut().zeroize();
        self.length.zeroize();
    }
}

impl UserPin {
    /// Reads the user PIN from `fd`: at most [`LONGEST_PIN`] bytes of UTF-8 without NUL, one final
    /// line end removed. A regular file is read from its start, so it can be read again. Where there
    /// is no memfd_secret(2), the log says so, and the PIN is in memory that is locked.
    ///
    /// # Errors
    /// [`PinError`]; it never holds what was read.
    pub fn read(fd: impl AsFd, kind: PinKind) -> Result<Self, PinError> {
        read::pin(fd.as_fd(), &kind, "User PIN").map(|line| Self(SecretBox::new(Box::new(line))))
    }

    /// Whether both are the same PIN (for "type it again"). The comparison's time tells nothing
    /// but whether the lengths are equal.
    pub fn matches(&self, other: &Self) -> bool {
        same(&self.0, &other.0)
    }

    /// The PIN, for a login. The token room is the only caller.
    pub(crate) fn expose_for_login(&self) -> &[u8] {
        self.0.expose_secret().bytes()
    }

    /// The PIN in a pipe whose other end is closed, for the process that is handed it.
    pub(crate) fn into_pipe(self) -> io::Result<OwnedFd> {
        let (reader, mut writer) = io::pipe()?;
        // Shorter than what a pipe takes without waiting (pipe(7)).
        writer.write_all(self.0.expose_secret().bytes())?;
        Ok(reader.into())
    }
}

impl SoPin {
    /// Reads the SO PIN; see [`UserPin::read`].
    ///
    /// # Errors
    /// [`PinError`]; it never holds what was read.
    pub fn read(fd: impl AsFd, kind: PinKind) -> Result<Self, PinError> {
        read::pin(fd.as_fd(), &kind, "SO PIN").map(|line| Self(SecretBox::new(Box::new(line))))
    }

    /// Whether both are the same PIN; see [`UserPin::matches`].
    pub fn matches(&self, other: &Self) -> bool {
        same(&self.0, &other.0)
    }

    /// Whether the user has this PIN too, and so all that the security officer may do.
    pub fn is_also(&self, user: &UserPin) -> bool {
        same(&self.0, &user.0)
    }

    /// The PIN, for a login. The token room is the only caller.
    pub(crate) fn expose_for_login(&self) -> &[u8] {
        self.0.expose_secret().bytes()
    }
}

fn same(one: &SecretBox<Line>, other: &SecretBox<Line>) -> bool {
    let [one, other] = [one, other].map(|pin| pin.expose_secret().bytes());
    one.ct_eq(other).into()
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    #[test]
    fn nothing_of_a_pin_is_shown() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"8421357690").unwrap();
        file.rewind().unwrap();
        let user = UserPin::read(&file, PinKind::Stream).unwrap();
        assert_eq!(user.0.expose_secret().bytes(), b"8421357690");
        let officer = SoPin::read(&file, PinKind::Stream).unwrap();
        for shown in [
            format!("{user:?} {user:#?}"),
            format!("{officer:?} {officer:#?}"),
        ] {
            let digits = shown.bytes().filter(u8::is_ascii_digit).count();
            assert_eq!(digits, 0, "{shown}");
        }
    }
}
