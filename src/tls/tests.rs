//! Handshakes over loopback: with ourselves, and with plain rustls peers that hold keys in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

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
use super::test_keeper::{TEST_KEEPER, TestKeeper, TestToken};
use super::*;
use crate::policy::test_authority::{
    CLIENT_AUTH, Profile, SERVER_AUTH, TestAuthority, TestLeaf, spare_pin,
};
use crate::policy::{PeerPolicy, PinLabel, Reason, SpkiPin};
use crate::role::TlsRole;

const A: &str = "spiffe://mesh.example/node/a";
const B: &str = "spiffe://mesh.example/node/b";
const LONG: Duration = Duration::from_secs(20);

/// Our own node, A, on the path of production: credentials, lane, keeper.
struct Node {
    handshakes: Handshakes,
    generations: watch::Sender<Arc<Generation>>,
    keeper: TestKeeper,
    credentials: [Credential; 2],
    anchors: TrustAnchors,
    listener: TcpListener,
}

/// What A is to be like.
#[derive(Default)]
struct Options {
    token: TestToken,
    deadline: Option<Duration>,
}

impl Node {
    /// Node A, which trusts `authority` and has `policy`.
    async fn start(authority: &TestAuthority, options: Options) -> Self {
        let server = authority.issue(&Profile::of(TlsRole::Server, A));
        let client = authority.issue(&Profile::of(TlsRole::Client, A));
        let keeper = TestKeeper::start(options.token, &server, &client);
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
        let lane = Arc::new(Lane::start(options.token.sessions).unwrap());
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
        let (tcp, _) = self.listener.accept().await.unwrap();
        self.handshakes.accept(tcp).await
    }

    async fn dial(&self, id: &str, address: SocketAddr) -> Result<Connection, HandshakeError> {
        let tcp = TcpStream::connect(address).await.unwrap();
        self.handshakes
            .dial(&id.parse().unwrap(), address, tcp)
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

#[tokio::test]
async fn two_nodes_with_token_keys_shake_hands_both_ways() {
    let authority = TestAuthority::new();
    let (a, b) = tokio::join!(
        Node::start(&authority, Options::default()),
        Node::start(&authority, Options::default())
    );
    // Both call themselves A here; each lists the other's keys.
    let [server, client] = b.pins();
    a.lists(&listing(A, Some(b.address()), Some(server), Some(client)));
    let [server, client] = a.pins();
    b.lists(&listing(A, Some(a.address()), Some(server), Some(client)));

    for (from, to) in [(&a, &b), (&b, &a)] {
        let (dialled, accepted) = tokio::join!(from.dial(A, to.address()), to.accept());
        let (mut dialled, mut accepted) = (dialled.unwrap(), accepted.unwrap());
        for (facts, role) in [
            (&dialled.facts, TlsRole::Server),
            (&accepted.facts, TlsRole::Client),
        ] {
            assert_eq!((facts.peer.id().as_str(), facts.peer.role()), (A, role));
            assert_eq!(facts.peer.label(), PinLabel::Active);
            let settled = (facts.version, facts.group, facts.suite, facts.alpn);
            let expected = ("TLSv1.3", "X25519MLKEM768", "TLS_AES_128_GCM_SHA256", "h2");
            assert_eq!(settled, expected);
            assert_eq!(facts.signed_by, TEST_KEEPER);
        }
        assert_eq!(dialled.facts.local, accepted.facts.remote);
        assert_eq!(dialled.facts.peer.dialled(), Some(to.address()));
        dialled.stream.write_all(b"ping").await.unwrap();
        let mut heard = [0; 4];
        accepted.stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");
        accepted.stream.write_all(b"pong").await.unwrap();
        accepted.stream.shutdown().await.unwrap();
        dialled.stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"pong");
        assert_eq!(dialled.stream.read(&mut heard).await.unwrap(), 0);
    }
    assert_eq!((a.keeper.asked(), b.keeper.asked()), (2, 2));
}

#[tokio::test]
async fn data_right_behind_the_clients_finished_is_not_lost() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    for size in [1, 100, 5_000, 100_000] {
        let client = async {
            let mut stream = connect(plain_client(provider(), Some(&leaf)), node.address())
                .await
                .unwrap();
            stream.write_all(&vec![7; size]).await.unwrap();
            stream.shutdown().await.unwrap();
            stream
        };
        let server = async {
            let mut accepted = node.accept().await.unwrap();
            let mut heard = Vec::new();
            accepted.stream.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let (_stream, heard) = tokio::join!(client, server);
        assert!(
            heard.len() == size && heard.iter().all(|byte| *byte == 7),
            "{size}"
        );
    }
}

#[tokio::test]
async fn the_server_chooses_the_suite_and_uses_the_clients_group() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    assert_ne!(
        provider.cipher_suites[0].suite(),
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
    );
    let provider = Arc::new(CryptoProvider {
        kx_groups: vec![rustls::crypto::aws_lc_rs::kx_group::SECP256R1],
        ..provider
    });
    let client = connect(plain_client(provider, Some(&leaf)), node.address());
    let (ours, theirs) = tokio::join!(node.accept(), client);
    let facts = ours.unwrap().facts;
    assert_eq!(
        (facts.suite, facts.group),
        ("TLS_AES_128_GCM_SHA256", "secp256r1")
    );
    drop(theirs);
}

