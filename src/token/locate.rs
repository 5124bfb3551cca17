//! Finding the one private key that a name means, and its public half.

use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session as Raw;

use super::attribute;
use super::error::TokenError;
use super::key::Key;
use super::session::Session;
use super::spki::{self, Public};
use super::uri::{KeyId, KeyUri};

/// How many objects are looked at, at most; a token with more of them under one name is refused
/// long before.
const MOST_OBJECTS: usize = 256;

const LOCATING: &str = "locating the key";

/// A private key, before its public half is known.
pub(super) struct Found {
    pub(super) handle: ObjectHandle,
    pub(super) label: String,
    pub(super) id: Vec<u8>,
}

impl Session {
    /// Finds the private key that `wanted` names: exactly one, with exactly one public key of the
    /// same CKA_ID beside it (or, for RSA, its own modulus).
    ///
    /// # Errors
    /// [`TokenError::KeyMissing`] and [`TokenError::KeyDoubled`] list what is there;
    /// [`TokenError::KeyUnusable`] says what is wrong with the key.
    pub fn locate(&self, wanted: &KeyUri) -> Result<Key, TokenError> {
        let wanted = self.within(wanted)?;
        self.guard(|session| {
            let found = exactly_one(session, &wanted)?;
            self.complete(session, found)
        })
    }

    /// Every private key of the token that Fastness can work with, and why not for the others.
    ///
    /// # Errors
    /// When the token cannot list its objects.
    pub fn keys(&self) -> Result<Vec<Result<Key, TokenError>>, TokenError> {
        self.guard(|session| {
            let found = private_keys(session, None)?;
            Ok(found
                .into_iter()
                .map(|found| self.complete(session, found))
                .collect())
        })
    }

    /// `wanted`, said in full for this token.
    pub(super) fn within(&self, wanted: &KeyUri) -> Result<KeyUri, TokenError> {
        wanted
            .within(self.token())
            .map_err(|error| TokenError::Name(wanted.to_string(), error))
    }

    fn complete(&self, session: &Raw, found: Found) -> Result<Key, TokenError> {
        let unusable = |problem: String| TokenError::KeyUnusable {
            key: found.name(),
            problem,
        };
        let id = KeyId::from_bytes(&found.id)
            .map_err(|error| unusable(format!("its CKA_ID does not tell which public key belongs to it ({error}); set one with the vendor's tool")))?;
        if attribute::flag(session, found.handle, AttributeType::AlwaysAuthenticate)? == Some(true)
        {
            return Err(unusable("it asks for the PIN at each signature (CKA_ALWAYS_AUTHENTICATE), which Fastness does not do; generate one without".into()));
        }
        let public = public_half(session, &found, &id)?;
        let public = public.map_err(unusable)?;
        let uri = KeyUri::new(self.token(), &found.label, Some(id.clone()));
        Ok(Key {
            handle: found.handle,
            kind: public.kind,
            spki_der: public.spki_der,
            label: found.label,
            id,
            uri,
        })
    }
}

impl Found {
    /// How messages call it.
    pub(super) fn name(&self) -> String {
        let id: String = self.id.iter().map(|byte| format!("{byte:02x}")).collect();
        format!(
            "\"{}\" (id {})",
            self.label.escape_debug(),
            if id.is_empty() { "none" } else { &id }
        )
    }
}

/// The one private key that `wanted` names.
pub(super) fn exactly_one(session: &Raw, wanted: &KeyUri) -> Result<Found, TokenError> {
    let mut found = private_keys(session, Some(wanted))?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(TokenError::KeyMissing {
            wanted: Box::new(wanted.clone()),
            present: private_keys(session, None)?
                .iter()
                .map(Found::name)
                .collect(),
        }),
        _ => Err(TokenError::KeyDoubled {
            wanted: Box::new(wanted.clone()),
            matching: found.iter().map(Found::name).collect(),
        }),
    }
}

