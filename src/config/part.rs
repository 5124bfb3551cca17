//! What commands ask of a configuration whose node they do not start.

use std::path::{Path, PathBuf};

use super::files::{self, Privacy};
use super::{Aim, Config};
use crate::fault::Fault;
use crate::toml_faults;

impl Config {
    /// What `file` says of the processes of its node: without its keys, the sources of its PINs and the
    /// addresses of its peers' names, which an auditor need not have and time changes.
    pub(crate) fn load_to_show(file: &Path) -> Result<Self, Vec<Fault>> {
        match Self::read(file, Aim::Show) {
            (Some(config), faults) if faults.is_empty() => Ok(config),
            (_, faults) => Err(faults),
        }
    }

    /// The admin socket that `file` names, without checking the rest of it.
    pub(crate) fn admin_socket(file: &Path) -> Result<PathBuf, Vec<Fault>> {
        #[derive(serde::Deserialize)]
        struct Spec {
            admin: Option<PathBuf>,
        }
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let shown = file.display().to_string();
        // Only the socket's place is wanted here; `check` says what is wrong with the file.
        let text = files::read(&file, Privacy::Private, "", &mut Vec::new())
            .map_err(|fault| vec![fault.in_file(&*shown)])?;
        let spec: Spec = toml_faults::parse(&text, &shown)?;
        let folder = file.parent().unwrap_or(Path::new("/"));
        Ok(folder.join(spec.admin.unwrap_or_else(|| "admin.sock".into())))
    }
}
