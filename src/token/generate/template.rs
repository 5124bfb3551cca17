//! The templates of a key pair, and which of their attributes may be left out when a module refuses
//! them. The ones that keep a key in are never left out.

use cryptoki::object::Attribute;
use cryptoki::types::Ulong;

use crate::token::KeyKind;
use crate::token::mechanism;
use crate::token::uri::KeyId;

/// DER of the curves' OIDs (CKA_EC_PARAMS): secp256r1, secp384r1, Ed25519.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: [u8; 5] = [0x06, 0x03, 0x2b, 0x65, 0x70];

/// 65537.
const EXPONENT: [u8; 3] = [1, 0, 1];

/// Both templates of a pair.
pub(super) struct Templates {
    public: Vec<Attribute>,
    private: Vec<Attribute>,
    /// May be left out, the least important first. The gate judges what came of it.
    optional: Vec<Optional>,
    state: State,
}

struct Optional {
    name: &'static str,
    attribute: Attribute,
    side: Side,
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Public,
    Private,
}

/// What is left out now: nothing; then each one alone; then the first few together.
#[derive(Clone, Copy)]
enum State {
    Full,
    Without(usize),
    WithoutFirst(usize),
}

impl Templates {
    pub(super) fn new(kind: KeyKind, label: &str, id: &KeyId) -> Self {
        let named = || {
            [
                Attribute::Label(label.into()),
                Attribute::Id(id.as_bytes().into()),
            ]
        };
        let mut public = vec![
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Verify(true),
        ];
        public.extend(named());
        public.extend(parameters(kind));
        let mut private = vec![
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ];
        private.extend(named());
        let optional = |name, side, attribute| Optional {
            name,
            attribute,
            side,
        };
        let allowed = Attribute::AllowedMechanisms(vec![mechanism::signing(kind)]);
        Self {
            public,
            private,
            optional: vec![
                optional(
                    "CKA_ENCRYPT (public key)",
                    Side::Public,
                    Attribute::Encrypt(false),
                ),
                optional(
                    "CKA_WRAP (public key)",
                    Side::Public,
                    Attribute::Wrap(false),
                ),
                optional(
                    "CKA_VERIFY_RECOVER (public key)",
                    Side::Public,
                    Attribute::VerifyRecover(false),
                ),
                optional("CKA_COPYABLE", Side::Private, Attribute::Copyable(false)),
                optional(
                    "CKA_MODIFIABLE (public key)",
                    Side::Public,
                    Attribute::Modifiable(false),
                ),
                optional(
                    "CKA_SIGN_RECOVER",
                    Side::Private,
                    Attribute::SignRecover(false),
                ),
                optional("CKA_DERIVE", Side::Private, Attribute::Derive(false)),
                optional("CKA_UNWRAP", Side::Private, Attribute::Unwrap(false)),
                optional("CKA_DECRYPT", Side::Private, Attribute::Decrypt(false)),
                optional("CKA_ALLOWED_MECHANISMS", Side::Private, allowed),
                optional(
                    "CKA_MODIFIABLE",
                    Side::Private,
                    Attribute::Modifiable(false),
                ),
            ],
            state: State::Full,
        }
    }

    /// The templates of the public and of the private key, without what is left out now.
    pub(super) fn build(&self) -> (Vec<Attribute>, Vec<Attribute>) {
        let (mut public, mut private) = (self.public.clone(), self.private.clone());
        for (index, optional) in self.optional.iter().enumerate() {
            if !self.is_left_out(index) {
                match optional.side {
                    Side::Public => public.push(optional.attribute.clone()),
                    Side::Private => private.push(optional.attribute.clone()),
                }
            }
        }
        (public, private)
    }

    /// After a refusal: leaves out the next choice. `false` when there is none left.
    pub(super) fn leave_out_next(&mut self) -> bool {
        let last = self.optional.len() - 1;
        self.state = match self.state {
            State::Full => State::Without(0),
            State::Without(index) if index < last => State::Without(index + 1),
            State::Without(_) => State::WithoutFirst(2),
            State::WithoutFirst(count) if count <= last => State::WithoutFirst(count + 1),
            State::WithoutFirst(_) => return false,
        };
        true
    }

    /// The names of what is left out now.
    pub(super) fn left_out(&self) -> Vec<String> {
        let left_out = |(index, optional): (usize, &Optional)| {
            self.is_left_out(index).then(|| optional.name.to_owned())
        };
        self.optional
            .iter()
            .enumerate()
            .filter_map(left_out)
            .collect()
    }

    fn is_left_out(&self, index: usize) -> bool {
        match self.state {
            State::Full => false,
            State::Without(one) => index == one,
            State::WithoutFirst(count) => index < count,
        }
    }
}

fn parameters(kind: KeyKind) -> Vec<Attribute> {
    let rsa = |bits| {
        vec![
            Attribute::ModulusBits(Ulong::new(bits)),
            Attribute::PublicExponent(EXPONENT.into()),
        ]
    };
    match kind {
        KeyKind::P256 => vec![Attribute::EcParams(P256.into())],
        KeyKind::P384 => vec![Attribute::EcParams(P384.into())],
        KeyKind::Ed25519 => vec![Attribute::EcParams(ED25519.into())],
        KeyKind::Rsa2048 => rsa(2048),
        KeyKind::Rsa3072 => rsa(3072),
        KeyKind::Rsa4096 => rsa(4096),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_key_in_is_in_every_template() {
        let id = KeyId::from_bytes(&[1]).unwrap();
        let mut templates = Templates::new(KeyKind::P256, "server", &id);
        assert!(templates.left_out().is_empty());
        let mut tries = 0;
        loop {
            let (_, private) = templates.build();
            for kept in [
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Token(true),
            ] {
                assert!(private.contains(&kept), "{kept:?}");
            }
            tries += 1;
            if !templates.leave_out_next() {
                break;
            }
        }
        assert_eq!(templates.left_out().len(), templates.optional.len());
        assert!(tries < 30, "{tries} tries");
    }
}
