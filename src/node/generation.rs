//! What the supervisor sent, turned into what handshakes use. Checked whole, then swapped whole.

use std::sync::Arc;

use crate::control;
use crate::fault::Fault;
use crate::keeper::ask::Asker;
use crate::policy::PeerPolicy;
use crate::role::TlsRole;
use crate::tls::{self, Credential, TokenKey, TrustAnchors};

/// A token's channels and what to call it.
pub(super) struct Signer {
    pub(super) label: Arc<str>,
    pub(super) asker: Arc<Asker>,
}

/// The generation that `sent` describes, signing through `signers`.
pub(super) fn build(sent: &control::Generation, signers: &[Signer]) -> Result<tls::Generation, Vec<Fault>> {
    let policy = PeerPolicy::parse(&sent.peers)?.with_resolved(&sent.resolved);
    let mut server = None;
    let mut client = None;
    let mut faults = Vec::new();
    for credential in &sent.credentials {
        let Some(signer) = signers.get(credential.token) else { continue };
        let place = format!("token[{}].{}", credential.token, credential.role);
        let made = Credential::new(
            credential.role,
            &credential.chain,
            TokenKey {
                index: credential.key,
                kind: credential.kind,
                spki: credential.spki.clone(),
                token: Arc::clone(&signer.label),
                asker: Arc::clone(&signer.asker),
            },
        );
        match (made, credential.role) {
            (Ok(made), TlsRole::Server) => server = Some(made),
            (Ok(made), TlsRole::Client) => client = Some(made),
            (Err(error), _) => faults.push(Fault::new(place, error.to_string(), "mend the certificate")),
        }
    }
    match (server, client) {
        (Some(server), Some(client)) if faults.is_empty() => {
            TrustAnchors::from_pem(&sent.trust_anchors)
                .and_then(|anchors| tls::Generation::new(policy, &anchors, Some(server), Some(client)))
                .map_err(|error| vec![Fault::new("trust_anchors", error.to_string(), "name root certificates")])
        }
        _ => {
            if faults.is_empty() {
                faults.push(Fault::new("token", "no server and client credential came", "this is a bug"));
            }
            Err(faults)
        }
    }
}