/// The private keys that fit `wanted`, or all of them.
pub(super) fn private_keys(
    session: &Raw,
    wanted: Option<&KeyUri>,
) -> Result<Vec<Found>, TokenError> {
    let mut template = vec![
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Token(true),
    ];
    if let Some(label) = wanted.and_then(KeyUri::label) {
        template.push(Attribute::Label(label.into()));
    }
    if let Some(id) = wanted.and_then(KeyUri::id) {
        template.push(Attribute::Id(id.as_bytes().into()));
    }
    let mut keys = Vec::new();
    for handle in find(session, &template)? {
        let label = attribute::bytes(session, handle, AttributeType::Label)?.unwrap_or_default();
        let id = attribute::bytes(session, handle, AttributeType::Id)?.unwrap_or_default();
        // A module may search loosely; a label that is not UTF-8 has no URI.
        let label = String::from_utf8_lossy(&label).into_owned();
        let fits = wanted.is_none_or(|wanted| {
            wanted.label().is_none_or(|wanted| wanted == label)
                && wanted.id().is_none_or(|wanted| wanted.as_bytes() == id)
        });
        if fits {
            keys.push(Found { handle, label, id });
        }
    }
    Ok(keys)
}

/// Objects that fit `template`, at most [`MOST_OBJECTS`].
pub(super) fn find(session: &Raw, template: &[Attribute]) -> Result<Vec<ObjectHandle>, TokenError> {
    let mut handles = Vec::new();
    for handle in session
        .iter_objects(template)
        .map_err(TokenError::call(LOCATING))?
    {
        handles.push(handle.map_err(TokenError::call(LOCATING))?);
        if handles.len() > MOST_OBJECTS {
            let problem = format!("more than {MOST_OBJECTS} objects of one kind");
            return Err(TokenError::answer(LOCATING, problem));
        }
    }
    Ok(handles)
}

/// The public half of a private key. The inner error says what is wrong with the key.
fn public_half(
    session: &Raw,
    found: &Found,
    id: &KeyId,
) -> Result<Result<Public, String>, TokenError> {
    let Some(key_type) = attribute::key_type(session, found.handle)? else {
        return Ok(Err(
            "its type (CKA_KEY_TYPE) is none that Fastness knows".into()
        ));
    };
    let template = [
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::Token(true),
        Attribute::Id(id.as_bytes().into()),
    ];
    let public = find(session, &template)?;
    let source = match public[..] {
        [one] => {
            if attribute::key_type(session, one)? != Some(key_type) {
                return Ok(Err(format!(
                    "the public key with the same id ({id}) is of another type"
                )));
            }
            one
        }
        // Private RSA keys hold the modulus; for others some modules tell the point.
        [] => found.handle,
        _ => {
            return Ok(Err(format!(
                "{} public keys have the same id ({id})",
                public.len()
            )));
        }
    };
    let read = |attribute| attribute::bytes(session, source, attribute);
    let missing = || {
        "its public key is not in the token (an object of class public key with the same CKA_ID)"
            .to_owned()
    };
    let pair = |one: Option<Vec<u8>>, other: Option<Vec<u8>>| one.zip(other).ok_or_else(missing);
    Ok(match key_type {
        KeyType::RSA => pair(
            read(AttributeType::Modulus)?,
            read(AttributeType::PublicExponent)?,
        )
        .and_then(|(modulus, exponent)| spki::rsa(&modulus, &exponent)),
        KeyType::EC => pair(
            read(AttributeType::EcParams)?,
            read(AttributeType::EcPoint)?,
        )
        .and_then(|(params, point)| spki::ec(&params, &point)),
        KeyType::EC_EDWARDS => pair(
            read(AttributeType::EcParams)?,
            read(AttributeType::EcPoint)?,
        )
        .and_then(|(params, point)| spki::edwards(&params, &point)),
        other => Err(format!(
            "keys of type {other} are not ECDSA, RSA or Ed25519"
        )),
    })
}
