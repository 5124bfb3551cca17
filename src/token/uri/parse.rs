//! RFC 7512 §2.3, to the letter.

use super::{KeyId, LONGEST_URI, ObjectType, Pkcs11Uri, UriError};

/// Longest CKA_LABEL and CKA_ID that we name, in bytes; PKCS#11 sets no bound.
pub(super) const LONGEST_LABEL: usize = 255;
const LONGEST_ID: usize = 64;

/// Each attribute, and the longest value of it (PKCS#11 v3.1 §3.2: CK_TOKEN_INFO, CK_INFO).
const PATH: [(&str, usize); 10] = [
    ("token", 32),
    ("manufacturer", 32),
    ("serial", 16),
    ("model", 16),
    ("library-manufacturer", 32),
    ("library-description", 32),
    ("library-version", 7),
    ("object", LONGEST_LABEL),
    ("type", 10),
    ("id", LONGEST_ID),
];
const QUERY: [(&str, usize); 2] = [("module-path", 512), ("module-name", 255)];
const SLOT: [&str; 3] = ["slot-id", "slot-description", "slot-manufacturer"];

pub(super) fn uri(text: &str) -> Result<Pkcs11Uri, UriError> {
    const SCHEME: &str = "pkcs11:";
    if text.len() > LONGEST_URI {
        return Err(UriError::TooLong);
    }
    // RFC 3986 §3.1: schemes have no case.
    let scheme = text.get(..SCHEME.len()).ok_or(UriError::Scheme)?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return Err(UriError::Scheme);
    }
    let rest = &text[SCHEME.len()..];
    if gives_pin(rest) {
        return Err(UriError::PinValue);
    }
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    let mut found = Pkcs11Uri::default();
    if !path.is_empty() {
        attributes(&mut found, Part::Path, path, SCHEME.len())?;
    }
    if let Some(query) = query {
        attributes(
            &mut found,
            Part::Query,
            query,
            SCHEME.len() + path.len() + 1,
        )?;
    }
    Ok(found)
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Path,
    Query,
}

/// Reads `text`, which starts at byte `at` of the URI.
fn attributes(
    found: &mut Pkcs11Uri,
    part: Part,
    text: &str,
    mut at: usize,
) -> Result<(), UriError> {
    let separator = if part == Part::Path { ';' } else { '&' };
    for attribute in text.split(separator) {
        let (name, value) = attribute
            .split_once('=')
            .ok_or(UriError::NotAnAttribute(at))?;
        if name.is_empty() {
            return Err(UriError::NotAnAttribute(at));
        }
        let (name, longest) = known(part, name)?;
        let value = decode(part, value, at + name.len() + 1)?;
        set(found, name, longest, value)?;
        at += attribute.len() + 1;
    }
    Ok(())
}

fn known(part: Part, name: &str) -> Result<(&'static str, usize), UriError> {
    let table: &[(&str, usize)] = if part == Part::Path { &PATH } else { &QUERY };
    if let Some(&(known, longest)) = table.iter().find(|(known, _)| *known == name) {
        return Ok((known, longest));
    }
    if let Some(slot) = SLOT.iter().find(|slot| **slot == name) {
        return Err(UriError::Slot(slot));
    }
    match name {
        "pin-source" => Err(UriError::PinSource),
        _ => Err(unknown(part, table, name)),
    }
}

