//! The four places a PIN may come from, and opening them.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{PinError, PinKind, PinSourceError};

/// Where a PIN comes from: `file:PATH`, `fd:N`, `credential:NAME` or `prompt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinSource {
    /// A file that only its owner (we, or root) can read. Not a symbolic link.
    File(PathBuf),
    /// A descriptor inherited from whoever started us, from 3 up: `fastness … --pin fd:3 3<pin`.
    Fd(i32),
    /// A systemd credential (systemd.exec(5), `LoadCredential=`): the file of this name in
    /// `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    /// Someone types it on the controlling terminal.
    Prompt,
}

impl PinSource {
    /// Opens the source and checks it, on the opened descriptor: a regular file, owned by us or
    /// root, readable by nobody else, not empty. The descriptor closes on exec; it may be handed
    /// to another process, which reads it with [`UserPin::read`](super::UserPin::read).
    ///
    /// # Errors
    /// [`PinError`], with what to do about it.
    pub fn open(&self) -> Result<OwnedFd, PinError> {
        match self {
            Self::File(path) => self.open_file(path, Readers::OwnerOnly),
            Self::Fd(number) => self.open_inherited(*number),
            Self::Credential(name) => {
                let folder =
                    std::env::var_os("CREDENTIALS_DIRECTORY").ok_or(PinError::NoCredentials)?;
                self.open_file(&Path::new(&folder).join(name), Readers::SystemdCredential)
            }
            Self::Prompt => rustix::fs::open(
                "/dev/tty",
                OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY,
                Mode::empty(),
            )
            .map_err(|errno| {
                self.cannot_open(
                    errno,
                    "no terminal to ask on; use file:PATH, fd:N or credential:NAME",
                )
            }),
        }
    }

    /// The same source, a relative path taken from `folder`.
    #[must_use]
    pub fn relative_to(self, folder: &Path) -> Self {
        match self {
            Self::File(path) => Self::File(folder.join(path)),
            other => other,
        }
    }

    /// How the descriptor of [`open`](Self::open) is to be read; a prompt names `token`.
    pub fn kind(&self, token: &str) -> PinKind {
        match self {
            Self::File(_) | Self::Fd(_) | Self::Credential(_) => PinKind::Stream,
            Self::Prompt => PinKind::Terminal {
                token: token.to_owned(),
            },
        }
    }

    fn open_file(&self, path: &Path, readers: Readers) -> Result<OwnedFd, PinError> {
        // NONBLOCK: opening a FIFO without a writer would hang before we see that it is one.
        let flags =
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::LOOP => self.cannot_open(
                errno,
                "a symbolic link is not followed; name the file itself",
            ),
            _ => self.cannot_open(errno, "the file must exist and be readable by this user"),
        })?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| PinError::Read(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(PinError::NotAFile(self.to_string()));
        }
        check_file(path, &stat, readers)?;
        Ok(fd)
    }

    /// A copy of the inherited descriptor. `BorrowedFd::borrow_raw` would be unsafe, so the copy is
    /// asked of the kernel: pidfd_getfd(2), or opening /proc/self/fd/N where that is not allowed.
    fn open_inherited(&self, number: i32) -> Result<OwnedFd, PinError> {
        let copied = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
            .and_then(|own| rustix::process::pidfd_getfd(own, number, PidfdGetfdFlags::empty()));
        let fd = match copied {
            Ok(fd) => fd,
            Err(_) => rustix::fs::open(
                format!("/proc/self/fd/{number}"),
                OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY,
                Mode::empty(),
            )
            .map_err(|errno| self.cannot_open(errno, "no such descriptor was inherited"))?,
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| PinError::Read(errno.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            // A memfd or an unlinked file has no name by which others could open it.
            FileType::RegularFile if stat.st_nlink == 0 => {
                if stat.st_size == 0 {
                    return Err(PinError::Empty);
                }
            }
            FileType::RegularFile => {
                check_file(Path::new(&self.to_string()), &stat, Readers::OwnerOnly)?;
            }
            FileType::Fifo | FileType::Socket => {}
            _ => return Err(PinError::NotAFile(self.to_string())),
        }
        Ok(fd)
    }

    fn cannot_open(&self, errno: Errno, mend: &'static str) -> PinError {
        // What is there is surely a name; what is not may be the PIN itself (`file:1234`).
        let is_there = matches!(errno, Errno::ACCESS | Errno::PERM | Errno::LOOP);
        PinError::Open {
            source_name: if is_there {
                self.to_string()
            } else {
                self.without_its_name()
            },
            mend,
            cause: io::Error::from(errno),
        }
    }

    /// What kind of source it is, and a file's folder.
    fn without_its_name(&self) -> String {
        match self {
            Self::File(path) => {
                let folder = path.parent().unwrap_or(Path::new(""));
                format!("file:{}", folder.join("…").display())
            }
            // No PIN is so short.
            Self::Fd(number @ ..1000) => format!("fd:{number}"),
            Self::Fd(_) => "fd:…".into(),
            Self::Credential(_) => "credential:…".into(),
            Self::Prompt => self.to_string(),
        }
    }
}

/// Who besides the owner may have a permission bit.
#[derive(Clone, Copy)]
enum Readers {
    OwnerOnly,
    /// systemd gives the unit's user access through an ACL; its mask then shows as group bits
    /// (mode 0440, owner root), and the folder keeps everybody else out.
    SystemdCredential,
}

