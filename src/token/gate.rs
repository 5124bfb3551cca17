//! The key gate: what a key must be before anything is signed with it.
//!
//! Two questions: what does the module *say* about the key (its attributes), and what happens when
//! we *try* to get it out. Attributes are the module's word, and an attribute that it does not
//! report is not taken for a good one.

mod evidence;
mod trial;

use cryptoki::object::AttributeType;

use super::attribute;
use super::error::TokenError;
use super::key::Key;
use super::session::Session;
use crate::fault::Fault;

pub use evidence::{KeyEvidence, Trial};

/// An attribute that must have one value (PKCS#11 v3.1 §4.7, §4.9).
struct Rule {
    attribute: AttributeType,
    name: &'static str,
    must_be: bool,
    /// What it means when it is otherwise.
    otherwise: &'static str,
}

const RULES: [Rule; 11] = [
    rule(
        AttributeType::Private,
        "CKA_PRIVATE",
        true,
        "it can be used without a login",
    ),
    rule(
        AttributeType::Sensitive,
        "CKA_SENSITIVE",
        true,
        "it can be read in the clear",
    ),
    rule(
        AttributeType::AlwaysSensitive,
        "CKA_ALWAYS_SENSITIVE",
        true,
        "it could be read in the clear at some time, or came from outside",
    ),
    rule(
        AttributeType::Extractable,
        "CKA_EXTRACTABLE",
        false,
        "it can be wrapped and taken out",
    ),
    rule(
        AttributeType::NeverExtractable,
        "CKA_NEVER_EXTRACTABLE",
        true,
        "it could be taken out at some time, or came from outside",
    ),
    rule(
        AttributeType::Modifiable,
        "CKA_MODIFIABLE",
        false,
        "its attributes can be changed later",
    ),
    rule(AttributeType::Sign, "CKA_SIGN", true, "it cannot sign"),
    rule(
        AttributeType::Decrypt,
        "CKA_DECRYPT",
        false,
        "it also decrypts; a key has one purpose",
    ),
    rule(
        AttributeType::Unwrap,
        "CKA_UNWRAP",
        false,
        "it also unwraps keys; a key has one purpose",
    ),
    rule(
        AttributeType::SignRecover,
        "CKA_SIGN_RECOVER",
        false,
        "it also signs with recovery; a key has one purpose",
    ),
    rule(
        AttributeType::Derive,
        "CKA_DERIVE",
        false,
        "it also derives keys; a key has one purpose",
    ),
];

/// Reported, not judged: a module need not know them, and none of them lets the key out.
const EVIDENCE_ONLY: [(AttributeType, &str); 3] = [
    (AttributeType::Copyable, "CKA_COPYABLE"),
    (AttributeType::Destroyable, "CKA_DESTROYABLE"),
    (AttributeType::WrapWithTrusted, "CKA_WRAP_WITH_TRUSTED"),
];

const MEND: &str =
    "make a new key inside the token with fastness token keygen, certify it, and destroy this one";

const fn rule(
    attribute: AttributeType,
    name: &'static str,
    must_be: bool,
    otherwise: &'static str,
) -> Rule {
    Rule {
        attribute,
        name,
        must_be,
        otherwise,
    }
}

impl Session {
    /// Judges `key` by its attributes and by trying to read and to wrap it. The tries run in
    /// sessions of their own, which are closed.
    ///
    /// The verdict has every fault of the key, each with what to do.
    ///
    /// # Errors
    /// When the token fails while it is asked: a key that cannot be checked is not used.
    pub fn gate(&self, key: &Key) -> Result<Result<KeyEvidence, Vec<Fault>>, TokenError> {
        let mut evidence = KeyEvidence::of(key);
        let mut faults = Vec::new();
        self.judge_attributes(key, &mut evidence, &mut faults)?;
        trial::run(self, key, &mut evidence, &mut faults)?;
        self.judge_origin(key, &mut evidence, &mut faults)?;
        Ok(match faults.is_empty() {
            true => Ok(evidence),
            false => Err(faults),
        })
    }

    fn judge_attributes(
        &self,
        key: &Key,
        evidence: &mut KeyEvidence,
        faults: &mut Vec<Fault>,
    ) -> Result<(), TokenError> {
        let name = key.uri().to_string();
        self.guard(|session| {
            for rule in &RULES {
                let value = attribute::flag(session, key.handle(), rule.attribute)?;
                evidence.attributes.insert(rule.name.to_owned(), value);
                let problem = match value {
                    Some(value) if value == rule.must_be => continue,
                    Some(value) => format!("{} is {value}: {}", rule.name, rule.otherwise),
                    None => format!(
                        "the module does not report {}, so it cannot be checked",
                        rule.name
                    ),
                };
                faults.push(Fault::new(&name, problem, MEND));
            }
            for (attribute, name) in EVIDENCE_ONLY {
                let value = attribute::flag(session, key.handle(), attribute)?;
                evidence.attributes.insert(name.to_owned(), value);
            }
            let mechanisms = attribute::allowed_mechanisms(session, key.handle())?;
            evidence.allowed_mechanisms = mechanisms
                .filter(|mechanisms| !mechanisms.is_empty())
                .map(|mechanisms| mechanisms.iter().map(ToString::to_string).collect());
            Ok(())
        })?;
        if evidence.allowed_mechanisms.is_none() {
            evidence.notes.push(
                "CKA_ALLOWED_MECHANISMS is empty or unknown to the module: the token itself does not limit the key to one mechanism".into(),
            );
        }
        Ok(())
    }

    /// Where the key came from. CKA_LOCAL false means imported, unless the module says the same of
    /// a key that it has just made (`trial` asked): then it never sets CKA_LOCAL.
    fn judge_origin(
        &self,
        key: &Key,
        evidence: &mut KeyEvidence,
        faults: &mut Vec<Fault>,
    ) -> Result<(), TokenError> {
        let (local, mechanism) = self.guard(|session| {
            Ok((
                attribute::flag(session, key.handle(), AttributeType::Local)?,
                attribute::generated_by(session, key.handle())?,
            ))
        })?;
        evidence.attributes.insert("CKA_LOCAL".to_owned(), local);
        evidence.generated_by = mechanism.map(|mechanism| mechanism.to_string());
        match (local, evidence.module_sets_local) {
            (Some(true), _) => {}
            (None, _) => evidence.notes.push(
                "the module does not report CKA_LOCAL: whether the key was made inside is not known from it".into(),
            ),
            (Some(false), Some(false)) => evidence.notes.push(
                "CKA_LOCAL is false, but the module says so of keys that it has just made, too".into(),
            ),
            (Some(false), _) => faults.push(Fault::new(
                key.uri().to_string(),
                "CKA_LOCAL is false: the key was imported, so that it has existed outside the token",
                MEND,
            )),
        }
        Ok(())
    }
}