fn unknown(part: Part, table: &[(&'static str, usize)], name: &str) -> UriError {
    let nearest = table
        .iter()
        .map(|&(known, _)| (strsim::damerau_levenshtein(known, name), known))
        .min()
        .filter(|&(distance, _)| distance <= 2)
        .map(|(_, known)| known);
    // What stands before the first `=` may be a value that lost its name, such as a PIN: only what is
    // nearly a name of ours is shown.
    let name = match (nearest, part) {
        (Some(_), _) => name,
        (None, Part::Path) => "…",
        (None, Part::Query) => "…, in the query",
    };
    UriError::Unknown {
        name: name.to_owned(),
        nearest,
    }
}

/// Whether something in `text` is given as a PIN, under any spelling and in any place: it would end
/// up in the value before it, and in messages with that.
fn gives_pin(text: &str) -> bool {
    text.split(['?', ';', '&']).any(|attribute| {
        let (name, _) = attribute.split_once('=').unwrap_or((attribute, ""));
        let name = name.trim().to_ascii_lowercase();
        name.starts_with("pin") && name != "pin-source"
    })
}

/// Percent-decodes `value`, which starts at byte `at` of the URI.
fn decode(part: Part, value: &str, at: usize) -> Result<Vec<u8>, UriError> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut bytes = value.bytes().enumerate();
    while let Some((index, byte)) = bytes.next() {
        if byte == b'%' {
            let mut digit = || {
                let (_, byte) = bytes.next()?;
                u8::try_from(char::from(byte).to_digit(16)?).ok()
            };
            let (Some(high), Some(low)) = (digit(), digit()) else {
                return Err(UriError::Percent(at + index));
            };
            decoded.push(high << 4 | low);
        } else if allowed(part, byte) {
            decoded.push(byte);
        } else {
            return Err(UriError::Character(at + index));
        }
    }
    Ok(decoded)
}

/// `pk11-pchar` and `pk11-qchar`.
fn allowed(part: Part, byte: u8) -> bool {
    let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    unreserved
        || b":[]@!$'()*+,=".contains(&byte)
        || match part {
            Part::Path => byte == b'&',
            Part::Query => b"/?|".contains(&byte),
        }
}

fn set(
    found: &mut Pkcs11Uri,
    name: &'static str,
    longest: usize,
    value: Vec<u8>,
) -> Result<(), UriError> {
    if value.is_empty() {
        return Err(UriError::Empty(name));
    }
    if value.len() > longest {
        return Err(UriError::ValueTooLong {
            attribute: name,
            longest,
        });
    }
    if name == "id" {
        return put(&mut found.id, name, KeyId::from_bytes(&value)?);
    }
    let text = String::from_utf8(value)
        .ok()
        .filter(|text| !text.contains('\0'));
    let text = text.ok_or(UriError::NotText(name))?;
    // A separator that was percent-encoded: it would be looked for, and shown, as a part of a name.
    if text.to_ascii_lowercase().contains("pin-value") {
        return Err(UriError::PinValue);
    }
    match name {
        "token" => put(&mut found.token, name, text),
        "manufacturer" => put(&mut found.manufacturer, name, text),
        "serial" => put(&mut found.serial, name, text),
        "model" => put(&mut found.model, name, text),
        "library-manufacturer" => put(&mut found.library_manufacturer, name, text),
        "library-description" => put(&mut found.library_description, name, text),
        "library-version" => put(&mut found.library_version, name, version(text)?),
        "object" => put(&mut found.object, name, text),
        "type" => put(&mut found.object_type, name, object_type(&text)?),
        "module-path" => put(&mut found.module_path, name, text),
        "module-name" => put(&mut found.module_name, name, text),
        // Unreachable while the tables above list only these; refused all the same.
        other => Err(UriError::Unknown {
            name: other.to_owned(),
            nearest: None,
        }),
    }
}

fn put<T>(place: &mut Option<T>, name: &'static str, value: T) -> Result<(), UriError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriError::Twice(name)),
    }
}

fn object_type(text: &str) -> Result<ObjectType, UriError> {
    [
        ObjectType::Public,
        ObjectType::Private,
        ObjectType::Certificate,
        ObjectType::SecretKey,
        ObjectType::Data,
    ]
    .into_iter()
    .find(|object_type| object_type.as_str() == text)
    .ok_or(UriError::BadValue("type"))
}

fn version(text: String) -> Result<String, UriError> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let good = match text.split_once('.') {
        Some((major, minor)) => digits(major) && digits(minor),
        None => digits(&text),
    };
    good.then_some(text)
        .ok_or(UriError::BadValue("library-version"))
}
