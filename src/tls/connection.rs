//! What a handshake leaves behind: an encrypted stream and what is known about it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup};
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{ClientConfig, NamedGroup, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::inside::Inside;
use super::provider::with_groups;
use super::signing::SignedBy;
use crate::policy::Grant;

/// A peer that was allowed in, and the stream to it.
#[derive(Debug)]
pub struct Connection {
    /// HTTP/2 goes through here.
    pub stream: TlsStream<TcpStream>,
    /// What the handshake settled.
    pub facts: ConnectionFacts,
}

/// What is known about a connection once the handshake is done.
#[derive(Clone, Debug)]
pub struct ConnectionFacts {
    /// The peer, its role and its pin. When its policy changes, [`PeerPolicy::decide_again`]
    /// tells whether it may stay.
    ///
    /// [`PeerPolicy::decide_again`]: crate::policy::PeerPolicy::decide_again
    pub peer: Grant,
    /// `TLSv1.3`
    pub version: &'static str,
    /// IANA name of the key exchange group, `X25519MLKEM768` with our own kind.
    pub group: &'static str,
    /// IANA name of the cipher suite.
    pub suite: &'static str,
    /// What is spoken in it.
    pub inside: Inside,
    /// `h2`, `http/1.1` or `none`: see [`Inside`].
    pub alpn: &'static str,
    /// Who made our signature.
    pub signed_by: SignedBy,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// When the handshake was done.
    pub at: SystemTime,
}

/// Wraps finished handshakes into tokio-rustls streams.
///
/// tokio-rustls makes its streams only from handshakes that it runs itself, on the runtime that
/// serves. It offers the fresh TLS state to a closure first: ours puts the finished one in its
/// place, and there is nothing left to shake hands about.
#[derive(Clone)]
pub(super) struct Wrapping {
    client: TlsConnector,
}

impl Wrapping {
    /// # Errors
    /// A bug: rustls refuses a configuration that is the same at every start.
    pub(super) fn new() -> Result<Self, rustls::Error> {
        // Its state is thrown away unused, so a key share would be made in vain.
        let config = ClientConfig::builder_with_provider(with_groups(&[&NoExchange]))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        Ok(Self {
            client: Arc::new(config).into(),
        })
    }

    pub(super) fn server(
        &self,
        tcp: TcpStream,
        config: Arc<ServerConfig>,
        finished: rustls::ServerConnection,
    ) -> impl Future<Output = io::Result<TlsStream<TcpStream>>> + use<> {
        let place = |state: &mut rustls::ServerConnection| *state = finished;
        let accept = TlsAcceptor::from(config).accept_with(tcp, place);
        async { Ok(accept.await?.into()) }
    }

    pub(super) fn client(
        &self,
        tcp: TcpStream,
        name: ServerName<'static>,
        finished: rustls::ClientConnection,
    ) -> impl Future<Output = io::Result<TlsStream<TcpStream>>> + use<> {
        let place = |state: &mut rustls::ClientConnection| *state = finished;
        let connect = self.client.connect_with(name, tcp, place);
        async { Ok(connect.await?.into()) }
    }
}

/// In the place of a key exchange where none takes place: it agrees on nothing.
#[derive(Debug)]
struct NoExchange;

impl SupportedKxGroup for NoExchange {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, rustls::Error> {
        Ok(Box::new(Self))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl ActiveKeyExchange for NoExchange {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, rustls::Error> {
        Err(rustls::Error::General("no key exchange takes place".into()))
    }

    fn pub_key(&self) -> &[u8] {
        &[0; 32]
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_for_a_key_exchange_agrees_on_nothing() {
        let started = NoExchange.start().unwrap();
        assert!(started.complete(&[9; 32]).is_err());
        assert!(NoExchange.start_and_complete(&[9; 32]).is_err());
    }
}
