//! Making a key pair inside a token, with everything said in the template: what a token does by
//! default is bad (SoftHSM: not sensitive, decrypts, unwraps, modifiable).

mod template;

use aws_lc_rs::rand;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};

use super::error::TokenError;
use super::gate::KeyEvidence;
use super::key::Key;
use super::key_label::KeyLabel;
use super::locate;
use super::mechanism;
use super::module::Access;
use super::session::{Session, Token};
use super::uri::{KeyId, KeyUri};
use super::{KeyKind, ReturnCode};
use template::Templates;

const GENERATING: &str = "generating a key";

/// What key to make.
#[derive(Clone, Debug)]
pub struct KeySpec {
    /// Its label (CKA_LABEL). No other object may have it.
    pub label: KeyLabel,
    /// Its CKA_ID; 16 random bytes when there is none. No other object may have it.
    pub id: Option<KeyId>,
    /// Its kind.
    pub kind: KeyKind,
}

/// A key pair that was made, checked and tried.
#[derive(Debug)]
pub struct Generated {
    /// The key.
    pub key: Key,
    /// What the gate found.
    pub evidence: KeyEvidence,
    /// Attributes that the module refused in the template, so that they were left to its defaults.
    /// The gate has judged the outcome.
    pub left_out: Vec<String>,
}

impl Token {
    /// Makes a key pair, puts it through the gate, and has it sign. What does not pass is destroyed
    /// again. The token must be logged in.
    ///
    /// # Errors
    /// [`TokenError::Unsupported`] when the token cannot make or use such keys,
    /// [`TokenError::KeyUnusable`] when the name is taken or what was made does not pass.
    pub fn generate(&self, spec: &KeySpec) -> Result<Generated, TokenError> {
        let session = self.session()?;
        check_support(&session, spec.kind)?;
        let id = match &spec.id {
            Some(id) => id.clone(),
            None => random_id()?,
        };
        check_free(&session, spec.label.as_str(), &id)?;
        let mut templates = Templates::new(spec.kind, spec.label.as_str(), &id);
        let (public, private) = self.generate_patiently(spec.kind, &mut templates)?;
        let name = KeyUri::new(session.token(), spec.label.as_str(), Some(id));
        match examine(&session, &name) {
            Ok((key, evidence)) => Ok(Generated {
                key,
                evidence,
                left_out: templates.left_out(),
            }),
            Err(error) => Err(self.undo(&name, [private, public], error)),
        }
    }

    /// Tries the full template, then without what the module refuses. Each try has a new session.
    fn generate_patiently(
        &self,
        kind: KeyKind,
        templates: &mut Templates,
    ) -> Result<(ObjectHandle, ObjectHandle), TokenError> {
        loop {
            let session = self.open(Access::ReadWrite)?;
            let (public, private) = templates.build();
            let error =
                match session
                    .raw()
                    .generate_key_pair(&generation(kind).0, &public, &private)
                {
                    Ok(pair) => return Ok(pair),
                    Err(error) => error,
                };
            match error {
                Error::Pkcs11(
                    RvError::AttributeTypeInvalid
                    | RvError::AttributeValueInvalid
                    | RvError::AttributeReadOnly
                    | RvError::TemplateInconsistent,
                    _,
                ) if templates.leave_out_next() => {}
                Error::Pkcs11(
                    code @ (RvError::MechanismInvalid
                    | RvError::MechanismParamInvalid
                    | RvError::KeySizeRange
                    | RvError::CurveNotSupported
                    | RvError::DomainParamsInvalid
                    | RvError::FunctionNotSupported),
                    _,
                ) => {
                    let problem = format!("{} from C_GenerateKeyPair", ReturnCode(code));
                    return Err(TokenError::Unsupported { kind, problem });
                }
                other => return Err(TokenError::call(GENERATING)(other)),
            }
        }
    }

    /// Destroys a pair that did not pass, and says why it did not.
    fn undo(&self, name: &KeyUri, pair: [ObjectHandle; 2], why: TokenError) -> TokenError {
        let undone = self.open(Access::ReadWrite).and_then(|session| {
            pair.into_iter().try_for_each(|object| {
                session
                    .raw()
                    .destroy_object(object)
                    .map_err(TokenError::call("destroying the new key"))
            })
        });
        match undone {
            Ok(()) => why,
            Err(cause) => TokenError::Partly {
                done: format!("{why}. The new key {name} is still in the token: destroy it"),
                cause: Box::new(cause),
            },
        }
    }
}

