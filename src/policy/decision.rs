//! The decision about a certificate that WebPKI has accepted: each term only narrows.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{EndEntity, Methods, PeerId, PeerPolicy, PinLabel};
use crate::role::TlsRole;

/// What a peer showed, and what we know of the connection it showed it on.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The DER of its end entity certificate.
    pub end_entity: &'a [u8],
    /// The role it acts in: [`TlsRole::Server`] when we dialled it.
    pub role: TlsRole,
    /// Whom we meant to reach and where, when we dialled.
    pub dialled: Option<(&'a PeerId, SocketAddr)>,
}

/// Whether a peer may talk to us. Allow carries its limits.
#[must_use]
#[derive(Clone, Debug)]
pub enum Decision {
    /// The peer is who we think it is.
    Allow(Grant),
    /// It is refused. It learns no more than that; the reason is for our log.
    Deny(Reason),
}

impl Decision {
    /// The grant, or the reason why there is none.
    ///
    /// # Errors
    /// The [`Reason`] of a denial.
    pub fn into_result(self) -> Result<Grant, Reason> {
        match self {
            Self::Allow(grant) => Ok(grant),
            Self::Deny(reason) => Err(reason),
        }
    }
}

/// Proof that a policy allowed this peer in this role. Only decisions of a [`PeerPolicy`] make one. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    name: Arc<str>,
    label: PinLabel,
    end_entity: Arc<EndEntity>,
    dialled: Option<(PeerId, SocketAddr)>,
    methods: Arc<Methods>,
}

impl Grant {
    /// The peer's short name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The peer's identity.
    pub fn id(&self) -> &PeerId {
        self.end_entity.id()
    }

    /// The role that the peer acts in.
    pub fn role(&self) -> TlsRole {
        self.end_entity.role()
    }

    /// Which of its pins its key matched.
    pub fn label(&self) -> PinLabel {
        self.label
    }

    /// Its certificate: pin, end of validity, serial number.
    pub fn end_entity(&self) -> &Arc<EndEntity> {
        &self.end_entity
    }

    /// The address that we dialled it at, when we did.
    pub fn dialled(&self) -> Option<SocketAddr> {
        self.dialled.as_ref().map(|(_, address)| *address)
    }

    /// The calls that it may make.
    pub fn methods(&self) -> &Methods {
        &self.methods
    }
}

/// Why a peer is refused. The texts are fixed and hold nothing that a peer chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Not DER of an X.509 certificate (RFC 5280 §4.1), or an extension stands in it twice.
    #[error("the certificate cannot be read")]
    UnreadableCertificate,
    /// `cA` is true (RFC 5280 §4.2.1.9): an authority's key is no peer's key.
    #[error("the certificate is an authority's")]
    AuthorityCertificate,
    /// No URI subject alternative name.
    #[error("the certificate names no URI")]
    NoIdentity,
    /// More than one URI subject alternative name (X509-SVID §2 allows exactly one).
    #[error("the certificate names several URIs")]
    SeveralIdentities,
    /// The URI is not a SPIFFE ID.
    #[error("the certificate's URI is not a SPIFFE ID")]
    MalformedIdentity,
    /// Extended key usage is not exactly `serverAuth` or `clientAuth`, or not the one of the role
    /// that the peer acts in.
    #[error("the certificate's extended key usage is not exactly that of the role")]
    WrongExtendedKeyUsage,
    /// Key usage is there without `digitalSignature`, which TLS asks for (RFC 8446 §4.4.2.2), or with a
    /// right of authorities (RFC 5280 §4.2.1.3).
    #[error("the certificate's key usage is not that of a peer's key")]
    WrongKeyUsage,
    /// The identity is not in the policy.
    #[error("the peer is not listed")]
    Unlisted,
    /// Somebody else answered at the address that we dialled.
    #[error("the peer is not the one that was dialled")]
    NotThePeerDialled,
    /// The policy does not give the dialled address to this peer.
    #[error("the address is not one of the peer's")]
    AddressNotOfPeer,
    /// The peer has no pins in this role.
    #[error("the peer may not act in this role")]
    NotInThatRole,
    /// The key is neither the active nor the backup pin.
    #[error("the peer's key is not pinned")]
    KeyNotPinned,
    /// The peer's list of methods does not name the one that it calls.
    #[error("the peer may not call this method")]
    MethodNotAllowed,
}