fn check_file(path: &Path, stat: &Stat, readers: Readers) -> Result<(), PinError> {
    let expected = rustix::process::geteuid().as_raw();
    if stat.st_uid != expected && stat.st_uid != 0 {
        return Err(PinError::Owner {
            path: path.to_owned(),
            owner: stat.st_uid,
            expected,
        });
    }
    let forbidden = match readers {
        Readers::OwnerOnly => 0o077,
        Readers::SystemdCredential => 0o037,
    };
    if stat.st_mode & forbidden != 0 {
        return Err(PinError::Mode {
            path: path.to_owned(),
            mode: stat.st_mode & 0o7777,
        });
    }
    if stat.st_size == 0 {
        return Err(PinError::Empty);
    }
    Ok(())
}

impl FromStr for PinSource {
    type Err = PinSourceError;

    fn from_str(text: &str) -> Result<Self, PinSourceError> {
        if text == "prompt" {
            return Ok(Self::Prompt);
        }
        match text.split_once(':') {
            Some(("file", "")) => Err(PinSourceError::NoPath),
            Some(("file", path)) if path.contains('\0') => Err(PinSourceError::NoPath),
            Some(("file", path)) => Ok(Self::File(path.into())),
            Some(("fd", number)) => match number.parse() {
                // `parse` alone would take "+3".
                Ok(number) if number > 2 && text.as_bytes()[3].is_ascii_digit() => {
                    Ok(Self::Fd(number))
                }
                _ => Err(PinSourceError::BadDescriptor),
            },
            Some(("credential", name)) => {
                let plain = !name.is_empty()
                    && name.len() <= 255
                    && name != "."
                    && name != ".."
                    && !name.contains(['/', '\0']);
                if plain {
                    Ok(Self::Credential(name.into()))
                } else {
                    Err(PinSourceError::BadCredential)
                }
            }
            _ => Err(PinSourceError::Unknown),
        }
    }
}

impl fmt::Display for PinSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Fd(number) => write!(f, "fd:{number}"),
            Self::Credential(name) => write!(f, "credential:{name}"),
            Self::Prompt => f.write_str("prompt"),
        }
    }
}

impl Serialize for PinSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PinSource {
    /// By hand: a derived error ("invalid type: integer `1234`") would repeat the value.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = PinSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a PIN source")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PinSource, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<PinSource, E> {
                Err(E::custom(PinSourceError::Unknown))
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<PinSource, E> {
                Err(E::custom(PinSourceError::Unknown))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<PinSource, E> {
                Err(E::custom(PinSourceError::Unknown))
            }

            fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<PinSource, E> {
                Err(E::custom(PinSourceError::Unknown))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::secret::UserPin;

    fn pin_file(folder: &Path, content: &str, mode: u32) -> PathBuf {
        let path = folder.join("pin");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn the_four_forms_are_read_and_written_back() {
        for text in [
            "file:/etc/pin",
            "file:rel:ative",
            "fd:3",
            "credential:user-pin",
            "prompt",
        ] {
            assert_eq!(text.parse::<PinSource>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_bare_pin_is_refused_and_never_repeated() {
        for text in [
            "271828",
            "prompt ",
            "pin:271828",
            "env:271828",
            "fd:271828x",
            "credential:/271828",
            "",
        ] {
            let error = text.parse::<PinSource>().unwrap_err();
            assert!(!error.to_string().contains("271828"), "{error}");
        }
        for json in [
            "\"271828\"",
            "271828",
            "2718.28",
            "[271828]",
            "{\"pin\":\"271828\"}",
        ] {
            let error = serde_json::from_str::<PinSource>(json).unwrap_err();
            assert!(!error.to_string().contains("2718"), "{error}");
        }
    }

    #[test]
    fn standard_descriptors_and_odd_names_are_refused() {
        for text in [
            "fd:0",
            "fd:2",
            "fd:-1",
            "fd:+3",
            "fd:",
            "credential:",
            "credential:..",
            "file:",
        ] {
            assert!(text.parse::<PinSource>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_that_only_its_owner_reads_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let source = PinSource::File(pin_file(folder.path(), "1234\n", 0o600));
        assert!(UserPin::read(source.open().unwrap(), source.kind("t")).is_ok());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_mend() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o644, 0o640, 0o604, 0o620, 0o601] {
            let error = PinSource::File(pin_file(folder.path(), "1234\n", mode))
                .open()
                .unwrap_err();
            assert!(matches!(error, PinError::Mode { .. }));
            assert!(error.mend().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn an_empty_file_a_symbolic_link_a_folder_and_a_missing_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = pin_file(folder.path(), "", 0o600);
        assert!(matches!(
            PinSource::File(path.clone()).open(),
            Err(PinError::Empty)
        ));
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        let error = PinSource::File(link).open().unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        let error = PinSource::File(folder.path().into()).open().unwrap_err();
        assert!(matches!(error, PinError::NotAFile(_)));
        let error = PinSource::File(folder.path().join("none"))
            .open()
            .unwrap_err();
        assert!(matches!(error, PinError::Open { .. }));
    }

    #[test]
    fn a_descriptor_is_copied_and_a_missing_or_public_one_refused() {
        use std::os::fd::AsRawFd;
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::open(pin_file(folder.path(), "1234\n", 0o600)).unwrap();
        let source = PinSource::Fd(file.as_raw_fd());
        for _ in 0..2 {
            assert!(UserPin::read(source.open().unwrap(), PinKind::Stream).is_ok());
        }
        assert!(matches!(
            PinSource::Fd(987_654).open(),
            Err(PinError::Open { .. })
        ));
        let file = std::fs::File::open(pin_file(folder.path(), "1234\n", 0o644)).unwrap();
        assert!(matches!(
            PinSource::Fd(file.as_raw_fd()).open(),
            Err(PinError::Mode { .. })
        ));
    }
}
