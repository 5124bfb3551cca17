//! Reading the files that a configuration names, after looking at who may change or read them.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::fault::Fault;

/// Who besides its owner may do what with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privacy {
    /// Nobody but owner and group may read it, and only the owner may change it.
    Private,
    /// Anybody may read it; only the owner may change it.
    Public,
}

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
    let mut file = std::fs::File::open(path).map_err(|error| {
        fault(
            format!("cannot open {shown}: {error}"),
            "name an existing file that this user can read".into(),
        )
    })?;
    let metadata = file
        .metadata()
        .map_err(|error| fault(format!("cannot look at {shown}: {error}"), String::new()))?;
    if !metadata.is_file() {
        return Err(fault(
            format!("{shown} is not a file"),
            "name a file".into(),
        ));
    }
    let ourselves = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != ourselves {
        faults.push(fault(
            format!("{shown} belongs to user {}", metadata.uid()),
            format!("it must belong to root or to user {ourselves}: chown it"),
        ));
    }
    let (forbidden, chmod, who) = match privacy {
        Privacy::Private => (
            0o027,
            "chmod u=rw,g=r,o=",
            "others may read it or change it",
        ),
        Privacy::Public => (0o022, "chmod go-w", "others may change it"),
    };
    if metadata.mode() & forbidden != 0 {
        faults.push(fault(
            format!("{shown} has mode {:04o}: {who}", metadata.mode() & 0o7777),
            format!("{chmod} {shown}"),
        ));
    }
    if metadata.len() > MAX_BYTES {
        return Err(fault(
            format!("{shown} is longer than {MAX_BYTES} bytes"),
            String::new(),
        ));
    }
    let mut text = String::new();
    (&mut file)
        .take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| fault(format!("cannot read {shown}: {error}"), String::new()))?;
    Ok(text)
}
