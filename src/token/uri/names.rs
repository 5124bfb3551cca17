//! The names that the rest of the program uses: a token's, a key's, a label, a CKA_ID.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::parse::LONGEST_LABEL;
use super::{ObjectType, Pkcs11Uri, UriError};

/// Names one token: by label, serial number, or both; manufacturer and model narrow further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUri(TokenPart);

/// Names one private key: by label (CKA_LABEL), id (CKA_ID), or both; and the token it is in,
/// unless that is known from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUri {
    token: TokenPart,
    object: Option<String>,
    id: Option<KeyId>,
}

/// The attributes that are about the token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct TokenPart {
    label: Option<String>,
    serial: Option<String>,
    manufacturer: Option<String>,
    model: Option<String>,
}

/// A CKA_ID: 1 … 64 bytes that a private key, its public key and its certificate share.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyId(Vec<u8>);

/// A token's label: 1 … 32 bytes of UTF-8 (PKCS#11 v3.1 §3.2, CK_TOKEN_INFO), no blank at the
/// end, since tokens pad with blanks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenLabel(String);

impl TokenUri {
    /// The name of a token by its label alone.
    pub fn by_label(label: &TokenLabel) -> Self {
        Self(TokenPart {
            label: Some(label.0.clone()),
            ..TokenPart::default()
        })
    }

    /// The name of a token that reports these values; empty ones are left out.
    ///
    /// # Errors
    /// [`UriError::NoToken`] when it reports neither label nor serial number.
    pub(in crate::token) fn of(
        label: &str,
        serial: &str,
        manufacturer: &str,
        model: &str,
    ) -> Result<Self, UriError> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let part = TokenPart {
            label: given(label),
            serial: given(serial),
            manufacturer: given(manufacturer),
            model: given(model),
        };
        part.names_a_token()
            .then_some(Self(part))
            .ok_or(UriError::NoToken)
    }

    /// The label it asks for.
    pub fn label(&self) -> Option<&str> {
        self.0.label.as_deref()
    }

    /// The serial number it asks for.
    pub fn serial(&self) -> Option<&str> {
        self.0.serial.as_deref()
    }

    /// Whether both may name one token: no attribute tells them apart.
    pub(crate) fn may_be(&self, other: &Self) -> bool {
        let alike = |one: &Option<String>, other: &Option<String>| merge("", one, other).is_ok();
        alike(&self.0.label, &other.0.label)
            && alike(&self.0.serial, &other.0.serial)
            && alike(&self.0.manufacturer, &other.0.manufacturer)
            && alike(&self.0.model, &other.0.model)
    }

    /// Whether a token that reports these values is the one that is named.
    pub(crate) fn fits(&self, label: &str, serial: &str, manufacturer: &str, model: &str) -> bool {
        let fits =
            |asked: &Option<String>, is: &str| asked.as_deref().is_none_or(|asked| asked == is);
        fits(&self.0.label, label)
            && fits(&self.0.serial, serial)
            && fits(&self.0.manufacturer, manufacturer)
            && fits(&self.0.model, model)
    }
}

impl KeyUri {
    /// The name of a key in `token`, by id and label. A label that no URI can say is left out: the
    /// empty one, one with a NUL or not in UTF-8 (read as U+FFFD), one of more than 255 bytes.
    pub fn new(token: &TokenUri, label: &str, id: Option<KeyId>) -> Self {
        let sayable =
            (1..=LONGEST_LABEL).contains(&label.len()) && !label.contains(['\0', '\u{fffd}']);
        Self {
            token: token.0.clone(),
            object: sayable.then(|| label.to_owned()),
            id,
        }
    }

    /// The label (CKA_LABEL) it asks for.
    pub fn label(&self) -> Option<&str> {
        self.object.as_deref()
    }

    /// The CKA_ID it asks for.
    pub fn id(&self) -> Option<&KeyId> {
        self.id.as_ref()
    }

    /// The token it is in, when the name says enough about it.
    pub fn token(&self) -> Option<TokenUri> {
        self.token
            .names_a_token()
            .then(|| TokenUri(self.token.clone()))
    }

    /// The same key, in `token`.
    ///
    /// # Errors
    /// [`UriError::Conflict`] when the two say different things about the token.
    pub fn within(&self, token: &TokenUri) -> Result<Self, UriError> {
        let merged = TokenPart {
            label: merge("token", &self.token.label, &token.0.label)?,
            serial: merge("serial", &self.token.serial, &token.0.serial)?,
            manufacturer: merge(
                "manufacturer",
                &self.token.manufacturer,
                &token.0.manufacturer,
            )?,
            model: merge("model", &self.token.model, &token.0.model)?,
        };
        Ok(Self {
            token: merged,
            object: self.object.clone(),
            id: self.id.clone(),
        })
    }
}

impl TokenPart {
    fn names_a_token(&self) -> bool {
        self.label.is_some() || self.serial.is_some()
    }

