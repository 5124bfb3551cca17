//! Trying to get the key out: reading its private values, and wrapping it with a fresh AES key.
//!
//! Each try has a session of its own, since a failed call may leave a session unusable. Where the token
//! has no session to spare the tries share the one that is there: that it still works is shown by
//! the signatures that are asked of it next.

use cryptoki::error::Error;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{
    Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass, ObjectHandle,
};
use zeroize::Zeroize;

use super::evidence::{KeyEvidence, Trial};
use crate::fault::Fault;
use crate::token::KeyKind;
use crate::token::attribute;
use crate::token::error::TokenError;
use crate::token::key::Key;
use crate::token::session::Session;

const MEND: &str = "the key has to be taken as known to others: make a new one inside the token with fastness token keygen, and revoke what this one signed";

/// Where private values stand (PKCS#11 v3.1 §6.1.3, §6.3.4).
const RSA_VALUES: [(AttributeType, &str); 6] = [
    (AttributeType::PrivateExponent, "CKA_PRIVATE_EXPONENT"),
    (AttributeType::Prime1, "CKA_PRIME_1"),
    (AttributeType::Prime2, "CKA_PRIME_2"),
    (AttributeType::Exponent1, "CKA_EXPONENT_1"),
    (AttributeType::Exponent2, "CKA_EXPONENT_2"),
    (AttributeType::Coefficient, "CKA_COEFFICIENT"),
];
const EC_VALUES: [(AttributeType, &str); 1] = [(AttributeType::Value, "CKA_VALUE")];

pub(super) fn run(
    session: &Session,
    key: &Key,
    evidence: &mut KeyEvidence,
    faults: &mut Vec<Fault>,
) -> Result<(), TokenError> {
    let values: &[_] = match key.kind() {
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => &RSA_VALUES,
        KeyKind::P256 | KeyKind::P384 | KeyKind::Ed25519 => &EC_VALUES,
    };
    for &(attribute, name) in values {
        let outcome = session.aside(|session| Ok(read(session, key.handle(), attribute)))?;
        note(key, evidence, faults, format!("read {name}"), outcome);
    }
    let offered = session.mechanisms()?;
    if !offered.contains(&MechanismType::AES_KEY_GEN) {
        evidence
            .notes
            .push("the token makes no AES keys, so wrapping the key was not tried".into());
        return Ok(());
    }
    for (offer, mechanism, name) in [
        (
            MechanismType::AES_KEY_WRAP_PAD,
            Mechanism::AesKeyWrapPad,
            "CKM_AES_KEY_WRAP_PAD",
        ),
        (
            MechanismType::AES_KEY_WRAP,
            Mechanism::AesKeyWrap,
            "CKM_AES_KEY_WRAP",
        ),
        (
            MechanismType::AES_CBC_PAD,
            Mechanism::AesCbcPad([0; 16]),
            "CKM_AES_CBC_PAD",
        ),
    ] {
        if !offered.contains(&offer) {
            continue;
        }
        let outcome = session.aside(|session| wrap(session, key, &mechanism, evidence));
        let outcome = match outcome? {
            Ok(outcome) => outcome,
            Err(error) => {
                evidence
                    .notes
                    .push(format!("{name} was not tried: {error}"));
                continue;
            }
        };
        note(key, evidence, faults, format!("wrap with {name}"), outcome);
    }
    Ok(())
}

/// Tries to wrap the key with one that is made for it: `None` when it came out, and an error within when
/// there is none to wrap with.
fn wrap(
    session: &Session,
    key: &Key,
    mechanism: &Mechanism<'_>,
    evidence: &mut KeyEvidence,
) -> Result<Result<Option<String>, TokenError>, TokenError> {
    let wrapping = match wrapping_key(session) {
        Ok(wrapping) => wrapping,
        Err(error) => return Ok(Err(TokenError::call("making a key to wrap with")(error))),
    };
    evidence.module_sets_local = attribute::flag(session.raw(), wrapping, AttributeType::Local)?;
    let wrapped = session.raw().wrap_key(mechanism, wrapping, key.handle());
    // It goes with its session, which may be one that stays.
    session
        .raw()
        .destroy_object(wrapping)
        .map_err(TokenError::call("destroying a key to wrap with"))?;
    Ok(Ok(wrapped.err().map(refusal)))
}

/// Tries to read a private value; `None` when it came out.
fn read(session: &Session, key: ObjectHandle, attribute: AttributeType) -> Option<String> {
    match session.raw().get_attributes(key, &[attribute]) {
        Err(error) => Some(refusal(error)),
        Ok(mut values) => match values.first_mut() {
            None => Some(why_no_value(session, key, attribute)),
            Some(value) => is_empty_once_wiped(value).then(|| "an empty value given".into()),
        },
    }
}

/// cryptoki leaves out what it got no value for; the length alone has a return code of its own.
fn why_no_value(session: &Session, key: ObjectHandle, attribute: AttributeType) -> String {
    match session
        .raw()
        .get_attribute_info(key, &[attribute])
        .as_deref()
    {
        Ok([AttributeInfo::Sensitive]) => "CKR_ATTRIBUTE_SENSITIVE".into(),
        Ok([AttributeInfo::TypeInvalid]) => "CKR_ATTRIBUTE_TYPE_INVALID".into(),
        _ => "no value given".into(),
    }
}

/// Whether nothing came out; what did is wiped.
fn is_empty_once_wiped(value: &mut Attribute) -> bool {
    use Attribute as A;
    match value {
        A::Value(bytes)
        | A::PrivateExponent(bytes)
        | A::Prime1(bytes)
        | A::Prime2(bytes)
        | A::Exponent1(bytes)
        | A::Exponent2(bytes)
        | A::Coefficient(bytes) => {
            let empty = bytes.is_empty();
            bytes.zeroize();
            empty
        }
        _ => false,
    }
}

/// A session object that can wrap.
fn wrapping_key(session: &Session) -> Result<ObjectHandle, Error> {
    session.raw().generate_key(
        &Mechanism::AesKeyGen,
        &[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(cryptoki::types::Ulong::new(32)),
            Attribute::Token(false),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Wrap(true),
        ],
    )
}

fn refusal(error: Error) -> String {
    match error {
        Error::Pkcs11(code, _) => crate::token::ReturnCode(code).to_string(),
        other => other.to_string(),
    }
}

fn note(
    key: &Key,
    evidence: &mut KeyEvidence,
    faults: &mut Vec<Fault>,
    tried: String,
    refused: Option<String>,
) {
    match refused {
        Some(refused) => evidence.trials.push(Trial { tried, refused }),
        None => faults.push(Fault::new(
            key.uri().to_string(),
            format!("the token let the private key out ({tried})"),
            MEND,
        )),
    }
}