#[tokio::test]
async fn a_client_that_is_not_a_listed_peer_with_its_own_key_is_refused() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let of = |profile: Profile| authority.issue(&profile);
    let good = || Profile::of(TlsRole::Client, B);

    let (error, alert) = met(&node, None).await;
    assert!(matches!(error, HandshakeError::NoCertificate), "{error:?}");
    assert_eq!(alert, AlertDescription::CertificateRequired);

    let strangers = TestAuthority::new().issue(&good());
    node.lists(&lists_client(&strangers));
    let (error, alert) = met(&node, Some(&strangers)).await;
    // The strangers' authority has the name of ours, so its signature gives it away.
    assert!(
        matches!(
            &error,
            HandshakeError::NotTrusted(Error::InvalidCertificate(CertificateError::BadSignature))
        ),
        "{error:?}"
    );
    assert_eq!(alert, AlertDescription::DecryptError);

    for years in [(2020, 2021), (3000, 3001)] {
        let leaf = of(Profile { years, ..good() });
        node.lists(&lists_client(&leaf));
        let (error, alert) = met(&node, Some(&leaf)).await;
        assert!(matches!(error, HandshakeError::NotTrusted(_)), "{error:?}");
        assert_eq!(alert, AlertDescription::CertificateExpired);
    }

    // WebPKI already refuses a certificate that is only a server's.
    let leaf = of(Profile {
        usages: vec![SERVER_AUTH],
        ..good()
    });
    node.lists(&lists_client(&leaf));
    let (error, _) = met(&node, Some(&leaf)).await;
    assert!(matches!(error, HandshakeError::NotTrusted(_)), "{error:?}");

    let (both, unpinned, unlisted) = (
        of(Profile {
            usages: vec![CLIENT_AUTH, SERVER_AUTH],
            ..good()
        }),
        of(good()),
        of(Profile::of(TlsRole::Client, "spiffe://mesh.example/node/c")),
    );
    let twice = of(Profile {
        uris: vec![B.into(), A.into()],
        ..good()
    });
    for (leaf, policy, reason) in [
        (&both, lists_client(&both), Reason::WrongExtendedKeyUsage),
        (&unpinned, lists_client(&both), Reason::KeyNotPinned),
        (&unlisted, lists_client(&unlisted), Reason::Unlisted),
        (
            &unpinned,
            listing(B, None, Some(unpinned.pin()), None),
            Reason::NotInThatRole,
        ),
        (&twice, lists_client(&twice), Reason::SeveralIdentities),
    ] {
        node.lists(&policy);
        let (error, alert) = met(&node, Some(leaf)).await;
        assert!(
            matches!(error, HandshakeError::Refused(found) if found == reason),
            "{error:?}"
        );
        assert_eq!(error.code(), reason.code());
        // One alert for all reasons: a stranger cannot probe the policy.
        assert_eq!(alert, AlertDescription::CertificateUnknown);
    }
}

