//! What commands ask of a configuration whose node they do not start.

use std::path::{Path, PathBuf};

use super::files::{self, Privacy};
use super::{Aim, Config};
use crate::fault::Fault;
use crate::policy::PeerPolicy;
use crate::role::TlsRole;
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

    /// What is no fault, but surely not meant.
    pub(crate) fn notes(&self) -> Vec<String> {
        let Ok(policy) = PeerPolicy::parse(&self.peers) else {
            return Vec::new();
        };
        if policy.peers().is_empty() {
            return vec![
                "the peer policy lists nobody: no peer can call this node or be called by it"
                    .into(),
            ];
        }
        let peers = policy.peers().iter();
        peers
            .filter(|peer| peer.pins(TlsRole::Server).is_some() && peer.addresses().is_empty())
            .map(|peer| {
                let name = peer.name();
                format!("peer {name} has pins as a server and no address: it is never dialled")
            })
            .collect()
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
