//! A private key that was located: its handle, and what is public about it. And the one-key case.

use std::path::Path;

use cryptoki::object::ObjectHandle;

use super::error::TokenError;
use super::module::Module;
use super::session::{Session, Token};
use super::uri::{KeyId, KeyUri};
use super::{KeyKind, verify};
use crate::secret::UserPin;

/// A private key in a token. The handle is good for every session of this process on that token,
/// until a logout or a lost token; then the key has to be located again.
#[derive(Clone, Debug)]
pub struct Key {
    pub(super) handle: ObjectHandle,
    pub(super) kind: KeyKind,
    pub(super) spki_der: Vec<u8>,
    pub(super) label: String,
    pub(super) id: KeyId,
    pub(super) uri: KeyUri,
}

impl Key {
    /// What kind of key it is.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Its public half: DER of a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), built here.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// Its label (CKA_LABEL), for people.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its CKA_ID, which its public key and its certificate share.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// Its full name: token, label and id.
    pub fn uri(&self) -> &KeyUri {
        &self.uri
    }

    pub(super) fn handle(&self) -> ObjectHandle {
        self.handle
    }
}

/// One key with everything that it needs: for a certificate authority and for requests, which sign
/// now and then.
#[derive(Debug)]
pub struct TokenKey {
    session: Session,
    key: Key,
    // Last: the login ends after the session is closed.
    token: Token,
}

impl TokenKey {
    /// Loads the module, logs in, locates the key, puts it through the gate, and has it sign a
    /// random message to prove that it belongs to its public half.
    ///
    /// # Errors
    /// [`TokenError`]; the PIN was tried at most once.
    pub fn open(module: &Path, key: &KeyUri, pin: UserPin) -> Result<Self, TokenError> {
        let wanted = key
            .token()
            .ok_or_else(|| TokenError::Name(key.to_string(), super::uri::UriError::NoToken))?;
        let token = Module::load(module)?.token(&wanted)?;
        token.login(pin)?;
        Self::within(token, key)
    }

    /// The same, in a token that is logged in already.
    ///
    /// # Errors
    /// [`TokenError`], when the key is not there, is refused, or does not prove itself.
    pub fn within(token: Token, key: &KeyUri) -> Result<Self, TokenError> {
        let session = token.session()?;
        let key = session.locate(key)?;
        session
            .gate(&key)?
            .map_err(|faults| TokenError::KeyRefused {
                key: key.uri().to_string(),
                faults,
            })?;
        session.prove(&key)?;
        Ok(Self {
            session,
            key,
            token,
        })
    }

    /// DER of the key's SubjectPublicKeyInfo.
    pub fn spki_der(&self) -> &[u8] {
        self.key.spki_der()
    }

    /// What kind of key it is.
    pub fn kind(&self) -> KeyKind {
        self.key.kind()
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The session it signs in.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The token it is in.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Signs `message` (unhashed) with the first scheme of the key's kind.
    ///
    /// # Errors
    /// See [`Session::sign`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        self.session
            .sign(&self.key, self.key.kind().schemes()[0], message)
    }
}

impl Session {
    /// Has `key` sign a random message in its first scheme and verifies the signature with the
    /// public half: finds a pair that does not belong together, and a token that cannot do what
    /// its mechanism list says, before the first handshake does.
    ///
    /// # Errors
    /// When it does not sign, or the signature is wrong.
    pub fn prove(&self, key: &Key) -> Result<(), TokenError> {
        const PROVING: &str = "proving that the key works";
        let mut nonce = [0; 64];
        aws_lc_rs::rand::fill(&mut nonce)
            .map_err(|error| TokenError::answer(PROVING, format!("no random numbers: {error}")))?;
        let scheme = key.kind().schemes()[0];
        let signature = self.sign(key, scheme, &nonce)?;
        verify(key.spki_der(), scheme, &nonce, &signature).map_err(|error| {
            TokenError::KeyUnusable {
                key: key.uri().to_string(),
                problem: format!("{error}: the private key does not belong to the public key of the same id, or the token signs wrongly"),
            }
        })
    }
}