#[tokio::test]
async fn a_server_that_is_not_the_peer_dialled_is_refused_without_our_signature() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let of = |profile: Profile| authority.issue(&profile);
    let good = || Profile::of(TlsRole::Server, B);
    let leaf = of(good());
    let lists = |pin| move |address| listing(B, Some(address), Some(pin), None);

    let refusals = [
        (
            of(Profile::of(TlsRole::Server, "spiffe://mesh.example/node/c")),
            Reason::NotThePeerDialled,
        ),
        (of(good()), Reason::KeyNotPinned),
        (
            of(Profile {
                usages: vec![SERVER_AUTH, CLIENT_AUTH],
                ..good()
            }),
            Reason::WrongExtendedKeyUsage,
        ),
    ];
    for (leaf, reason) in &refusals {
        let config = plain_server(leaf, Some(&authority));
        let pin = if *reason == Reason::KeyNotPinned {
            spare_pin("other")
        } else {
            leaf.pin()
        };
        let error = dialled(&node, config, lists(pin)).await.unwrap_err();
        assert!(
            matches!(error, HandshakeError::Refused(found) if found == *reason),
            "{error:?}"
        );
    }
    let elsewhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let config = plain_server(&leaf, Some(&authority));
    let policy = |_| listing(B, Some(elsewhere), Some(leaf.pin()), None);
    let error = dialled(&node, config, policy).await.unwrap_err();
    assert!(
        matches!(error, HandshakeError::Refused(Reason::AddressNotOfPeer)),
        "{error:?}"
    );
    let config = plain_server(&leaf, Some(&authority));
    let policy = |address: SocketAddr| {
        listing(
            "spiffe://mesh.example/node/c",
            Some(address),
            Some(leaf.pin()),
            None,
        )
    };
    let error = dialled(&node, config, policy).await.unwrap_err();
    assert!(
        matches!(error, HandshakeError::Refused(Reason::Unlisted)),
        "{error:?}"
    );

    for leaf in [
        TestAuthority::new().issue(&good()),
        of(Profile {
            years: (2020, 2021),
            ..good()
        }),
        of(Profile {
            years: (3000, 3001),
            ..good()
        }),
        of(Profile {
            usages: vec![CLIENT_AUTH],
            ..good()
        }),
    ] {
        let config = plain_server(&leaf, Some(&authority));
        let error = dialled(&node, config, lists(leaf.pin())).await.unwrap_err();
        assert!(matches!(error, HandshakeError::NotTrusted(_)), "{error:?}");
    }
    assert_eq!(node.keeper.asked(), 0);

    let config = plain_server(&leaf, Some(&authority));
    let connection = dialled(&node, config, lists(leaf.pin())).await.unwrap();
    assert_eq!(connection.facts.peer.name(), "peer");
    assert_eq!(node.keeper.asked(), 1);
}

#[tokio::test]
async fn a_server_that_does_not_want_our_certificate_or_h2_is_refused() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Server, B));
    let lists = |address| listing(B, Some(address), Some(leaf.pin()), None);
    let error = dialled(&node, plain_server(&leaf, None), lists)
        .await
        .unwrap_err();
    assert!(matches!(error, HandshakeError::NotMutual), "{error:?}");
    let mut config = plain_server(&leaf, Some(&authority));
    config.alpn_protocols.clear();
    let error = dialled(&node, config, lists).await.unwrap_err();
    assert!(matches!(error, HandshakeError::NotH2), "{error:?}");
}

#[tokio::test]
async fn a_client_without_h2_costs_no_signature() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    for offered in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = plain_client(provider(), Some(&leaf));
        config.alpn_protocols = offered;
        let (ours, theirs) = tokio::join!(node.accept(), connect(config, node.address()));
        assert!(matches!(ours, Err(HandshakeError::NotH2)), "{ours:?}");
        let theirs = theirs.unwrap_err().downcast::<Error>().unwrap();
        assert_eq!(
            theirs,
            Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        );
    }
    assert_eq!(node.keeper.asked(), 0);
}

