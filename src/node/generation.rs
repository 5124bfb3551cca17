//! What the supervisor sent, turned into what handshakes use. Checked whole, then swapped whole.

use std::sync::Arc;

use crate::control;
use crate::fault::{Fault, chain};
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
pub(super) fn build(
    sent: &control::Generation,
    signers: &[Signer],
) -> Result<tls::Generation, Vec<Fault>> {
    let policy = PeerPolicy::parse(&sent.peers)?.with_resolved(&sent.resolved);
    let mut servers: Vec<Credential> = Vec::new();
    let mut clients: Vec<Credential> = Vec::new();
    let mut faults = Vec::new();
    for credential in &sent.credentials {
        let Some(signer) = signers.get(credential.token) else {
            continue;
        };
        let place = format!("token[{}].{}", credential.token, credential.role);
        let key = TokenKey {
            index: credential.key,
            kind: credential.kind,
            spki: credential.spki.clone(),
            token: Arc::clone(&signer.label),
            asker: Arc::clone(&signer.asker),
        };
        let known = match credential.role {
            TlsRole::Server => &mut servers,
            TlsRole::Client => &mut clients,
        };
        // The same key in another token is another place of it; another key is another credential.
        let replicated = known
            .iter_mut()
            .find_map(|known| Some((known.with_replica(key.clone())?, known)));
        match replicated {
            Some((wider, known)) => *known = wider,
            None => match Credential::new(credential.role, &credential.chain, key) {
                Ok(credential) => known.push(credential),
                Err(error) => {
                    faults.push(Fault::new(place, error.to_string(), "mend the certificate"))
                }
            },
        }
    }
    if faults.is_empty() && (servers.is_empty() || clients.is_empty()) {
        faults.push(Fault::new(
            "token",
            "no server and client credential came",
            "this is a bug",
        ));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let bad = |error: &dyn std::error::Error| {
        vec![Fault::new(
            "trust_anchors",
            chain(error),
            "name root certificates",
        )]
    };
    let anchors = TrustAnchors::from_pem(&sent.trust_anchors).map_err(|error| bad(&error))?;
    tls::Generation::new(policy, &anchors, servers, clients).map_err(|error| bad(&error))
}
