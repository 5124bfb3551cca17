//! Reading one attribute so that "the module did not say" cannot be taken for a value.
//!
//! cryptoki hands C_GetAttributeValue a zeroed buffer and takes it back when the module reports an
//! error for *some* attribute without marking which. A module that does this would make us read
//! CKA_EXTRACTABLE as false. So each attribute is asked for alone: first its length, where the
//! return code belongs to it alone, then its value.

use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, KeyType, ObjectHandle};
use cryptoki::session::Session;

use super::error::TokenError;

const READING: &str = "reading an attribute";

/// Longest value that we read, in bytes; an RSA-4096 modulus has 512.
const LONGEST: usize = 8192;

/// A Boolean attribute; `None` when the object has none, or the module does not tell.
pub(super) fn flag(
    session: &Session,
    object: ObjectHandle,
    attribute: AttributeType,
) -> Result<Option<bool>, TokenError> {
    use Attribute as A;
    Ok(match one(session, object, attribute, 1..=1)? {
        Some(
            A::AlwaysAuthenticate(value)
            | A::AlwaysSensitive(value)
            | A::Copyable(value)
            | A::Decapsulate(value)
            | A::Decrypt(value)
            | A::Derive(value)
            | A::Destroyable(value)
            | A::Extractable(value)
            | A::Local(value)
            | A::Modifiable(value)
            | A::NeverExtractable(value)
            | A::Private(value)
            | A::Sensitive(value)
            | A::Sign(value)
            | A::SignRecover(value)
            | A::Token(value)
            | A::Unwrap(value)
            | A::WrapWithTrusted(value),
        ) => Some(value),
        _ => None,
    })
}

/// A byte-string attribute; `None` when the object has none, or the module does not tell.
pub(super) fn bytes(
    session: &Session,
    object: ObjectHandle,
    attribute: AttributeType,
) -> Result<Option<Vec<u8>>, TokenError> {
    use Attribute as A;
    Ok(match one(session, object, attribute, 0..=LONGEST)? {
        Some(
            A::Label(value)
            | A::Id(value)
            | A::Modulus(value)
            | A::PublicExponent(value)
            | A::EcParams(value)
            | A::EcPoint(value),
        ) => Some(value),
        _ => None,
    })
}

/// CKA_KEY_TYPE; `None` when it is one that cryptoki does not know.
pub(super) fn key_type(
    session: &Session,
    object: ObjectHandle,
) -> Result<Option<KeyType>, TokenError> {
    Ok(match one(session, object, AttributeType::KeyType, ULONG)? {
        Some(Attribute::KeyType(key_type)) => Some(key_type),
        _ => None,
    })
}

/// CKA_KEY_GEN_MECHANISM, for the evidence.
pub(super) fn generated_by(
    session: &Session,
    object: ObjectHandle,
) -> Result<Option<MechanismType>, TokenError> {
    Ok(
        match one(session, object, AttributeType::KeyGenMechanism, ULONG)? {
            Some(Attribute::KeyGenMechanism(mechanism)) => Some(mechanism),
            _ => None,
        },
    )
}

/// CKA_ALLOWED_MECHANISMS, for the evidence.
pub(super) fn allowed_mechanisms(
    session: &Session,
    object: ObjectHandle,
) -> Result<Option<Vec<MechanismType>>, TokenError> {
    Ok(
        match one(
            session,
            object,
            AttributeType::AllowedMechanisms,
            0..=LONGEST,
        )? {
            Some(Attribute::AllowedMechanisms(mechanisms)) => Some(mechanisms),
            _ => None,
        },
    )
}

const ULONG: std::ops::RangeInclusive<usize> = 4..=8;

fn one(
    session: &Session,
    object: ObjectHandle,
    attribute: AttributeType,
    lengths: std::ops::RangeInclusive<usize>,
) -> Result<Option<Attribute>, TokenError> {
    let info = session
        .get_attribute_info(object, &[attribute])
        .map_err(TokenError::call(READING))?;
    match info[..] {
        [AttributeInfo::Available(length)] if lengths.contains(&length) => {}
        _ => return Ok(None),
    }
    match session.get_attributes(object, &[attribute]) {
        Ok(mut values) if values.len() == 1 => Ok(values.pop()),
        Ok(_) => Ok(None),
        // A value that cryptoki has no name for (a vendor's mechanism).
        Err(cryptoki::error::Error::NotSupported | cryptoki::error::Error::InvalidValue) => {
            Ok(None)
        }
        Err(error) => Err(TokenError::call(READING)(error)),
    }
}