#[tokio::test]
async fn what_is_not_tls_1_3_is_refused_at_once_and_costs_no_signature() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    for (bytes, alerted) in [
        (b"GET / HTTP/1.1\r\nHost: node\r\n\r\n".to_vec(), true),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), true),
        (vec![0xff; 10_000], true),
        (vec![0; 100], true),
        (tls12_client_hello(), true),
        (vec![22, 3, 1, 0xff, 0xff], true),
        (vec![22, 3, 1, 0, 100, 1], false),
        (Vec::new(), false),
    ] {
        let client = async {
            let mut tcp = TcpStream::connect(node.address()).await.unwrap();
            tcp.write_all(&bytes).await.unwrap();
            if !alerted {
                tcp.shutdown().await.unwrap();
            }
            let mut heard = Vec::new();
            tcp.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let (ours, heard) = tokio::join!(node.accept(), client);
        let ours = ours.unwrap_err();
        match alerted {
            true => assert!(matches!(ours, HandshakeError::Peer(_)), "{ours:?}"),
            false => assert!(
                matches!(ours, HandshakeError::Io(_) | HandshakeError::Peer(_)),
                "{ours:?}"
            ),
        }
        assert_eq!(
            heard.first().copied() == Some(21),
            alerted,
            "{bytes:?} → {heard:?}"
        );
    }
    assert_eq!(node.keeper.asked(), 0);
}

/// A ClientHello as TLS 1.2 has it: no `supported_versions` (RFC 8446 §4.2.1).
fn tls12_client_hello() -> Vec<u8> {
    let extensions: &[&[u8]] = &[
        &[0, 10, 0, 4, 0, 2, 0, 23],         // supported_groups: secp256r1
        &[0, 13, 0, 4, 0, 2, 4, 3],          // signature_algorithms: ECDSA P-256
        &[0, 16, 0, 5, 0, 3, 2, b'h', b'2'], // ALPN: h2
    ];
    let extensions = extensions.concat();
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    body.extend([0, u8::try_from(extensions.len()).unwrap()]);
    body.extend(extensions);
    let mut message = vec![22, 3, 1, 0, u8::try_from(body.len() + 4).unwrap(), 1, 0, 0];
    message.push(u8::try_from(body.len()).unwrap());
    message.extend(body);
    message
}

#[tokio::test]
async fn a_peer_that_stops_talking_meets_the_deadline() {
    let authority = TestAuthority::new();
    let deadline = Some(Duration::from_millis(200));
    let node = Node::start(
        &authority,
        Options {
            deadline,
            ..Options::default()
        },
    )
    .await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    // Nothing, part of a ClientHello, and a whole one without an answer to ours.
    let mut state = rustls::ClientConnection::new(
        Arc::new(plain_client(provider(), Some(&leaf))),
        ServerName::try_from("node").unwrap(),
    )
    .unwrap();
    let mut hello = Vec::new();
    state.write_tls(&mut hello).unwrap();
    for length in [0, 1, 5, 100, hello.len()] {
        let mut tcp = TcpStream::connect(node.address()).await.unwrap();
        tcp.write_all(&hello[..length]).await.unwrap();
        let ours = node.accept().await.unwrap_err();
        assert!(
            matches!(ours, HandshakeError::Deadline(_)),
            "{length}: {ours:?}"
        );
    }
    assert_eq!(node.keeper.asked(), 1);
}

#[tokio::test]
async fn no_session_is_resumed_and_no_ticket_is_given() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    let config = plain_client(provider(), Some(&leaf));
    for _ in 0..3 {
        let (ours, theirs) = tokio::join!(node.accept(), connect(config.clone(), node.address()));
        let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
        ours.stream.write_all(b"x").await.unwrap();
        theirs.read_exact(&mut [0]).await.unwrap();
        let state = theirs.get_ref().1;
        assert_eq!(state.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(state.tls13_tickets_received(), 0);
    }
    assert_eq!(node.keeper.asked(), 3);
}

