//! Reading the files that a configuration names, after looking at who may change or read them.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::fault::Fault;
use crate::ownership::Exposed;

/// Who besides its owner may do what with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privacy {
    /// Nobody but owner and group may read it, and only the owner may change it.
    Private,
    /// Anybody may read it; only the owner may change it.
    Public,
}

/// How a certificate in DER begins: SEQUENCE (X.690 §8.9).
const DER_SEQUENCE: u8 = 0x30;
/// What nobody but owner and group may read, and only the owner may change, has none of these bits.
const PRIVATE: u32 = 0o027;
/// A file is at most so long: the peer policy's bound.
const MAX_BYTES: u64 = 4 << 20;

/// Reads `path` whole, as UTF-8. What is wrong with its owner or mode goes to `faults`, and the text
/// is still returned, to find what else is wrong. The checks are made on the opened file, so it
/// cannot be changed for another in between.
pub(super) fn read(
    path: &Path,
    privacy: Privacy,
    key: &str,
    faults: &mut Vec<Fault>,
) -> Result<String, Fault> {
    let shown = path.display();
    let fault = |problem: String, mend: String| Fault::new(key, problem, mend);
    let mut file = open(path).map_err(|error| cannot_open(path, key, &error))?;
    let metadata = file
        .metadata()
        .map_err(|error| fault(format!("cannot look at {shown}: {error}"), String::new()))?;
    if !metadata.is_file() {
        return Err(fault(
            format!("{shown} is not a regular file"),
            "name a file".into(),
        ));
    }
    for exposed in Exposed::of(path, &metadata) {
        // Who may read it is said together with who may change it.
        if privacy == Privacy::Public || !matches!(exposed, Exposed::Mode { .. }) {
            faults.push(fault(exposed.to_string(), exposed.mend()));
        }
    }
    if privacy == Privacy::Private && metadata.mode() & PRIVATE != 0 {
        let mode = metadata.mode() & 0o7777;
        faults.push(fault(
            format!("{shown} has mode {mode:04o}: others may read it or change it"),
            format!("chmod u=rw,g=r,o= {shown}"),
        ));
    }
    if metadata.len() > MAX_BYTES {
        return Err(fault(
            format!("{shown} is longer than {MAX_BYTES} bytes"),
            "name another file: what is wanted here is much shorter".into(),
        ));
    }
    let mut bytes = Vec::new();
    let read = (&mut file).take(MAX_BYTES).read_to_end(&mut bytes);
    read.map_err(|error| {
        let mend = "see whether the disk is well, or name another file";
        fault(format!("cannot read {shown}: {error}"), mend.into())
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let mend = match error.as_bytes().first() {
            Some(&DER_SEQUENCE) => format!(
                "certificates are PEM text here: openssl x509 -inform DER -in {shown} -out {shown}.pem"
            ),
            _ => "save it as UTF-8, or name another file".to_owned(),
        };
        fault(format!("{shown} is not UTF-8 text"), mend)
    })
}

/// The same of a file that decides what the roles may do, and its whole path: nobody but root and we
/// may change it or a folder on the way to it, so nobody can put another in its place.
pub(super) fn read_administrators(
    path: &Path,
    key: &str,
    faults: &mut Vec<Fault>,
) -> Result<(PathBuf, String), Fault> {
    let path = path
        .canonicalize()
        .map_err(|error| cannot_open(path, key, &error))?;
    let exposed = Exposed::on_the_way(&path).map_err(|error| cannot_open(&path, key, &error))?;
    for exposed in exposed {
        faults.push(Fault::new(key, exposed.to_string(), exposed.mend()));
    }
    let text = read(&path, Privacy::Public, key, faults)?;
    Ok((path, text))
}

/// Opens `path`, whatever it is, without waiting: a FIFO would, for whoever writes into it.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

fn cannot_open(path: &Path, key: &str, error: &std::io::Error) -> Fault {
    Fault::new(
        key,
        format!("cannot open {}: {error}", path.display()),
        "name an existing file that this user can read",
    )
}
