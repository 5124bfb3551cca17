//! Peers that the node dials: each takes a connection, answers a call and closes, so that the node must
//! shake hands again.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, PublicKeyData, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsAcceptor;

use crate::peer::PingResponse;

/// All of them, and what a node must know of them.
pub struct Peers {
    all: Vec<Peer>,
    /// Their authority, PEM.
    pub anchor: String,
}

struct Peer {
    name: String,
    address: SocketAddr,
    pins: [String; 2],
    closed: Arc<Notify>,
}

impl Peers {
    /// `count` peers that listen for the node with the certificate `node`; each handshake that is done goes to `done`.
    pub async fn start(count: usize, node: CertificateDer<'static>, done: mpsc::UnboundedSender<Shaken>) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let anchor = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        let provider = ServerConfig::builder().crypto_provider().clone();
        let verifier = Arc::new(OneNode { certificate: node, provider });
        let mut all = Vec::new();
        for number in 0..count {
            let name = format!("dialled-{number}");
            let (key, spare) = (KeyPair::generate()?, KeyPair::generate()?);
            let certificate = leaf(&name)?.signed_by(&key, &issuer)?;
            let mut config = ServerConfig::builder().with_client_cert_verifier(verifier.clone()).with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )?;
            config.alpn_protocols = vec![b"h2".to_vec()];
            config.send_tls13_tickets = 0;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let peer = Peer {
                name,
                address: listener.local_addr()?,
                pins: [&key, &spare].map(|key| pin(key)),
                closed: Arc::new(Notify::new()),
            };
            let (closed, done) = (Arc::clone(&peer.closed), done.clone());
            tokio::spawn(listen(listener, Arc::new(config).into(), done, closed));
            all.push(peer);
        }
        Ok(Self { all, anchor })
    }

    /// Their part of a peer policy.
    pub fn policy(&self) -> String {
        let peers = self.all.iter().map(|peer| {
            let Peer { name, address, pins: [active, backup], .. } = peer;
            format!(
                "\n[[peer]]\nname = \"{name}\"\nid = \"{}\"\naddresses = [\"{address}\"]\nserver = {{ active = \"{active}\", backup = \"{backup}\" }}\n",
                id(name)
            )
        });
        peers.collect()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|peer| peer.name.as_str())
    }

    /// The name of the peer `number`, and what tells when it has closed a connection.
    pub fn get(&self, number: usize) -> (String, Arc<Notify>) {
        let peer = &self.all[number % self.all.len()];
        (peer.name.clone(), Arc::clone(&peer.closed))
    }
}

/// How long a handshake took, and when it was done.
#[derive(Clone, Copy, Debug)]
pub struct Shaken {
    pub began: Instant,
    pub done: Instant,
}

/// The certificate in a PEM file.
pub fn certificate(file: &std::path::Path) -> anyhow::Result<CertificateDer<'static>> {
    CertificateDer::from_pem_file(file).with_context(|| format!("{}", file.display()))
}

/// Knows one node by its certificate, and checks its signatures: what a chain costs is not the node's affair.
#[derive(Debug)]
struct OneNode {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for OneNode {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(&self, certificate: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime) -> Result<ClientCertVerified, Error> {
        match *certificate == self.certificate {
            true => Ok(ClientCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(&self, message: &[u8], certificate: &CertificateDer<'_>, signed: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(&self, message: &[u8], certificate: &CertificateDer<'_>, signed: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn id(name: &str) -> String {
    format!("spiffe://bench.example/{name}")
}

fn leaf(name: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new([])?;
    params.subject_alt_names = vec![SanType::URI(id(name).try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn pin(key: &KeyPair) -> String {
    format!("sha256/{}", BASE64_STANDARD.encode(digest(&SHA256, &key.subject_public_key_info())))
}

async fn listen(listener: TcpListener, tls: TlsAcceptor, done: mpsc::UnboundedSender<Shaken>, closed: Arc<Notify>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let began = Instant::now();
        let (tls, done, closed) = (tls.clone(), done.clone(), Arc::clone(&closed));
        tokio::spawn(async move {
            // Without a handshake nothing was done; how the node closes afterwards is its own affair.
            let _ = serve(tcp, tls, began, &done).await;
            closed.notify_one();
        });
    }
}

/// One connection, closed after the first call.
async fn serve(tcp: TcpStream, tls: TlsAcceptor, began: Instant, done: &mpsc::UnboundedSender<Shaken>) -> anyhow::Result<()> {
    tcp.set_nodelay(true)?;
    let stream = tls.accept(tcp).await.context("no handshake")?;
    let _ = done.send(Shaken { began, done: Instant::now() });
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, mut respond) = call?;
        let response = Response::builder().header("content-type", "application/grpc").body(())?;
        let mut body = respond.send_response(response, false)?;
        body.send_data(framed(&PingResponse { nonce: 1 }), false)?;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        body.send_trailers(trailers)?;
        connection.graceful_shutdown();
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
            }
        });
    }
    // The node closes when it has read our GOAWAY.
    let _ = poll_fn(|context| connection.poll_closed(context)).await;
    Ok(())
}

/// A message with gRPC's prefix: not compressed, and its length.
fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap_or(0));
    bytes.put_slice(&message.encode_to_vec());
    bytes.freeze()
}