    fn to_uri(&self) -> Pkcs11Uri {
        Pkcs11Uri {
            token: self.label.clone(),
            serial: self.serial.clone(),
            manufacturer: self.manufacturer.clone(),
            model: self.model.clone(),
            ..Pkcs11Uri::default()
        }
    }
}

fn merge(
    name: &'static str,
    one: &Option<String>,
    other: &Option<String>,
) -> Result<Option<String>, UriError> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => Err(UriError::Conflict(name)),
        (Some(value), _) | (None, Some(value)) => Ok(Some(value.clone())),
        (None, None) => Ok(None),
    }
}

/// The token part of `uri`, once nothing is left that a name of ours does not have.
fn token_part(uri: Pkcs11Uri) -> Result<TokenPart, UriError> {
    const MODULE: &str = "the module is given beside the URI, by `module`";
    for (name, given) in [
        ("library-manufacturer", &uri.library_manufacturer),
        ("library-description", &uri.library_description),
        ("library-version", &uri.library_version),
        ("module-path", &uri.module_path),
        ("module-name", &uri.module_name),
    ] {
        if given.is_some() {
            return Err(UriError::Misplaced(name, MODULE));
        }
    }
    Ok(TokenPart {
        label: uri.token,
        serial: uri.serial,
        manufacturer: uri.manufacturer,
        model: uri.model,
    })
}

impl TryFrom<Pkcs11Uri> for TokenUri {
    type Error = UriError;

    fn try_from(uri: Pkcs11Uri) -> Result<Self, UriError> {
        const TOKEN: &str = "it names a token, not an object in it";
        for (name, given) in [
            ("object", uri.object.is_some()),
            ("id", uri.id.is_some()),
            ("type", uri.object_type.is_some()),
        ] {
            if given {
                return Err(UriError::Misplaced(name, TOKEN));
            }
        }
        let part = token_part(uri)?;
        part.names_a_token()
            .then_some(Self(part))
            .ok_or(UriError::NoToken)
    }
}

impl TryFrom<Pkcs11Uri> for KeyUri {
    type Error = UriError;

    fn try_from(mut uri: Pkcs11Uri) -> Result<Self, UriError> {
        if !matches!(uri.object_type, None | Some(ObjectType::Private)) {
            return Err(UriError::NotPrivate);
        }
        let (object, id) = (uri.object.take(), uri.id.take());
        if object.is_none() && id.is_none() {
            return Err(UriError::NoKey);
        }
        Ok(Self {
            token: token_part(uri)?,
            object,
            id,
        })
    }
}

impl fmt::Display for TokenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_uri().fmt(f)
    }
}

impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uri = Pkcs11Uri {
            object: self.object.clone(),
            id: self.id.clone(),
            object_type: Some(ObjectType::Private),
            ..self.token.to_uri()
        };
        uri.fmt(f)
    }
}

impl KeyId {
    /// A CKA_ID of these bytes.
    ///
    /// # Errors
    /// When there are none, or more than 64.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, UriError> {
        match bytes.len() {
            0 => Err(UriError::Empty("id")),
            1..=64 => Ok(Self(bytes.to_vec())),
            _ => Err(UriError::ValueTooLong {
                attribute: "id",
                longest: 64,
            }),
        }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = UriError;

    /// Hexadecimal digits, an even number of them: `0a1b`.
    fn from_str(text: &str) -> Result<Self, UriError> {
        let nibbles: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
        let nibbles = nibbles
            .filter(|nibbles| nibbles.len() % 2 == 0)
            .ok_or(UriError::BadValue("id"))?;
        let bytes: Option<Vec<u8>> = nibbles
            .chunks(2)
            .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).ok())
            .collect();
        Self::from_bytes(&bytes.ok_or(UriError::BadValue("id"))?)
    }
}

impl fmt::Display for KeyId {
    /// Lower-case hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl TokenLabel {
    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As tokens keep it: 32 bytes, padded with blanks (PKCS#11 v3.1 section 5.5.7).
    pub(in crate::token) fn padded(&self) -> [u8; 32] {
        let mut padded = [b' '; 32];
        padded[..self.0.len()].copy_from_slice(self.0.as_bytes());
        padded
    }
}

impl FromStr for TokenLabel {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.trim_end_matches(' ').is_empty() {
            return Err(UriError::Empty("token"));
        }
        if text.len() > 32 {
            return Err(UriError::ValueTooLong {
                attribute: "token",
                longest: 32,
            });
        }
        if text.ends_with(' ') || text.chars().any(char::is_control) {
            return Err(UriError::BadValue("token"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TokenLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Parsing through [`Pkcs11Uri`], and serde as text whose errors never repeat the value.
macro_rules! by_uri {
    ($name:ty, $what:literal) => {
        impl FromStr for $name {
            type Err = UriError;

            fn from_str(text: &str) -> Result<Self, UriError> {
                text.parse::<Pkcs11Uri>()?.try_into()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

by_uri!(TokenUri, "the PKCS#11 URI of a token");
by_uri!(KeyUri, "the PKCS#11 URI of a private key");