#[tokio::test]
async fn a_hello_retry_request_ends_in_a_connection() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    let config = plain_client(forcing_a_retry(), Some(&leaf));
    let (ours, theirs) = tokio::join!(node.accept(), connect(config, node.address()));
    assert_eq!(ours.unwrap().facts.group, "x25519");
    let kind = theirs.unwrap().get_ref().1.handshake_kind();
    assert_eq!(kind, Some(HandshakeKind::FullWithHelloRetryRequest));
}

/// Counts how often a task of this runtime gets to run, every 5 ms at best.
fn heartbeat() -> Arc<AtomicUsize> {
    let beats = Arc::new(AtomicUsize::new(0));
    let counted = beats.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    beats
}

#[tokio::test]
async fn a_slow_token_does_not_stop_the_runtime_that_serves() {
    let token = TestToken {
        sessions: 1,
        delay: Duration::from_millis(50),
        ..TestToken::default()
    };
    let authority = TestAuthority::new();
    let node = Arc::new(
        Node::start(
            &authority,
            Options {
                token,
                ..Options::default()
            },
        )
        .await,
    );
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    for provider in [provider(), forcing_a_retry()] {
        let beats = heartbeat();
        let mut both = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let config = plain_client(provider.clone(), Some(&leaf));
            let address = node.address();
            both.spawn(async move { connect(config, address).await.map(drop).is_ok() });
            let node = node.clone();
            both.spawn(async move { node.accept().await.is_ok() });
        }
        assert!(both.join_all().await.into_iter().all(|done| done));
        // 8 × 50 ms through one session: 80 beats at best, 8 when each signature stops the runtime.
        let beats = beats.load(Ordering::Relaxed);
        assert!(beats > 30, "{beats} beats");
    }
    assert_eq!(node.keeper.asked(), 16);
}

#[tokio::test]
async fn dialling_through_a_slow_token_does_not_stop_the_runtime_either() {
    let token = TestToken {
        sessions: 1,
        delay: Duration::from_millis(50),
        ..TestToken::default()
    };
    let authority = TestAuthority::new();
    let node = Arc::new(
        Node::start(
            &authority,
            Options {
                token,
                ..Options::default()
            },
        )
        .await,
    );
    let leaf = authority.issue(&Profile::of(TlsRole::Server, B));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    node.lists(&listing(B, Some(address), Some(leaf.pin()), None));
    let config = Arc::new(plain_server(&leaf, Some(&authority)));
    let beats = heartbeat();
    let mut both = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let node = node.clone();
        both.spawn(async move { node.dial(B, address).await.is_ok() });
    }
    for _ in 0..8 {
        let (tcp, _) = listener.accept().await.unwrap();
        let acceptor = TlsAcceptor::from(config.clone());
        both.spawn(async move { acceptor.accept(tcp).await.is_ok() });
    }
    assert!(both.join_all().await.into_iter().all(|done| done));
    let beats = beats.load(Ordering::Relaxed);
    assert!(beats > 30, "{beats} beats");
}

#[tokio::test]
async fn a_token_slower_than_the_deadline_costs_the_handshake_and_not_the_lane() {
    let token = TestToken {
        sessions: 1,
        delay: Duration::from_millis(300),
        ..TestToken::default()
    };
    let deadline = Some(Duration::from_millis(150));
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options { token, deadline }).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    let config = plain_client(provider(), Some(&leaf));
    // The second one's turn never comes: it is given up while it waits, and costs no signature.
    let (first, second, ..) = tokio::join!(
        node.accept(),
        node.accept(),
        connect(config.clone(), node.address()),
        connect(config.clone(), node.address()),
    );
    for ours in [first, second] {
        assert!(matches!(ours, Err(HandshakeError::Deadline(_))), "{ours:?}");
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(node.keeper.asked(), 1);
    assert_eq!(node.handshakes.generation().policy().peers().len(), 1);
}

