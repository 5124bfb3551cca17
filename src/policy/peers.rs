//! The allow-list: which peers exist, where they are, which keys they hold in which role.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::address::{PeerAddress, ResolvedHosts};
use super::{Methods, PeerId, PinSet};
use crate::role::TlsRole;

/// One listed peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub(super) name: Arc<str>,
    pub(super) id: PeerId,
    pub(super) addresses: Vec<PeerAddress>,
    pub(super) server: Option<PinSet>,
    pub(super) client: Option<PinSet>,
    pub(super) methods: Arc<Methods>,
}

impl Peer {
    /// The short name for commands and logs: 1 to 63 of `a-z 0-9 -`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The identity that its certificates must carry.
    pub fn id(&self) -> &PeerId {
        &self.id
    }

    /// Where it is dialled, in the order of preference; empty for a peer that only dials us.
    pub fn addresses(&self) -> &[PeerAddress] {
        &self.addresses
    }

    /// Every socket address it may be dialled at.
    pub fn socket_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses
            .iter()
            .flat_map(|address| address.resolved().iter().copied())
    }

    /// The pins of the key that it uses in `role`; `None` when it may not act in that role.
    pub fn pins(&self, role: TlsRole) -> Option<&PinSet> {
        match role {
            TlsRole::Server => self.server.as_ref(),
            TlsRole::Client => self.client.as_ref(),
        }
    }

    /// The calls that it may make.
    pub fn methods(&self) -> &Methods {
        &self.methods
    }
}

/// Every peer that we talk to. Made by [`PeerPolicy::parse`]; the default is empty and denies all.
#[derive(Clone, Debug, Default)]
pub struct PeerPolicy {
    peers: Vec<Peer>,
    by_id: HashMap<PeerId, usize>,
    /// The IP addresses of all peers.
    ips: HashSet<IpAddr>,
}

impl PeerPolicy {
    /// `peers` must have distinct identities: [`PeerPolicy::parse`] has seen to it.
    pub(super) fn of(peers: Vec<Peer>) -> Self {
        let by_id = peers
            .iter()
            .enumerate()
            .map(|(index, peer)| (peer.id.clone(), index))
            .collect();
        let mut policy = Self {
            peers,
            by_id,
            ips: HashSet::new(),
        };
        policy.index_addresses();
        policy
    }

    /// The peers in the order of the file.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// The peer with this identity.
    pub fn peer(&self, id: &PeerId) -> Option<&Peer> {
        self.by_id.get(id).and_then(|index| self.peers.get(*index))
    }

    /// The peer with this short name.
    pub fn named(&self, name: &str) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.name() == name)
    }

    /// The peer that is dialled at `address`: one that the policy writes, or one that it stands for.
    pub fn at(&self, address: &str) -> Option<&Peer> {
        let address: PeerAddress = address.parse().ok()?;
        let is_here = |own: &PeerAddress| match address.resolved() {
            [literal] => own.holds(*literal),
            _ => own.as_str() == address.as_str(),
        };
        self.peers
            .iter()
            .find(|peer| peer.addresses.iter().any(is_here))
    }

    /// The addresses of the form `host:port`, to be resolved and handed to
    /// [`PeerPolicy::with_resolved`].
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.peers
            .iter()
            .flat_map(|peer| &peer.addresses)
            .filter(|address| address.is_host())
            .map(PeerAddress::as_str)
    }

    /// The TCP ports that peers are dialled at.
    pub fn ports(&self) -> BTreeSet<u16> {
        let addresses = self.peers.iter().flat_map(Peer::addresses);
        addresses.map(PeerAddress::port).collect()
    }

    /// The same policy with its host names standing for what they resolved to; a host that is not
    /// in `hosts` has no address, and what is not found can be neither dialled nor accepted there.
    #[must_use]
    pub fn with_resolved(mut self, hosts: &ResolvedHosts) -> Self {
        for peer in &mut self.peers {
            for address in &mut peer.addresses {
                address.resolve(hosts);
            }
        }
        self.index_addresses();
        self
    }

    /// Whether some peer is dialled at this IP address, whatever the port. It proves nothing: it only
    /// tells whose connections are to be expected.
    pub fn lists(&self, ip: IpAddr) -> bool {
        self.ips.contains(&ip.to_canonical())
    }

    fn index_addresses(&mut self) {
        let addresses = self.peers.iter().flat_map(Peer::socket_addresses);
        self.ips = addresses
            .map(|address| address.ip().to_canonical())
            .collect();
    }
}
