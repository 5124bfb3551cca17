//! The module: loaded once, initialised once, finalised when nothing uses it any more.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::slot::Slot;
use fastness_secret_page::PinCalls;

use super::error::{ModuleFault, ReturnCode, TokenError};
use super::heal::{self, Action, Doing};
use super::info::TokenInfo;
use super::session::Token;
use super::uri::TokenUri;
use crate::ownership::Exposed;

/// How often C_Finalize and C_Initialize are tried in turn, and the pause between. SoftHSM rewrites
/// `token.object` at each login, so of several programs that start at once one may read half of it.
pub(super) const RESTARTS: u32 = 4;
pub(super) const RESTART_PAUSE: Duration = Duration::from_millis(25);

/// The file behind `path`, which nobody but root and this user may change or replace.
fn only_ours(path: &Path) -> Result<PathBuf, ModuleFault> {
    let unreadable = ModuleFault::Unreadable;
    let library = path.canonicalize().map_err(unreadable)?;
    let metadata = std::fs::metadata(&library).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(ModuleFault::NotAFile);
    }
    let way = Exposed::on_the_way(&library).map_err(unreadable)?;
    let exposed = Exposed::of(&library, &metadata).into_iter().chain(way);
    exposed
        .map(ModuleFault::Exposed)
        .next()
        .map_or(Ok(library), Err)
}

/// A PKCS#11 module, initialised with OS locking. PKCS#11 state belongs to the process: load a
/// module once.
#[derive(Debug)]
pub struct Module {
    pub(super) loaded: Arc<Loaded>,
}

/// What the module, its tokens and their sessions share; C_Finalize runs when the last of them is
/// gone, so that no thread can be signing at that time (SoftHSM would crash).
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) pkcs11: Pkcs11,
    /// The calls that take a PIN: cryptoki's would need a copy of it.
    pub(super) pin_calls: PinCalls,
    path: PathBuf,
    /// How many sessions are open, being opened or being closed. Held while the module is restarted or
    /// ended, so that it is never finalised under a session: another thread may be signing in it.
    sessions: Mutex<usize>,
}

/// An open session; closed when dropped.
#[derive(Debug)]
pub(super) struct Open {
    /// There once it is open, until it is dropped.
    raw: Option<cryptoki::session::Session>,
    pub(super) loaded: Arc<Loaded>,
}

/// What a session may do.
#[derive(Clone, Copy)]
pub(super) enum Access {
    ReadOnly,
    ReadWrite,
}

impl Module {
    /// Loads the module at `path` (absolute, a regular file or a link to one) and initialises it.
    ///
    /// # Errors
    /// [`TokenError::Module`], saying whether the path, the library or its initialisation is at
    /// fault.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let blame = |fault| TokenError::Module {
            path: path.to_owned(),
            fault,
        };
        if !path.is_absolute() {
            return Err(blame(ModuleFault::NotAbsolute));
        }
        let library = only_ours(path).map_err(blame)?;
        let pkcs11 = Pkcs11::new(&library).map_err(|error| {
            blame(match error {
                Error::MissingSymbol(_) => ModuleFault::NotPkcs11,
                Error::LibraryLoading(_) => ModuleFault::NotALibrary(error),
                other => ModuleFault::Other(other),
            })
        })?;
        let pin_calls =
            PinCalls::of(&library).map_err(|error| blame(ModuleFault::NoPinCalls(error)))?;
        let loaded = Loaded {
            pkcs11,
            pin_calls,
            path: path.to_owned(),
            sessions: Mutex::new(0),
        };
        loaded.initialise_patiently()?;
        Ok(Self {
            loaded: Arc::new(loaded),
        })
    }

    /// The tokens that are there, initialised or not. A slot that fails is left out: it may have
    /// nothing to do with us.
    ///
    /// # Errors
    /// When the module cannot list its slots at all.
    pub fn tokens(&self) -> Result<Vec<TokenInfo>, TokenError> {
        Ok(self
            .loaded
            .tokens()?
            .into_iter()
            .map(|(_, info)| info)
            .collect())
    }

    /// The one token that `wanted` names.
    ///
    /// # Errors
    /// [`TokenError::TokenMissing`] or [`TokenError::TokenDoubled`], listing what is there.
    pub fn token(&self, wanted: &TokenUri) -> Result<Token, TokenError> {
        let mut found = self.loaded.find(wanted);
        for _ in 0..RESTARTS {
            let again = match &found {
                Ok((_, info)) => info.may_be_half_read(),
                Err(error) => heal::after(error, Doing::Starting) == Action::Restart,
            };
            if !again || !self.loaded.restart()? {
                break;
            }
            found = self.loaded.find(wanted);
        }
        let (slot, info) = found?;
        Ok(Token::new(self.loaded.clone(), slot, info))
    }

    /// Finalises the module (C_Finalize), so that another process or a later load starts clean.
    /// Dropping it does the same without telling of errors.
    ///
    /// # Errors
    /// When tokens or sessions of it are still in use, or C_Finalize fails.
    pub fn finalize(self) -> Result<(), TokenError> {
        if Arc::strong_count(&self.loaded) > 1 {
            return Err(TokenError::Module {
                path: self.loaded.path.clone(),
                fault: ModuleFault::InUse,
            });
        }
        self.loaded
            .pkcs11
            .clone()
            .finalize()
            .map_err(TokenError::call("finalising the module"))
    }

    /// The path it was loaded from.
    pub fn path(&self) -> &Path {
        &self.loaded.path
    }
}

