//! What was found about a key, for `token list`, for `check`, and for auditors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::token::key::Key;
use crate::token::{KeyKind, KeyUri};

/// What a module says about a key, and what came of trying to get it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEvidence {
    /// The key.
    pub key: KeyUri,
    /// Its kind.
    pub kind: KeyKind,
    /// Its attributes by their names in the specification; `None` where the module does not tell.
    pub attributes: BTreeMap<String, Option<bool>>,
    /// CKA_KEY_GEN_MECHANISM: how it was made, when it was made in the token.
    pub generated_by: Option<String>,
    /// CKA_ALLOWED_MECHANISMS, when the token limits the key.
    pub allowed_mechanisms: Option<Vec<String>>,
    /// Whether the module says CKA_LOCAL of a key that it has just made; `None` when that could not
    /// be tried.
    pub module_sets_local: Option<bool>,
    /// What was tried to get the private value, each with how it was refused.
    pub trials: Vec<Trial>,
    /// What an auditor should know besides.
    pub notes: Vec<String>,
}

/// One try to get a private value out of the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// What was tried: `read CKA_VALUE`, `wrap with CKM_AES_KEY_WRAP_PAD`.
    pub tried: String,
    /// How it was refused: a return code, or that no value was given. A try that succeeds is a
    /// fault, not evidence.
    pub refused: String,
}

impl KeyEvidence {
    pub(super) fn of(key: &Key) -> Self {
        Self {
            key: key.uri().clone(),
            kind: key.kind(),
            attributes: BTreeMap::new(),
            generated_by: None,
            allowed_mechanisms: None,
            module_sets_local: None,
            trials: Vec::new(),
            notes: Vec::new(),
        }
    }
}
