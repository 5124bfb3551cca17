//! Trying to get the key out: reading its private values, and wrapping it with a fresh AES key.
//!
//! Each try has a session of its own, since a failed call may leave a session unusable. Where the token
//! has no session to spare the tries share the one that is there: that it still works is shown by
//! the signatures that are asked of it next.
//!
//! Only an answer that says "no" is a refusal. Any other error (a device that is gone, a session that was
//! closed) says nothing about the key: the check was not made, and the key is not used.

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{
    Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass, ObjectHandle,
};
use zeroize::Zeroize;

use super::evidence::{KeyEvidence, Trial};
use crate::fault::Fault;
use crate::token::attribute;
use crate::token::error::TokenError;
use crate::token::key::Key;
use crate::token::session::Session;
use crate::token::{KeyKind, ReturnCode};

/// What a token says when a private value is not for reading (PKCS#11 v3.1 §5.7.5).
const UNREADABLE: &[RvError] = &[
    RvError::AttributeSensitive,
    RvError::AttributeTypeInvalid,
    RvError::KeyUnextractable,
    RvError::ActionProhibited,
    RvError::FunctionNotSupported,
    RvError::FunctionRejected,
];
/// What it says when a key is not for wrapping, or not with such a key or mechanism (§5.18.3).
const UNWRAPPABLE: &[RvError] = &[
    RvError::KeyUnextractable,
    RvError::KeyNotWrappable,
    RvError::KeyTypeInconsistent,
    RvError::KeySizeRange,
    RvError::KeyFunctionNotPermitted,
    RvError::AttributeSensitive,
    RvError::MechanismInvalid,
    RvError::MechanismParamInvalid,
    RvError::WrappingKeySizeRange,
    RvError::WrappingKeyTypeInconsistent,
    RvError::ActionProhibited,
    RvError::FunctionNotSupported,
    RvError::FunctionRejected,
];
/// What it says when a mechanism does not fit the key: CKM_AES_KEY_WRAP takes whole blocks of 64 bits (RFC 3394 §2).
const UNFITTING: &[RvError] = &[RvError::DataLenRange];
/// What it says when it makes no such key to wrap with (§5.18.1).
const UNMAKEABLE: &[RvError] = &[
    RvError::AttributeReadOnly,
    RvError::AttributeTypeInvalid,
    RvError::AttributeValueInvalid,
    RvError::TemplateIncomplete,
    RvError::TemplateInconsistent,
    RvError::KeySizeRange,
    RvError::MechanismInvalid,
    RvError::MechanismParamInvalid,
    RvError::SessionReadOnly,
    RvError::TokenWriteProtected,
    RvError::ActionProhibited,
    RvError::FunctionNotSupported,
    RvError::FunctionRejected,
];

const READING: &str = "trying to read the private key";

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
        let outcome = session.aside(|session| read(session, key.handle(), attribute))?;
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
        let outcome = session.aside(|session| wrap(session, key, &mechanism, evidence))?;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(refused) => {
                let note = format!("{name} says nothing of the key: {refused}");
                evidence.notes.push(note);
                continue;
            }
        };
        note(key, evidence, faults, format!("wrap with {name}"), outcome);
    }
    Ok(())
}

/// Tries to wrap the key with one that is made for it: `None` when it came out, and an error within when that says
/// nothing, with the token's answer: it makes none to wrap with, or the mechanism does not fit.
fn wrap(
    session: &Session,
    key: &Key,
    mechanism: &Mechanism<'_>,
    evidence: &mut KeyEvidence,
) -> Result<Result<Option<String>, String>, TokenError> {
    let wrapping = match wrapping_key(session) {
        Ok(wrapping) => wrapping,
        Err(error) => {
            let said = refusal(error, UNMAKEABLE, "making a key to wrap with")?;
            return Ok(Err(format!("there is none to wrap with ({said})")));
        }
    };
    evidence.module_sets_local = attribute::flag(session.raw(), wrapping, AttributeType::Local)?;
    let wrapped = session.raw().wrap_key(mechanism, wrapping, key.handle());
    // It goes with its session, which may be one that stays.
    session
        .raw()
        .destroy_object(wrapping)
        .map_err(TokenError::call("destroying a key to wrap with"))?;
    match wrapped {
        Ok(_) => Ok(Ok(None)),
        Err(Error::Pkcs11(code, _)) if UNFITTING.contains(&code) => {
            Ok(Err(format!("it does not fit ({})", ReturnCode(code))))
        }
        Err(error) => {
            refusal(error, UNWRAPPABLE, "trying to wrap the key").map(|said| Ok(Some(said)))
        }
    }
}

/// Tries to read a private value; `None` when it came out.
fn read(
    session: &Session,
    key: ObjectHandle,
    attribute: AttributeType,
) -> Result<Option<String>, TokenError> {
    match session.raw().get_attributes(key, &[attribute]) {
        Err(error) => refusal(error, UNREADABLE, READING).map(Some),
        Ok(mut values) => match values.first_mut() {
            None => why_no_value(session, key, attribute).map(Some),
            Some(value) => Ok(is_empty_once_wiped(value).then(|| "an empty value given".into())),
        },
    }
}

/// cryptoki leaves out what it got no value for; the length alone has a return code of its own.
fn why_no_value(
    session: &Session,
    key: ObjectHandle,
    attribute: AttributeType,
) -> Result<String, TokenError> {
    let info = session.raw().get_attribute_info(key, &[attribute]);
    match info.map_err(TokenError::call(READING))?[..] {
        [AttributeInfo::Sensitive] => Ok("CKR_ATTRIBUTE_SENSITIVE".into()),
        [AttributeInfo::TypeInvalid] => Ok("CKR_ATTRIBUTE_TYPE_INVALID".into()),
        // It may tell the length and keep the value.
        _ => Ok("no value given".into()),
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

/// What the token said, when that is one of `refusals`.
fn refusal(error: Error, refusals: &[RvError], doing: &'static str) -> Result<String, TokenError> {
    match error {
        Error::Pkcs11(code, _) if refusals.contains(&code) => Ok(ReturnCode(code).to_string()),
        error => Err(TokenError::call(doing)(error)),
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

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn an_error_that_says_nothing_about_the_key_is_no_refusal() {
        let says = |code, refusals| refusal(Error::Pkcs11(code, Function::WrapKey), refusals, "");
        for refusals in [UNREADABLE, UNWRAPPABLE, UNMAKEABLE] {
            for code in refusals {
                assert!(says(*code, refusals).is_ok(), "{code:?}");
            }
            for code in [
                RvError::DeviceError,
                RvError::DeviceRemoved,
                RvError::SessionClosed,
                RvError::SessionHandleInvalid,
                RvError::GeneralError,
                RvError::FunctionFailed,
                RvError::HostMemory,
                RvError::UserNotLoggedIn,
                RvError::ObjectHandleInvalid,
                RvError::KeyHandleInvalid,
                RvError::VendorDefined(0x8000_0001),
            ] {
                assert!(says(code, refusals).is_err(), "{code:?}");
            }
        }
    }
}
