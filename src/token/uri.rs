//! Names of tokens and keys: RFC 7512 PKCS#11 URIs, strict.
//!
//! A name that is not understood to the last character is refused: a misspelt attribute that is
//! ignored picks the wrong key. Slot numbers change, PINs do not belong in names, and an
//! attribute given twice has two meanings: all refused, by name and without repeating values.

mod names;
mod parse;

use std::fmt;
use std::str::FromStr;

pub use names::{KeyId, KeyUri, TokenLabel, TokenUri};

/// Longest URI in bytes; a key's name with every attribute at its longest and all of it encoded has
/// about 1400.
pub const LONGEST_URI: usize = 2048;

/// The attributes of a PKCS#11 URI (RFC 7512 §2.3), percent-decoded. Each is absent or not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pkcs11Uri {
    /// `token`: the token's label, at most 32 bytes.
    pub token: Option<String>,
    /// `manufacturer` of the token, at most 32 bytes.
    pub manufacturer: Option<String>,
    /// `serial` number of the token, at most 16 bytes.
    pub serial: Option<String>,
    /// `model` of the token, at most 16 bytes.
    pub model: Option<String>,
    /// `library-manufacturer`
    pub library_manufacturer: Option<String>,
    /// `library-description`
    pub library_description: Option<String>,
    /// `library-version`, `MAJOR` or `MAJOR.MINOR`.
    pub library_version: Option<String>,
    /// `object`: the object's label (CKA_LABEL).
    pub object: Option<String>,
    /// `type` of the object.
    pub object_type: Option<ObjectType>,
    /// `id`: CKA_ID, bytes.
    pub id: Option<KeyId>,
    /// `module-path` of the query.
    pub module_path: Option<String>,
    /// `module-name` of the query.
    pub module_name: Option<String>,
}

/// The `type` of an object (RFC 7512 §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectType {
    /// `public`
    Public,
    /// `private`
    Private,
    /// `cert`
    Certificate,
    /// `secret-key`
    SecretKey,
    /// `data`
    Data,
}

/// What is wrong with a PKCS#11 URI. Values are never repeated: one of them may be a PIN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Another scheme, or none.
    #[error("a PKCS#11 URI starts with pkcs11: as in pkcs11:token=node-a;object=server (RFC 7512)")]
    Scheme,
    /// Longer than [`LONGEST_URI`].
    #[error("longer than {LONGEST_URI} bytes")]
    TooLong,
    /// A character that must be percent-encoded there.
    #[error("the character at byte {0} must be percent-encoded (a space is %20)")]
    Character(usize),
    /// `%` without two hexadecimal digits.
    #[error("the '%' at byte {0} is not followed by two hexadecimal digits")]
    Percent(usize),
    /// An attribute without `=`, an empty one, or a final separator.
    #[error("the attribute at byte {0} is not NAME=VALUE")]
    NotAnAttribute(usize),
    /// An attribute whose decoded value is empty.
    #[error("`{0}` is empty")]
    Empty(&'static str),
    /// An attribute that occurs twice.
    #[error("`{0}` is given twice")]
    Twice(&'static str),
    /// An attribute that is not one of RFC 7512, or stands on the wrong side of the `?`.
    #[error("unknown attribute `{name}`{}", .nearest.map(|known| format!("; did you mean `{known}`?")).unwrap_or_default())]
    Unknown {
        /// Its name.
        name: String,
        /// The known attribute that is nearest to it, if one is near.
        nearest: Option<&'static str>,
    },
    /// A slot, which is no name.
    #[error(
        "`{0}` is not taken: slots are numbered anew when a token is initialised or moved. Name the token by `token` and `serial`"
    )]
    Slot(&'static str),
    /// A PIN.
    #[error(
        "`pin-value` is not taken: a PIN in a URI ends up in configurations, logs and process lists. Give a PIN source, and change the PIN if others may have seen this URI"
    )]
    PinValue,
    /// A PIN source.
    #[error("`pin-source` is not taken: PIN sources are given beside the URI, by `pin`")]
    PinSource,
    /// Text that is not UTF-8 after decoding, or has a NUL.
    #[error("`{0}` is not UTF-8 text without NUL")]
    NotText(&'static str),
    /// A value longer than PKCS#11 can hold. It is not cut: a cut name is another name.
    #[error("`{attribute}` is longer than {longest} bytes")]
    ValueTooLong {
        /// The attribute.
        attribute: &'static str,
        /// Its longest value in bytes.
        longest: usize,
    },
    /// A `type` or `library-version` outside its grammar.
    #[error("`{0}` has a value that RFC 7512 does not know")]
    BadValue(&'static str),
    /// Not enough to name a token.
    #[error("a token is named by `token` (its label) or `serial`, or both")]
    NoToken,
    /// Not enough to name a key.
    #[error("a key is named by `object` (its label) or `id`, or both")]
    NoKey,
    /// A `type` other than private where a key is named.
    #[error("`type` must be private, or absent: the key is the private key")]
    NotPrivate,
    /// An attribute that does not belong here.
    #[error("`{0}` does not belong in this URI: {1}")]
    Misplaced(&'static str, &'static str),
    /// The key's URI and the token's disagree.
    #[error("`{0}` of the key differs from that of the token it is looked for in")]
    Conflict(&'static str),
}

impl FromStr for Pkcs11Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        parse::uri(text)
    }
}

impl fmt::Display for Pkcs11Uri {
    /// The canonical form: the attribute order of `p11tool`, all but unreserved characters encoded.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pkcs11:")?;
        let path = [
            ("library-manufacturer", self.library_manufacturer.as_deref()),
            ("library-description", self.library_description.as_deref()),
            ("library-version", self.library_version.as_deref()),
            ("model", self.model.as_deref()),
            ("manufacturer", self.manufacturer.as_deref()),
            ("serial", self.serial.as_deref()),
            ("token", self.token.as_deref()),
        ];
        let mut separator = "";
        for (name, value) in path {
            write_attribute(f, &mut separator, ";", name, value.map(str::as_bytes))?;
        }
        if let Some(id) = &self.id {
            write!(f, "{separator}id=")?;
            separator = ";";
            // RFC 7512 §2.3: the whole value of `id` should be percent-encoded.
            for byte in id.as_bytes() {
                write!(f, "%{byte:02X}")?;
            }
        }
        write_attribute(
            f,
            &mut separator,
            ";",
            "object",
            self.object.as_deref().map(str::as_bytes),
        )?;
        let object_type = self
            .object_type
            .map(|object_type| object_type.as_str().as_bytes());
        write_attribute(f, &mut separator, ";", "type", object_type)?;
        separator = "?";
        for (name, value) in [
            ("module-name", &self.module_name),
            ("module-path", &self.module_path),
        ] {
            write_attribute(
                f,
                &mut separator,
                "&",
                name,
                value.as_deref().map(str::as_bytes),
            )?;
        }
        Ok(())
    }
}

impl ObjectType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Certificate => "cert",
            Self::SecretKey => "secret-key",
            Self::Data => "data",
        }
    }
}

fn write_attribute(
    f: &mut fmt::Formatter<'_>,
    separator: &mut &'static str,
    next: &'static str,
    name: &str,
    value: Option<&[u8]>,
) -> fmt::Result {
    let Some(value) = value else { return Ok(()) };
    write!(f, "{separator}{name}=")?;
    *separator = next;
    for &byte in value {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