impl Loaded {
    /// Tokens with the slots they are in now.
    pub(super) fn tokens(&self) -> Result<Vec<(Slot, TokenInfo)>, TokenError> {
        let slots = self
            .pkcs11
            .get_slots_with_token()
            .map_err(TokenError::call("listing slots"))?;
        let info = |slot| Some((slot, TokenInfo::of(&self.pkcs11.get_token_info(slot).ok()?)));
        Ok(slots.into_iter().filter_map(info).collect())
    }

    pub(super) fn find(&self, wanted: &TokenUri) -> Result<(Slot, TokenInfo), TokenError> {
        let tokens = self.tokens()?;
        let uris =
            |tokens: &[(Slot, TokenInfo)]| tokens.iter().map(|(_, info)| info.name()).collect();
        let mut matching: Vec<_> = tokens
            .iter()
            .filter(|(_, info)| info.is(wanted))
            .cloned()
            .collect();
        match matching.len() {
            1 => Ok(matching.remove(0)),
            0 => Err(TokenError::TokenMissing {
                wanted: Box::new(wanted.clone()),
                present: uris(&tokens),
            }),
            _ => Err(TokenError::TokenDoubled {
                wanted: Box::new(wanted.clone()),
                matching: uris(&matching),
            }),
        }
    }

    /// C_Finalize and C_Initialize, unless a session is open; says whether it was done.
    pub(super) fn restart(&self) -> Result<bool, TokenError> {
        let sessions = self.sessions();
        if *sessions > 0 {
            return Ok(false);
        }
        std::thread::sleep(RESTART_PAUSE);
        // A module that forgot its state says CRYPTOKI_NOT_INITIALIZED: what we want anyway.
        let _ = self.pkcs11.clone().finalize();
        self.initialise_patiently()?;
        Ok(true)
    }

    /// C_Finalize, unless a session is open.
    pub(super) fn end(&self) -> Result<(), TokenError> {
        let sessions = self.sessions();
        if *sessions > 0 {
            return Err(TokenError::Module {
                path: self.path.clone(),
                fault: ModuleFault::InUse,
            });
        }
        let ended = self.pkcs11.clone().finalize();
        ended.map_err(TokenError::call("finalising the module"))
    }

    fn sessions(&self) -> MutexGuard<'_, usize> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn initialise_patiently(&self) -> Result<(), TokenError> {
        let mut tries = 0;
        loop {
            let args = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
            let fault = match self.pkcs11.initialize(args) {
                Ok(()) => return Ok(()),
                Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => ModuleFault::InUse,
                Err(Error::Pkcs11(..)) if tries < RESTARTS => {
                    tries += 1;
                    std::thread::sleep(RESTART_PAUSE);
                    continue;
                }
                Err(Error::Pkcs11(code, _)) => ModuleFault::Initialise(ReturnCode(code)),
                Err(other) => ModuleFault::Other(other),
            };
            return Err(TokenError::Module {
                path: self.path.clone(),
                fault,
            });
        }
    }
}

impl Open {
    pub(super) fn new(
        loaded: &Arc<Loaded>,
        slot: Slot,
        access: Access,
    ) -> Result<Self, TokenError> {
        // It counts from before the call until after its end, and nothing is held in the call: it may hang.
        *loaded.sessions() += 1;
        let mut open = Self {
            raw: None,
            loaded: loaded.clone(),
        };
        let raw = match access {
            Access::ReadOnly => loaded.pkcs11.open_ro_session(slot),
            Access::ReadWrite => loaded.pkcs11.open_rw_session(slot),
        };
        open.raw = Some(raw.map_err(TokenError::call("opening a session"))?);
        Ok(open)
    }

    pub(super) fn raw(&self) -> &cryptoki::session::Session {
        self.raw
            .as_ref()
            .expect("`new` puts it there, only `drop` takes it")
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.raw = None;
        *self.loaded.sessions() -= 1;
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // Finalised already, or never initialised: the answer changes nothing.
        let _ = self.pkcs11.clone().finalize();
    }
}