#[tokio::test]
async fn a_token_that_does_not_sign_is_blamed() {
    let token = TestToken {
        broken: true,
        ..TestToken::default()
    };
    let authority = TestAuthority::new();
    let node = Node::start(
        &authority,
        Options {
            token,
            ..Options::default()
        },
    )
    .await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    let config = plain_client(provider(), Some(&leaf));
    let (ours, theirs) = tokio::join!(node.accept(), connect(config, node.address()));
    let ours = ours.unwrap_err();
    assert!(matches!(ours, HandshakeError::LocalSigning(_)), "{ours:?}");
    let cause = std::error::Error::source(&ours).unwrap().to_string();
    assert_eq!(cause, "the token failed to sign");
    assert!(theirs.is_err());
    let leaf = authority.issue(&Profile::of(TlsRole::Server, B));
    let config = plain_server(&leaf, Some(&authority));
    let lists = |address| listing(B, Some(address), Some(leaf.pin()), None);
    let ours = dialled(&node, config, lists).await.unwrap_err();
    assert!(matches!(ours, HandshakeError::LocalSigning(_)), "{ours:?}");
}

#[tokio::test]
async fn a_policy_that_changes_during_a_handshake_decides_it() {
    let token = TestToken {
        delay: Duration::from_millis(150),
        ..TestToken::default()
    };
    let authority = TestAuthority::new();
    let node = Node::start(
        &authority,
        Options {
            token,
            ..Options::default()
        },
    )
    .await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    let config = plain_client(provider(), Some(&leaf));
    let (ours, _, ()) = tokio::join!(node.accept(), connect(config, node.address()), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.lists("");
    });
    let ours = ours.unwrap_err();
    assert!(
        matches!(ours, HandshakeError::Refused(Reason::Unlisted)),
        "{ours:?}"
    );
}

#[tokio::test]
async fn a_node_without_a_credential_for_the_role_says_so() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let bare = Generation::new(PeerPolicy::default(), &node.anchors, None, None).unwrap();
    node.generations.send_replace(Arc::new(bare));
    let (ours, _tcp) = tokio::join!(node.accept(), TcpStream::connect(node.address()));
    assert!(
        matches!(ours, Err(HandshakeError::NoCredential(TlsRole::Server))),
        "{ours:?}"
    );
    let ours = node.dial(B, node.address()).await;
    assert!(
        matches!(ours, Err(HandshakeError::NoCredential(TlsRole::Client))),
        "{ours:?}"
    );
}

#[test]
fn a_chain_and_a_key_that_do_not_belong_together_are_no_credential() {
    let authority = TestAuthority::new();
    let [server, other] = [(); 2].map(|()| authority.issue(&Profile::of(TlsRole::Server, A)));
    let client = authority.issue(&Profile::of(TlsRole::Client, A));
    let keeper = TestKeeper::start(TestToken::default(), &server, &client);
    let make = |role, pem: &str, leaf| Credential::new(role, pem, keeper.key(role, leaf));
    assert!(make(TlsRole::Server, &server.pem, &server).is_ok());
    let fault = make(TlsRole::Server, &server.pem, &other).unwrap_err();
    assert!(matches!(fault, CredentialError::OtherKey(_)), "{fault:?}");
    let fault = make(TlsRole::Server, &client.pem, &client).unwrap_err();
    assert!(
        matches!(fault, CredentialError::OtherRole { .. }),
        "{fault:?}"
    );
    let fault = make(TlsRole::Server, "", &server).unwrap_err();
    assert!(matches!(fault, CredentialError::Length(0)), "{fault:?}");
    let fault = make(TlsRole::Server, &server.pem.repeat(9), &server).unwrap_err();
    assert!(matches!(fault, CredentialError::Length(9)), "{fault:?}");
    let broken = server.pem.replacen("MI", "!!", 1);
    let fault = make(TlsRole::Server, &broken, &server).unwrap_err();
    assert!(matches!(fault, CredentialError::NotPem(_)), "{fault:?}");
    let fault = make(TlsRole::Server, &authority.pem(), &server).unwrap_err();
    assert!(
        matches!(
            fault,
            CredentialError::EndEntity(Reason::AuthorityCertificate)
        ),
        "{fault:?}"
    );
}
