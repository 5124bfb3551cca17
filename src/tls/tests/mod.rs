//! Handshakes over loopback: with ourselves, and with plain rustls peers that hold keys in memory.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{ActiveKeyExchange, CryptoProvider, SharedSecret, SupportedKxGroup};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, HandshakeKind,
    NamedGroup, RootCertStore, ServerConfig, SignatureScheme,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::provider::provider;
use super::signing::SignatureRecord;
use super::test_keeper::{TEST_KEEPER, TestKeeper, TestToken};
use super::*;
use crate::admission::{Gate, GateLimits, Width};
use crate::policy::test_authority::{
    CLIENT_AUTH, Profile, SERVER_AUTH, TestAuthority, TestLeaf, spare_pin,
};
use crate::policy::{PeerPolicy, PinLabel, Reason, SpkiPin};
use crate::role::TlsRole;

mod admission;
mod connections;
mod refusals;
mod slow_token;

const A: &str = "spiffe://mesh.example/node/a";
const B: &str = "spiffe://mesh.example/node/b";
const GATE: GateLimits = GateLimits {
    pending: 100,
    source_pending: 100,
    source_signatures: 100,
    stranger_signatures: 100,
    lane_threads: 2,
};
const LONG: Duration = Duration::from_secs(20);

/// Our own node, A, on the path of production: credentials, lane, keeper.
struct Node {
    handshakes: Handshakes,
    generations: watch::Sender<Arc<Generation>>,
    keeper: TestKeeper,
    credentials: [Credential; 2],
    anchors: TrustAnchors,
    listener: TcpListener,
    gate: Arc<Gate>,
}

/// What A is to be like.
#[derive(Default)]
struct Options {
    token: TestToken,
    deadline: Option<Duration>,
    gate: Option<GateLimits>,
}

impl Node {
    /// Node A, which trusts `authority` and has `policy`.
    async fn start(authority: &TestAuthority, options: Options) -> Self {
        let server = authority.issue(&Profile::of(TlsRole::Server, A));
        let client = authority.issue(&Profile::of(TlsRole::Client, A));
        let keeper = TestKeeper::start(&options.token, &server, &client);
        let credential = |role, leaf: &TestLeaf| {
            Credential::new(role, &leaf.pem, keeper.key(role, leaf)).unwrap()
        };
        let credentials = [
            credential(TlsRole::Server, &server),
            credential(TlsRole::Client, &client),
        ];
        let anchors = TrustAnchors::from_pem(&authority.pem()).unwrap();
        let [server, client] = credentials.clone();
        let generation =
            Generation::new(PeerPolicy::default(), &anchors, Some(server), Some(client)).unwrap();
        let (generations, receiver) = watch::channel(Arc::new(generation));
        let width = Width {
            threads: options.token.sessions,
            sessions: options.token.sessions,
        };
        let lane = Arc::new(Lane::start(width).unwrap());
        let deadline = options.deadline.unwrap_or(LONG);
        let handshakes = Handshakes::new(lane, receiver, deadline).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            handshakes,
            generations,
            keeper,
            credentials,
            anchors,
            listener,
            gate: Gate::new(options.gate.unwrap_or(GATE), Instant::now()),
        }
    }

    fn lists(&self, policy: &str) {
        let policy = PeerPolicy::parse(policy).unwrap();
        let [server, client] = self.credentials.clone();
        let generation =
            Generation::new(policy, &self.anchors, Some(server), Some(client)).unwrap();
        self.generations.send_replace(Arc::new(generation));
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    async fn accept(&self) -> Result<Connection, HandshakeError> {
        let (tcp, address) = self.listener.accept().await.unwrap();
        self.accept_as(true, tcp, address).await
    }

    /// Whether an address is listed is the node's affair: here it is the test's.
    async fn accept_as(
        &self,
        listed: bool,
        tcp: TcpStream,
        address: SocketAddr,
    ) -> Result<Connection, HandshakeError> {
        let entry = self.gate.enter(address.ip(), listed, Instant::now());
        let entry = entry.map_err(HandshakeError::Turned)?;
        self.handshakes.accept(tcp, address, &entry).await
    }

    async fn dial(&self, id: &str, address: SocketAddr) -> Result<Connection, HandshakeError> {
        let tcp = TcpStream::connect(address).await.unwrap();
        self.handshakes
            .dial(&id.parse().unwrap(), address, tcp, Inside::H2)
            .await
    }

    fn pins(&self) -> [SpkiPin; 2] {
        self.credentials
            .each_ref()
            .map(|own| own.end_entity().pin())
    }
}

