//! Distinguished names. They are for people who read certificates; nobody decides by them.

use aws_lc_rs::digest::{SHA256, digest};
use const_oid::db::rfc4519::COMMON_NAME;
use der::asn1::{Any, Utf8StringRef};
use der::{Decode, Encode};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};

use super::names::LONGEST_COMMON_NAME;
use crate::policy::PeerId;

/// The name `CN=text`, as a UTF8String (RFC 5280 §4.1.2.4).
pub(super) fn common_name(text: &str) -> der::Result<Name> {
    let attribute = AttributeTypeAndValue {
        oid: COMMON_NAME,
        value: Any::encode_from(&Utf8StringRef::new(text)?)?,
    };
    let name = RdnSequence::from(vec![RelativeDistinguishedName::try_from(vec![attribute])?]);
    Name::from_der(&name.to_der()?)
}

/// An end entity's name: its id without `spiffe://` when that has room in a common name, else as
/// many whole segments from the end as have, else a digest of the id. It always has a `/`, which an
/// authority's name never has.
pub(super) fn of_identity(id: &PeerId) -> der::Result<Name> {
    common_name(&short_form(id))
}

fn short_form(id: &PeerId) -> String {
    let whole = id.as_str().strip_prefix("spiffe://").unwrap_or_default();
    if whole.len() <= LONGEST_COMMON_NAME {
        return whole.to_owned();
    }
    // The first slash from which on the rest has room: the longest such tail.
    let tail = whole
        .match_indices('/')
        .map(|(at, _)| &whole[at..])
        .find(|tail| tail.len() <= LONGEST_COMMON_NAME);
    tail.map_or_else(|| digest_of(id), str::to_owned)
}

fn digest_of(id: &PeerId) -> String {
    let hash = digest(&SHA256, id.as_str().as_bytes());
    let hex: String = hash
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256/{}", &hex[..40])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(id: &str) -> String {
        short_form(&id.parse().unwrap())
    }

    #[test]
    fn a_short_id_is_its_own_common_name() {
        assert_eq!(short("spiffe://mesh.example/node/a"), "mesh.example/node/a");
        let name = of_identity(&"spiffe://mesh.example/node/a".parse().unwrap()).unwrap();
        assert_eq!(name.len(), 1);
    }

    #[test]
    fn a_long_id_gives_its_last_segments_or_a_digest_never_a_cut_segment() {
        let domain = "d".repeat(60);
        assert_eq!(
            short(&format!("spiffe://{domain}/site/node-a")),
            "/site/node-a"
        );
        let segment = "s".repeat(70);
        let digest = short(&format!("spiffe://mesh.example/{segment}"));
        assert!(
            digest.starts_with("sha256/") && digest.len() == 47,
            "{digest}"
        );
    }
}
