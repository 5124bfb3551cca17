//! The one message that crosses from the node to a keeper, and its answer.
//!
//! Fixed layout, big endian, at most [`MAX_REQUEST`] and [`MAX_REPLY`] bytes: each travels as one
//! packet of a `SOCK_SEQPACKET` socket pair (unix(7)), so there is no framing to get wrong. This is
//! all that a compromised node can say to the process that holds the token.
//!
//! ```text
//! request  id: u64 | key: u8 | scheme: u16 | input: 130 or 146 bytes (RFC 8446 §4.4.3)
//! reply    id: u64 | keeper: u32 | status: u8 | signature: 0 … 512 bytes
//! ```

use crate::token::Scheme;

/// Longest request: header and the longest CertificateVerify input.
pub const MAX_REQUEST: usize = REQUEST_HEADER + LONGEST_INPUT;
/// Longest reply: header and an RSA-4096 signature.
pub const MAX_REPLY: usize = REPLY_HEADER + LONGEST_SIGNATURE;

/// Packets that whoever takes a channel's place throws away at once; the other side may go on sending. More
/// than wait in a socket of Linux's own size (`net.core.wmem_default` of 208 KiB: 277 of them).
pub(crate) const MOST_STALE: usize = 400;

/// The id of a reply that answers no request: the keeper was replaced and what it had is lost.
pub const REPLACED: u64 = 0;

const REQUEST_HEADER: usize = 8 + 1 + 2;
const REPLY_HEADER: usize = 8 + 4 + 1;
const LONGEST_INPUT: usize = 146;
const LONGEST_SIGNATURE: usize = 512;

/// Which of a keeper's keys: an index into the list that the supervisor gave to both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct KeyIndex(pub u8);

/// A request for one signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Chosen by the node, echoed by the keeper: a late answer is recognised and dropped.
    pub id: u64,
    /// The key to sign with. Its role is the keeper's knowledge, not the node's choice.
    pub key: KeyIndex,
    /// The scheme rustls settled on.
    pub scheme: Scheme,
    /// What to sign, unhashed.
    pub input: &'a [u8],
}

/// Why a keeper did not sign. One byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// The packet is not a request.
    #[error("the keeper did not understand the request")]
    Malformed = 1,
    /// No key has this index.
    #[error("the keeper has no such key")]
    UnknownKey = 2,
    /// The bytes are not a TLS 1.3 CertificateVerify input for this key's role.
    #[error("the keeper signs only TLS 1.3 CertificateVerify inputs for the key's own role")]
    WrongPurpose = 3,
    /// The key does not sign with this scheme.
    #[error("the key does not sign with this scheme")]
    WrongScheme = 4,
    /// The token failed; the keeper's log says how.
    #[error("the token failed to sign")]
    Token = 5,
}

impl Refusal {
    /// The name for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed-request",
            Self::UnknownKey => "unknown-key",
            Self::WrongPurpose => "wrong-purpose",
            Self::WrongScheme => "wrong-scheme",
            Self::Token => "token",
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [
            Self::Malformed,
            Self::UnknownKey,
            Self::WrongPurpose,
            Self::WrongScheme,
            Self::Token,
        ]
        .into_iter()
        .find(|refusal| *refusal as u8 == code)
    }
}

/// The answer to a [`Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The id of the request that this answers.
    pub id: u64,
    /// Process id of the keeper that answers.
    pub keeper: u32,
    /// The signature as TLS wants it (ECDSA: DER), or why there is none.
    pub outcome: Result<&'a [u8], Refusal>,
}

/// A packet that is not a request or not a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message of the keeper's protocol")]
pub struct Malformed;

impl<'a> Request<'a> {
    /// Writes the request into `packet` and returns its length in bytes.
    ///
    /// # Errors
    /// [`Malformed`] when the input is longer than any CertificateVerify input.
    pub fn encode(&self, packet: &mut [u8; MAX_REQUEST]) -> Result<usize, Malformed> {
        let length = REQUEST_HEADER + self.input.len();
        let body = packet.get_mut(REQUEST_HEADER..length).ok_or(Malformed)?;
        body.copy_from_slice(self.input);
        packet[..8].copy_from_slice(&self.id.to_be_bytes());
        packet[8] = self.key.0;
        packet[9..11].copy_from_slice(&self.scheme.code().to_be_bytes());
        Ok(length)
    }

    /// Reads a request from one whole packet.
    ///
    /// # Errors
    /// [`Malformed`] when the packet is too short, too long, or names an unknown scheme.
    pub fn decode(packet: &'a [u8]) -> Result<Self, Malformed> {
        if packet.len() > MAX_REQUEST {
            return Err(Malformed);
        }
        let (id, rest) = packet.split_first_chunk().ok_or(Malformed)?;
        let (key, rest) = rest.split_first().ok_or(Malformed)?;
        let (scheme, input) = rest.split_first_chunk().ok_or(Malformed)?;
        Ok(Self {
            id: u64::from_be_bytes(*id),
            key: KeyIndex(*key),
            scheme: Scheme::from_code(u16::from_be_bytes(*scheme)).ok_or(Malformed)?,
            input,
        })
    }
}

impl<'a> Reply<'a> {
    /// Writes the reply into `packet` and returns its length in bytes.
    ///
    /// # Errors
    /// [`Malformed`] when the signature is longer than an RSA-4096 one.
    pub fn encode(&self, packet: &mut [u8; MAX_REPLY]) -> Result<usize, Malformed> {
        let (status, signature) = match self.outcome {
            Ok(signature) => (0, signature),
            Err(refusal) => (refusal as u8, &[][..]),
        };
        let length = REPLY_HEADER + signature.len();
        let body = packet.get_mut(REPLY_HEADER..length).ok_or(Malformed)?;
        body.copy_from_slice(signature);
        packet[..8].copy_from_slice(&self.id.to_be_bytes());
        packet[8..12].copy_from_slice(&self.keeper.to_be_bytes());
        packet[12] = status;
        Ok(length)
    }

    /// Reads a reply from one whole packet.
    ///
    /// # Errors
    /// [`Malformed`] when the packet is too short, too long, has an unknown status, an empty
    /// signature, or a refusal with bytes behind it.
    pub fn decode(packet: &'a [u8]) -> Result<Self, Malformed> {
        if packet.len() > MAX_REPLY {
            return Err(Malformed);
        }
        let (id, rest) = packet.split_first_chunk().ok_or(Malformed)?;
        let (keeper, rest) = rest.split_first_chunk().ok_or(Malformed)?;
        let (status, signature) = rest.split_first().ok_or(Malformed)?;
        let outcome = match (*status, signature.is_empty()) {
            (0, false) => Ok(signature),
            (code, true) => Err(Refusal::from_code(code).ok_or(Malformed)?),
            (_, false) => return Err(Malformed),
        };
        Ok(Self {
            id: u64::from_be_bytes(*id),
            keeper: u32::from_be_bytes(*keeper),
            outcome,
        })
    }
}
