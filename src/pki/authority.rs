//! A certificate authority's folder: what it is, what it has issued, what it has revoked.
//!
//! ```text
//! authority.toml   name, module, key URI: how to find the key
//! ca.pem           the root certificate; its presence says that the authority exists
//! issued.jsonl     one line for each certificate, written before the certificate is handed out
//! revoked.jsonl    one line for each revocation
//! crl-number       number of the last revocation list
//! lock             held by the one command that changes the rest
//! ```
//!
//! No secret is kept here. [`Authority`] reads; only [`Books`], which hold the lock, change
//! anything.

mod books;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::armour::LARGEST;
use super::as_text;
use super::certificate::{self, Built, Issuer, RootOrder};
use super::error::{PkiError, Refusal};
use super::moment::Moment;
use super::names::AuthorityName;
use super::serial::Serial;
use super::signer::Signer;
use super::store::{self, Lock, StoreError};
use crate::policy::{PeerId, SpkiPin};
use crate::role::TlsRole;
use crate::token::KeyUri;

pub use books::Books;

const SETTINGS: &str = "authority.toml";
const ROOT: &str = "ca.pem";
const ISSUED: &str = "issued.jsonl";
const REVOKED: &str = "revoked.jsonl";
const LIST_NUMBER: &str = "crl-number";
/// The records of an authority that has done nothing yet. They are made with it: a record that is
/// missing later has been lost, and a list signed without it would take revocations back.
const FRESH: [(&str, &[u8]); 3] = [(ISSUED, b""), (REVOKED, b""), (LIST_NUMBER, b"0\n")];

/// `authority.toml`: how to find the authority's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The common name in `ca.pem`.
    pub name: AuthorityName,
    /// Path of the PKCS#11 module.
    pub module: PathBuf,
    /// RFC 7512 URI of the key.
    pub key: KeyUri,
}

/// A line of `issued.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// Serial number.
    pub serial: Serial,
    /// The role that the key is certified for.
    pub profile: TlsRole,
    /// The identity.
    #[serde(with = "as_text")]
    pub id: PeerId,
    /// Host names beside it.
    pub dns: Vec<String>,
    /// Addresses beside it.
    pub ip: Vec<std::net::IpAddr>,
    /// End of validity.
    pub not_after: Moment,
    /// Pin of the key.
    #[serde(with = "as_text")]
    pub spki_pin: SpkiPin,
    /// When it was issued.
    pub issued_at: Moment,
}

/// An authority that exists, open for reading.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    settings: Settings,
    issuer: Issuer,
}

impl Authority {
    /// Refuses a folder that has an authority already, or that others may change; call it before asking for
    /// a PIN.
    ///
    /// # Errors
    /// [`Refusal::AuthorityExists`], or [`PkiError::Exposed`].
    pub fn vacant(dir: &Path) -> Result<(), PkiError> {
        ours_alone(dir)?;
        let in_use = |name: &str, fresh: &[u8]| match std::fs::read(dir.join(name)) {
            Ok(bytes) => bytes != fresh,
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        };
        if dir.join(ROOT).symlink_metadata().is_ok()
            || FRESH.iter().any(|(name, bytes)| in_use(name, bytes))
        {
            return Err(Refusal::AuthorityExists {
                dir: dir.display().to_string(),
            }
            .into());
        }
        Ok(())
    }

    /// Makes a new authority in `dir` (made when missing, for its owner only), with a root signed by
    /// `signer`.
    ///
    /// # Errors
    /// [`Refusal::AuthorityExists`], or [`PkiError`] when the token does not sign or a file cannot
    /// be written. After an error there is no authority, and the command can be given again.
    pub fn create(
        dir: &Path,
        settings: Settings,
        signer: &dyn Signer,
        order: &RootOrder,
    ) -> Result<(Self, Built), PkiError> {
        store::folder(dir)?;
        let _lock = Lock::take(dir)?;
        Self::vacant(dir)?;
        let root = certificate::root(signer, order)?;
        let issuer = Issuer::from_bytes(root.pem.as_bytes())?;
        let text = toml::to_string(&settings).map_err(|error| StoreError::Damaged {
            path: dir.join(SETTINGS),
            line: None,
            source: error.into(),
        })?;
        store::replace(&dir.join(SETTINGS), text.as_bytes())?;
        for (name, bytes) in FRESH {
            store::replace(&dir.join(name), bytes)?;
        }
        // Last: from here on the authority exists.
        store::write_new(&dir.join(ROOT), root.pem.as_bytes())?;
        Ok((
            Self {
                dir: dir.to_owned(),
                settings,
                issuer,
            },
            root,
        ))
    }

    /// Opens the authority in `dir` for reading.
    ///
    /// # Errors
    /// When `ca.pem` or `authority.toml` is missing or damaged; [`PkiError::Exposed`] when others may change
    /// them or the records: they say which module is loaded and whose keys are certified.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        ours_alone(dir)?;
        let issuer = Issuer::from_bytes(&store::read_at_most(&dir.join(ROOT), LARGEST)?)?;
        let path = dir.join(SETTINGS);
        let bytes = store::read_at_most(&path, LARGEST)?;
        let settings = std::str::from_utf8(&bytes)
            .map_err(|error| error.to_string())
            .and_then(|text| toml::from_str(text).map_err(|error| error.to_string()))
            .map_err(|error| StoreError::Damaged {
                path,
                line: None,
                source: error.into(),
            })?;
        Ok(Self {
            dir: dir.to_owned(),
            settings,
            issuer,
        })
    }

    /// How to find its key.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The file of its certificate.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join(ROOT)
    }

    /// Its certificate, as issuer.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }
}

/// Refuses a folder in which somebody else than root or we may change anything.
fn ours_alone(dir: &Path) -> Result<(), PkiError> {
    let names = [SETTINGS, ROOT, ISSUED, REVOKED, LIST_NUMBER, store::LOCK];
    match store::exposed(dir, &names)? {
        exposed if exposed.is_empty() => Ok(()),
        exposed => Err(PkiError::Exposed(exposed)),
    }
}

#[cfg(test)]
mod tests;