impl Reason {
    /// The name for logs, metrics and tests.
    pub fn code(self) -> &'static str {
        match self {
            Self::UnreadableCertificate => "unreadable-certificate",
            Self::AuthorityCertificate => "authority-certificate",
            Self::NoIdentity => "no-identity",
            Self::SeveralIdentities => "several-identities",
            Self::MalformedIdentity => "malformed-identity",
            Self::WrongExtendedKeyUsage => "wrong-extended-key-usage",
            Self::WrongKeyUsage => "wrong-key-usage",
            Self::Unlisted => "unlisted",
            Self::NotThePeerDialled => "not-the-peer-dialled",
            Self::AddressNotOfPeer => "address-not-of-peer",
            Self::NotInThatRole => "not-in-that-role",
            Self::KeyNotPinned => "key-not-pinned",
            Self::MethodNotAllowed => "method-not-allowed",
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}) as {}, {} pin",
            self.name,
            self.id(),
            self.role(),
            self.label
        )
    }
}

impl PeerPolicy {
    /// Decides about a certificate whose chain, validity and possession WebPKI and TLS have
    /// verified or are about to verify. Costs a few microseconds and touches nothing.
    pub fn decide(&self, presented: Presented<'_>) -> Decision {
        match EndEntity::read(presented.end_entity) {
            Ok(end_entity) => self.decide_read(&Arc::new(end_entity), presented),
            Err(reason) => Decision::Deny(reason),
        }
    }

    /// The same where `end_entity` is what was read in the certificate before.
    pub(crate) fn decide_read(
        &self,
        end_entity: &Arc<EndEntity>,
        presented: Presented<'_>,
    ) -> Decision {
        let dialled = presented.dialled.map(|(id, address)| (id.clone(), address));
        match self.judge(Arc::clone(end_entity), presented.role, dialled) {
            Ok(grant) => Decision::Allow(grant),
            Err(reason) => Decision::Deny(reason),
        }
    }

    /// Decides again about a live connection: what an earlier policy granted, this one may deny.
    pub fn decide_again(&self, grant: &Grant) -> Decision {
        match self.judge(
            grant.end_entity.clone(),
            grant.role(),
            grant.dialled.clone(),
        ) {
            Ok(grant) => Decision::Allow(grant),
            Err(reason) => Decision::Deny(reason),
        }
    }

    fn judge(
        &self,
        end_entity: Arc<EndEntity>,
        role: TlsRole,
        dialled: Option<(PeerId, SocketAddr)>,
    ) -> Result<Grant, Reason> {
        if end_entity.role() != role {
            return Err(Reason::WrongExtendedKeyUsage);
        }
        // A server is always somebody whom we dialled, and a client never is.
        if dialled.as_ref().map(|(id, _)| id) != (role == TlsRole::Server).then(|| end_entity.id())
        {
            return Err(Reason::NotThePeerDialled);
        }
        let peer = self.peer(end_entity.id()).ok_or(Reason::Unlisted)?;
        if let Some((_, address)) = dialled
            && !peer.addresses().iter().any(|own| own.holds(address))
        {
            return Err(Reason::AddressNotOfPeer);
        }
        let pins = peer.pins(role).ok_or(Reason::NotInThatRole)?;
        let label = pins
            .label_of(&end_entity.pin())
            .ok_or(Reason::KeyNotPinned)?;
        Ok(Grant {
            name: peer.name.clone(),
            label,
            end_entity,
            dialled,
            methods: Arc::clone(&peer.methods),
        })
    }
}
