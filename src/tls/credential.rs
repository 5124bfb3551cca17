//! A certificate chain and the token key behind it.

use std::fmt;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use super::generation::Generation;
use super::own_chain::{CredentialError, OwnChain};
use super::signing::{SignatureRecord, TokenSigningKey};
use crate::keeper::ask::{AskError, Asker};
use crate::keeper::message::KeyIndex;
use crate::keeper::purpose;
use crate::policy::EndEntity;
use crate::role::TlsRole;
use crate::token::KeyKind;

/// A private key inside a token, as seen from the process that may only ask for its signatures.
#[derive(Clone)]
pub struct TokenKey {
    /// Which of the keeper's keys it is.
    pub index: KeyIndex,
    /// What kind of key it is.
    pub kind: KeyKind,
    /// Its public key as the token tells it: a DER `SubjectPublicKeyInfo`.
    pub spki: Vec<u8>,
    /// Label of its token.
    pub token: Arc<str>,
    /// Whom to ask for signatures.
    pub asker: Arc<Asker>,
}

impl TokenKey {
    /// Has the token make a signature that nobody waits for, as the key of `role`. Blocks: call it from
    /// the lane.
    pub(super) fn prove(&self, role: TlsRole) -> Result<(), AskError> {
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce)
            .expect("the system's random numbers never fail after boot");
        let (scheme, input) = (self.kind.schemes()[0], purpose::probe(role, nonce));
        self.asker
            .sign(self.index, &self.spki, scheme, &input)
            .map(drop)
    }
}

impl Generation {
    /// A key that `asker` is asked for, and its role.
    pub(super) fn key_of(&self, asker: &Arc<Asker>) -> Option<(TokenKey, TlsRole)> {
        let credentials = self.servers.iter().chain(&self.clients);
        credentials
            .flat_map(|credential| credential.keys.iter().map(|key| (key, credential.role())))
            .find(|(key, _)| Arc::ptr_eq(&key.asker, asker))
            .map(|(key, role)| (key.clone(), role))
    }
}

/// What one side of a handshake presents: a certificate chain that belongs to a token key.
#[derive(Clone)]
pub struct Credential {
    own: OwnChain,
    /// The key, in each token that holds it, in the order of preference.
    pub(super) keys: Arc<[TokenKey]>,
}

impl Credential {
    /// A credential of the PEM text `chain` (end entity first, RFC 8446 §4.4.2) and `key`.
    ///
    /// # Errors
    /// [`CredentialError`]: chain and key must belong together and to `role`.
    pub fn new(role: TlsRole, chain: &str, key: TokenKey) -> Result<Self, CredentialError> {
        let credential = Self {
            own: OwnChain::read(role, chain)?,
            keys: [key].into(),
        };
        // `CertifiedKey::new` compares nothing; "unknown" is an error of this call too.
        let certified = credential.certified(SignatureRecord::unused());
        certified.keys_match().map_err(CredentialError::OtherKey)?;
        Ok(credential)
    }

    /// The same credential with `key` as a further place of its key; `None` when that is another
    /// key.
    #[must_use]
    pub fn with_replica(&self, key: TokenKey) -> Option<Self> {
        let same = self
            .keys
            .iter()
            .all(|known| known.spki == key.spki && known.kind == key.kind);
        same.then(|| Self {
            keys: self.keys.iter().cloned().chain([key]).collect(),
            ..self.clone()
        })
    }

    /// Whether one of its tokens signs.
    pub fn is_usable(&self) -> bool {
        self.keys.iter().any(|key| key.asker.is_usable())
    }

    /// Whether none of its tokens can be asked.
    pub fn is_gone(&self) -> bool {
        self.keys.iter().all(|key| key.asker.is_gone())
    }

    /// The role that it is for.
    pub fn role(&self) -> TlsRole {
        self.own.role
    }

    /// Its end entity certificate: our own identity, pin and end of validity.
    pub fn end_entity(&self) -> &EndEntity {
        &self.own.end_entity
    }

    /// What rustls wants, for one handshake: the signature is noted in `record`.
    pub(super) fn certified(&self, record: Arc<SignatureRecord>) -> CertifiedKey {
        let key = TokenSigningKey::new(self.keys.clone(), record);
        self.own.with_key(Arc::new(key))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Credential({} as {}, {})",
            self.own.end_entity.id(),
            self.own.role,
            self.keys[0].kind
        )
    }
}
