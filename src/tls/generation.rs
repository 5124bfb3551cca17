//! Everything that decides about handshakes, swapped whole: no handshake ever sees half a change.

use std::fmt;
use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::{
    NoServerSessionStorage, ResolvesServerCert, ResolvesServerCertUsingSni, WebPkiClientVerifier,
};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::Credential;
use super::anchors::TrustAnchors;
use super::inside::{H2, Inside};
use super::provider::provider;
use super::verifier::{ClientJudge, Dialled, Judge, ServerJudge, WebPki};
use crate::policy::PeerPolicy;

/// Policy, credentials and trust anchors of one moment.
pub struct Generation {
    pub(super) judge: Arc<Judge>,
    pub(super) servers: Vec<Credential>,
    pub(super) clients: Vec<Credential>,
    accepting: ServerConfig,
    dialling: ClientConfig,
}

/// Why there is no [`Generation`].
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// A bug: rustls does not take a configuration that is the same at every start.
    #[error("rustls refuses our configuration")]
    Configuration(#[source] rustls::Error),
}

impl Generation {
    /// A generation; without a credential for a role, nothing is accepted or dialled in that role.
    /// Of several credentials for a role the first whose token signs is used.
    ///
    /// # Errors
    /// [`GenerationError`], a bug.
    pub fn new(
        policy: PeerPolicy,
        anchors: &TrustAnchors,
        servers: impl IntoIterator<Item = Credential>,
        clients: impl IntoIterator<Item = Credential>,
    ) -> Result<Self, GenerationError> {
        let provider = provider();
        let webpki: WebPki = {
            let provider = provider.clone();
            Box::new(move |roots| {
                WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()
            })
        };
        let algorithms = provider.signature_verification_algorithms;
        let judge = Arc::new(Judge::new(policy, anchors.clone(), webpki, algorithms));
        Ok(Self {
            accepting: server_config(&provider, &judge).map_err(GenerationError::Configuration)?,
            dialling: client_config(&provider).map_err(GenerationError::Configuration)?,
            judge,
            servers: servers.into_iter().collect(),
            clients: clients.into_iter().collect(),
        })
    }

    /// The peer policy.
    pub fn policy(&self) -> &PeerPolicy {
        self.judge.policy()
    }

    /// What we present to those who dial us.
    pub fn server(&self) -> Option<&Credential> {
        usable(&self.servers)
    }

    /// What we present to those whom we dial.
    pub fn client(&self) -> Option<&Credential> {
        usable(&self.clients)
    }

    /// The configuration of one incoming handshake, in which `present` tells what we show.
    pub(super) fn accepting<P: ResolvesServerCert + 'static>(
        &self,
        present: impl FnOnce(&Credential) -> Arc<P>,
        inside: Inside,
    ) -> Option<Arc<ServerConfig>> {
        let mut config = self.accepting.clone();
        speak(&mut config.alpn_protocols, inside);
        config.cert_resolver = present(self.server()?);
        Some(Arc::new(config))
    }

    /// The configuration of one outgoing handshake.
    pub(super) fn dialling<P: ResolvesClientCert + 'static>(
        &self,
        dialled: Dialled,
        present: impl FnOnce(&Credential) -> Arc<P>,
        inside: Inside,
    ) -> Option<Arc<ClientConfig>> {
        let mut config = self.dialling.clone();
        speak(&mut config.alpn_protocols, inside);
        config.client_auth_cert_resolver = present(self.client()?);
        let judge = self.judge.clone();
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(ServerJudge { judge, dialled }));
        Some(Arc::new(config))
    }
}

/// Names `inside` where HTTP/2 stands.
fn speak(protocols: &mut Vec<Vec<u8>>, inside: Inside) {
    if inside != Inside::H2 {
        *protocols = inside.name().map(<[u8]>::to_vec).into_iter().collect();
    }
}

/// The first credential whose token signs; when none does, the first that can be asked; when none can,
/// the first, so that its error is told.
fn usable(credentials: &[Credential]) -> Option<&Credential> {
    let mut all = credentials.iter();
    all.clone()
        .find(|credential| credential.is_usable())
        .or_else(|| all.find(|credential| !credential.is_gone()))
        .or(credentials.first())
}

/// Its resolver is replaced for each handshake. No tickets and no session storage: a resumed session would skip certificate and pin.
fn server_config(
    provider: &Arc<CryptoProvider>,
    judge: &Arc<Judge>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(ClientJudge(judge.clone())))
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    config.ignore_client_order = true;
    config.alpn_protocols = vec![H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// Its resolver and its verifier are replaced for each handshake, which knows whom it dials;
/// this one trusts nobody.
fn client_config(provider: &Arc<CryptoProvider>) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![H2.to_vec()];
    config.check_selected_alpn = true;
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("peers", &self.policy().peers().len())
            .field("server", &self.server())
            .field("client", &self.client())
            .finish()
    }
}
