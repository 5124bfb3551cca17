//! The load's side of a handshake: rustls with its defaults, a software key, no resumption.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, SharedSecret, SupportedKxGroup, aws_lc_rs, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore,
    SignatureScheme,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Connection preface and an empty SETTINGS frame (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Frame header length and the type of SETTINGS (RFC 9113 §4.1, §6.5).
const FRAME_HEADER: usize = 9;
const SETTINGS: u8 = 4;
/// Nothing on a loopback takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// Connects to one server.
#[derive(Clone)]
pub struct Client {
    connector: TlsConnector,
    verifier: Arc<dyn ServerCertVerifier>,
    pub address: SocketAddr,
}

/// What a handshake settled on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    pub group: String,
    pub suite: String,
}

impl Client {
    /// A listed peer with the key in `dir`.
    pub fn new(dir: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        let anchors = dir.join("ca/ca.pem");
        for anchor in CertificateDer::pem_file_iter(&anchors).with_context(|| format!("{}", anchors.display()))? {
            roots.add(anchor?)?;
        }
        let chain = CertificateDer::pem_file_iter(dir.join("load.pem"))?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(dir.join("load.key"))?;
        let verifier: Arc<dyn ServerCertVerifier> = Arc::new(AnyName { roots, provider: Arc::clone(&provider) });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier))
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), verifier, address })
    }

    /// The same, forcing a HelloRetryRequest (RFC 8446 §4.1.4): its first key share is of a group that the
    /// server does not have.
    pub fn forcing_a_retry(&self) -> anyhow::Result<Self> {
        self.offering(vec![&Unheard, aws_lc_rs::kx_group::X25519])
    }

    /// The same with plain X25519 alone, which every server has: none does more than another.
    pub fn with_x25519(&self) -> anyhow::Result<Self> {
        self.offering(vec![aws_lc_rs::kx_group::X25519])
    }

    fn offering(&self, groups: Vec<&'static dyn SupportedKxGroup>) -> anyhow::Result<Self> {
        let mut config = rustls::ClientConfig::clone(self.connector.config());
        let mut provider = CryptoProvider::clone(config.crypto_provider());
        provider.kx_groups = groups;
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions()?;
        let chosen = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.verifier))
            .with_client_cert_resolver(Arc::clone(&config.client_auth_cert_resolver));
        let (alpn, resumption) = (std::mem::take(&mut config.alpn_protocols), Resumption::disabled());
        config = chosen;
        config.alpn_protocols = alpn;
        config.resumption = resumption;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), ..self.clone() })
    }

    /// A connection whose handshake is done on our side; in TLS 1.3 the server has not judged yet.
    pub async fn connect(&self) -> anyhow::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await.context("cannot connect")?;
        tcp.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        Ok(self.connector.connect(name, tcp).await?)
    }

    /// One full mutual handshake, until the server has shown by its SETTINGS that it took our
    /// certificate; then an orderly end.
    pub async fn handshake(&self) -> anyhow::Result<Settled> {
        tokio::time::timeout(DEADLINE, self.handshake_to_the_end())
            .await
            .with_context(|| format!("no handshake within {DEADLINE:?}"))?
    }

    /// One full mutual handshake; when the server's SETTINGS came.
    pub async fn timed_handshake(&self) -> anyhow::Result<Instant> {
        let taken = async {
            let stream = self.taken().await?;
            let done = Instant::now();
            settled(&stream, &[HandshakeKind::Full, HandshakeKind::FullWithHelloRetryRequest])?;
            Ok(done)
        };
        tokio::time::timeout(DEADLINE, taken).await.with_context(|| format!("no handshake within {DEADLINE:?}"))?
    }

    async fn taken(&self) -> anyhow::Result<TlsStream<TcpStream>> {
        let mut stream = self.connect().await?;
        stream.write_all(PREFACE).await?;
        stream.flush().await?;
        let mut header = [0; FRAME_HEADER];
        stream.read_exact(&mut header).await.context("the server ended the connection without SETTINGS")?;
        ensure!(header[3] == SETTINGS, "the server's first frame is not SETTINGS");
        Ok(stream)
    }

    async fn handshake_to_the_end(&self) -> anyhow::Result<Settled> {
        let mut stream = self.taken().await?;
        let settled = settled(&stream, &[HandshakeKind::Full])?;
        stream.shutdown().await?;
        // The server's own end of the connection belongs to its cost.
        let mut rest = [0; 1024];
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
        Ok(settled)
    }
}

fn settled(stream: &TlsStream<TcpStream>, allowed: &[HandshakeKind]) -> anyhow::Result<Settled> {
    let (_, tls) = stream.get_ref();
    ensure!(tls.protocol_version() == Some(ProtocolVersion::TLSv1_3), "not TLS 1.3");
    match tls.handshake_kind() {
        Some(kind) if allowed.contains(&kind) => {}
        kind => bail!("not a full handshake as wanted: {kind:?}"),
    }
    let group = tls.negotiated_key_exchange_group().context("no group")?.name();
    let suite = tls.negotiated_cipher_suite().context("no suite")?.suite();
    Ok(Settled { group: format!("{group:?}"), suite: format!("{suite:?}").replace("TLS13_", "") })
}

/// A group that no server has: its key share is ignored, and the server asks for another.
#[derive(Debug)]
struct Unheard;

impl SupportedKxGroup for Unheard {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Unheard))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::Unknown(0x6a6a)
    }
}

impl ActiveKeyExchange for Unheard {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, Error> {
        Err(Error::General("nobody has this group".into()))
    }

    fn pub_key(&self) -> &[u8] {
        &[7; 32]
    }

    fn group(&self) -> NamedGroup {
        SupportedKxGroup::name(self)
    }
}

/// WebPKI without the comparison of a name: all servers here are identified by URI.
#[derive(Debug)]
struct AnyName {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not measured".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