fn listing(
    id: &str,
    address: Option<SocketAddr>,
    server: Option<SpkiPin>,
    client: Option<SpkiPin>,
) -> String {
    let mut text = format!("[[peer]]\nname = \"peer\"\nid = \"{id}\"\n");
    if let Some(address) = address {
        text += &format!("addresses = [\"{address}\"]\n");
    }
    for (table, pin) in [("server", server), ("client", client)] {
        if let Some(pin) = pin {
            let backup = spare_pin(table);
            text += &format!("[peer.{table}]\nactive = \"{pin}\"\nbackup = \"{backup}\"\n");
        }
    }
    text
}

fn lists_client(leaf: &TestLeaf) -> String {
    listing(B, None, None, Some(leaf.pin()))
}

/// Believes every server: for plain clients, whose server is under test.
#[derive(Debug)]
struct BelievesAll;

impl ServerCertVerifier for BelievesAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn private_key(leaf: &TestLeaf) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(leaf.key.serialized_der().to_vec().into())
}

/// A plain rustls client that shows `leaf`.
fn plain_client(provider: Arc<CryptoProvider>, leaf: Option<&TestLeaf>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(BelievesAll));
    let mut config = match leaf {
        Some(leaf) => {
            let chain = vec![leaf.der.clone().into()];
            builder
                .with_client_auth_cert(chain, private_key(leaf))
                .unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;

async fn connect(config: ClientConfig, address: SocketAddr) -> std::io::Result<ClientStream> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::IpAddress(address.ip().into());
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

/// What A says to a plain client with `leaf`, and the alert that the client hears.
async fn met(node: &Node, leaf: Option<&TestLeaf>) -> (HandshakeError, AlertDescription) {
    let client = connect(plain_client(provider(), leaf), node.address());
    let (ours, theirs) = tokio::join!(node.accept(), async {
        // A client is done before the server has judged it: the alert comes with the first read.
        match client.await {
            Ok(mut stream) => stream.read(&mut [0]).await.unwrap_err(),
            Err(error) => error,
        }
    });
    let heard = match theirs.downcast::<Error>() {
        Ok(Error::AlertReceived(alert)) => alert,
        other => panic!("no alert but {other:?}"),
    };
    (ours.expect_err("should be refused"), heard)
}

/// A plain rustls server that shows `leaf` and believes clients of `authority`.
fn plain_server(leaf: &TestLeaf, authority: Option<&TestAuthority>) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let builder = match authority {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            use rustls::pki_types::pem::PemObject;
            roots
                .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap())
                .unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
        None => builder.with_no_client_auth(),
    };
    let chain = vec![leaf.der.clone().into()];
    let mut config = builder.with_single_cert(chain, private_key(leaf)).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// What A says when it dials a plain server, as B, that `lists` gives the server's address.
async fn dialled(
    node: &Node,
    config: ServerConfig,
    policy: impl FnOnce(SocketAddr) -> String,
) -> Result<Connection, HandshakeError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    node.lists(&policy(address));
    let serving = async {
        let (tcp, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(config)).accept(tcp).await
    };
    let (ours, theirs) = tokio::join!(node.dial(B, address), serving);
    drop(theirs);
    ours
}

/// A group that nobody has, first in a client's list: the server must ask for another key share.
#[derive(Debug)]
struct NobodysGroup;

impl SupportedKxGroup for NobodysGroup {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Self))
    }
    fn name(&self) -> NamedGroup {
        NamedGroup::from(0x2a2a)
    }
}

impl ActiveKeyExchange for NobodysGroup {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, Error> {
        Err(Error::General("nobody's group".into()))
    }
    fn pub_key(&self) -> &[u8] {
        &[7; 32]
    }
    fn group(&self) -> NamedGroup {
        self.name()
    }
}

fn forcing_a_retry() -> Arc<CryptoProvider> {
    use rustls::crypto::aws_lc_rs::kx_group::X25519;
    super::provider::with_groups(&[&NobodysGroup, X25519])
}
