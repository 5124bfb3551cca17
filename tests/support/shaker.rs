//! A listed peer with a key in a file that does nothing but shake hands, again and again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use fastness::policy::SpkiPin;

use super::files::write_private;
use super::{Mesh, id_of, peer};

/// The HTTP/2 connection preface and an empty SETTINGS frame (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Dials one node.
#[derive(Clone)]
pub struct Shaker {
    config: Arc<ClientConfig>,
    address: SocketAddr,
}

impl Shaker {
    /// A peer `name` that node `a` of the mesh lists; write it before the node starts.
    pub fn new(mesh: &mut Mesh, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let csr = mesh.path(&format!("{name}.csr"));
        let request = CertificateParams::default()
            .serialize_request(&key)
            .expect("a request");
        write_private(&csr, &request.pem().expect("PEM"));
        let certificate = mesh.path(&format!("{name}.pem"));
        mesh.issue_from(&csr, "client", &id_of(name), &certificate);
        let pin = SpkiPin::of_spki(&key.subject_public_key_info()).to_string();
        let backup = SpkiPin::of_spki(name.as_bytes()).to_string();
        mesh.others.push(peer(name, None, |key| {
            if key.ends_with("backup") {
                backup.clone()
            } else {
                pin.clone()
            }
        }));
        mesh.write_peers("a");

        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(mesh.path("ca/authority/ca.pem"))
            .expect("the mesh's root");
        roots.add(ca).expect("a root");
        let chain = vec![CertificateDer::from_pem_file(&certificate).expect("our certificate")];
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("a key and its certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Self {
            config: Arc::new(config),
            address: ([127, 0, 0, 1], mesh.ports["a"]).into(),
        }
    }

    /// One full handshake, done when the server's first HTTP/2 frame is here: in TLS 1.3 a client
    /// believes itself connected before the server has judged it.
    pub fn shake(&self) -> Result<Shaken, String> {
        let text = |error: std::io::Error| error.to_string();
        let tcp = TcpStream::connect(self.address).map_err(text)?;
        tcp.set_read_timeout(Some(Duration::from_secs(20)))
            .map_err(text)?;
        tcp.set_nodelay(true).map_err(text)?;
        let name = self.address.ip().into();
        let tls =
            ClientConnection::new(self.config.clone(), name).map_err(|error| error.to_string())?;
        let mut stream = StreamOwned::new(tls, tcp);
        stream.write_all(PREFACE).map_err(text)?;
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).map_err(text)?;
        Ok(Shaken(stream))
    }
}

/// An accepted connection.
pub struct Shaken(
    #[expect(dead_code, reason = "open as long as it is held")]
    StreamOwned<ClientConnection, TcpStream>,
);