/// Gate and a real signature.
fn examine(session: &Session, name: &KeyUri) -> Result<(Key, KeyEvidence), TokenError> {
    let key = session.locate(name)?;
    let evidence = session
        .gate(&key)?
        .map_err(|faults| TokenError::KeyRefused {
            key: format!("{name}, which the token did not make as asked and which was not kept,"),
            faults,
        })?;
    session.prove(&key)?;
    Ok((key, evidence))
}

/// What the token offers, before it is asked.
fn check_support(session: &Session, kind: KeyKind) -> Result<(), TokenError> {
    let offered = session.mechanisms()?;
    let (_, generating) = generation(kind);
    for mechanism in [generating, mechanism::signing(kind)] {
        if !offered.contains(&mechanism) {
            let problem = format!("it does not offer {mechanism}");
            return Err(TokenError::Unsupported { kind, problem });
        }
    }
    if let Some(bits) = modulus_bits(kind) {
        let info = session
            .module()
            .get_mechanism_info(session.slot, generating);
        let info = info.map_err(TokenError::call(GENERATING))?;
        // Some modules report 0 for "no bound".
        if bits < info.min_key_size() || (info.max_key_size() != 0 && bits > info.max_key_size()) {
            let problem = format!(
                "its RSA keys have {} to {} bits",
                info.min_key_size(),
                info.max_key_size()
            );
            return Err(TokenError::Unsupported { kind, problem });
        }
    }
    Ok(())
}

/// Refuses a label or an id that some key or certificate already has.
fn check_free(session: &Session, label: &str, id: &KeyId) -> Result<(), TokenError> {
    let taken = session.guard(|raw| {
        for class in [
            ObjectClass::PRIVATE_KEY,
            ObjectClass::PUBLIC_KEY,
            ObjectClass::CERTIFICATE,
        ] {
            for name in [
                Attribute::Label(label.into()),
                Attribute::Id(id.as_bytes().into()),
            ] {
                let is_label = matches!(name, Attribute::Label(_));
                let template = [Attribute::Class(class), Attribute::Token(true), name];
                if !locate::find(raw, &template)?.is_empty() {
                    return Ok(Some(if is_label { "label" } else { "id" }));
                }
            }
        }
        Ok(None)
    })?;
    match taken {
        None => Ok(()),
        Some(what) => Err(TokenError::KeyUnusable {
            key: format!("\"{}\"", label.escape_debug()),
            problem: format!(
                "the token has an object with this {what} already; choose another, or destroy that one first"
            ),
        }),
    }
}

fn random_id() -> Result<KeyId, TokenError> {
    let mut id = [0; 16];
    rand::fill(&mut id)
        .map_err(|error| TokenError::answer(GENERATING, format!("no random numbers: {error}")))?;
    KeyId::from_bytes(&id).map_err(|error| TokenError::Name("id".to_owned(), error))
}

fn generation(kind: KeyKind) -> (Mechanism<'static>, MechanismType) {
    match kind {
        KeyKind::P256 | KeyKind::P384 => {
            (Mechanism::EccKeyPairGen, MechanismType::ECC_KEY_PAIR_GEN)
        }
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => (
            Mechanism::RsaPkcsKeyPairGen,
            MechanismType::RSA_PKCS_KEY_PAIR_GEN,
        ),
        KeyKind::Ed25519 => (
            Mechanism::EccEdwardsKeyPairGen,
            MechanismType::ECC_EDWARDS_KEY_PAIR_GEN,
        ),
    }
}

fn modulus_bits(kind: KeyKind) -> Option<usize> {
    match kind {
        KeyKind::Rsa2048 => Some(2048),
        KeyKind::Rsa3072 => Some(3072),
        KeyKind::Rsa4096 => Some(4096),
        KeyKind::P256 | KeyKind::P384 | KeyKind::Ed25519 => None,
    }
}
