//! What a keeper may sign: a TLS 1.3 CertificateVerify input for the key's own role, and nothing
//! else. This is why a keeper is not a signing oracle.

use crate::role::TlsRole;

const PADDING: [u8; 64] = [0x20; 64];
const SERVER_CONTEXT: &[u8; 33] = b"TLS 1.3, server CertificateVerify";
const CLIENT_CONTEXT: &[u8; 33] = b"TLS 1.3, client CertificateVerify";

/// Proof that bytes are a CertificateVerify input for one role. Only [`certificate_verify`] makes
/// one, and the keeper signs nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Signable<'a>(&'a [u8]);

impl<'a> Signable<'a> {
    /// The bytes to sign, unhashed: 130 or 146.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

/// Accepts `input` when it is, to the byte, a CertificateVerify input for `role`: 64 spaces, the
/// role's context string, a zero byte and a transcript hash of 32 or 48 bytes (RFC 8446 §4.4.3).
pub fn certificate_verify(role: TlsRole, input: &[u8]) -> Option<Signable<'_>> {
    let rest = input.strip_prefix(&PADDING)?;
    let rest = rest.strip_prefix(context(role))?;
    let transcript_hash = rest.strip_prefix(&[0])?;
    matches!(transcript_hash.len(), 32 | 48).then_some(Signable(input))
}

/// A CertificateVerify input over a random "transcript hash": what a keeper signs to prove, at
/// start and as a health probe, that a key works. No handshake has this hash, so the signature is
/// of no use to anyone.
pub fn probe(role: TlsRole, nonce: [u8; 32]) -> [u8; 130] {
    let mut input = [0; 130];
    input[..64].copy_from_slice(&PADDING);
    input[64..97].copy_from_slice(context(role));
    input[98..].copy_from_slice(&nonce);
    input
}

fn context(role: TlsRole) -> &'static [u8; 33] {
    match role {
        TlsRole::Server => SERVER_CONTEXT,
        TlsRole::Client => CLIENT_CONTEXT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_signable_for_its_own_role_only() {
        for role in [TlsRole::Server, TlsRole::Client] {
            let input = probe(role, [7; 32]);
            assert!(certificate_verify(role, &input).is_some());
            assert!(certificate_verify(role.opposite(), &input).is_none());
        }
    }

    #[test]
    fn a_changed_byte_before_the_hash_or_another_length_is_refused() {
        let input = probe(TlsRole::Server, [7; 32]);
        for index in 0..98 {
            let mut changed = input;
            changed[index] ^= 1;
            assert!(
                certificate_verify(TlsRole::Server, &changed).is_none(),
                "byte {index}"
            );
        }
        for length in 0..200 {
            let mut resized = input.to_vec();
            resized.resize(length, 7);
            let allowed = certificate_verify(TlsRole::Server, &resized).is_some();
            assert_eq!(allowed, length == 130 || length == 146, "length {length}");
        }
    }
}
