//! Our own certificates, looked at as a peer will look at them, before any peer does.

use std::time::SystemTime;

use der::Encode;
use x509_cert::Certificate;

use crate::fault::Fault;
use crate::policy::{EndEntity, PeerId, SpkiPin};
use crate::role::TlsRole;
use crate::tls::TrustAnchors;

/// A chain that a peer would accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnChain {
    /// SubjectPublicKeyInfo of the end entity, DER.
    pub(super) spki: Vec<u8>,
    pub(super) pin: SpkiPin,
    /// RFC 3339
    pub(super) not_after: String,
}

/// Checks the chain in `pem` for `role` and identity `id` against the trust anchors.
pub(super) fn check(
    pem: &str,
    role: TlsRole,
    id: Option<&PeerId>,
    trust_anchors: Option<&TrustAnchors>,
    now: SystemTime,
    key: &str,
) -> Result<OwnChain, Vec<Fault>> {
    let fault = |problem: String, mend: &str| Fault::new(key, problem, mend);
    let chain = Certificate::load_pem_chain(pem.as_bytes()).map_err(|error| {
        vec![fault(
            format!("not a PEM certificate chain: {error}"),
            "name the file that `fastness ca issue` wrote, end entity first",
        )]
    })?;
    let Some(leaf) = chain.first() else {
        return Err(vec![fault(
            "holds no certificate".into(),
            "name the file that `fastness ca issue` wrote",
        )]);
    };
    let encoded = |error: der::Error| vec![fault(format!("cannot encode it again: {error}"), "")];
    let leaf_der = leaf.to_der().map_err(encoded)?;
    let spki = leaf
        .tbs_certificate()
        .subject_public_key_info()
        .to_der()
        .map_err(encoded)?;

    let mut faults = Vec::new();
    let validity = leaf.tbs_certificate().validity();
    if now < validity.not_before.to_system_time() {
        faults.push(fault(
            format!("is not valid before {}", validity.not_before),
            "check this machine's clock, or wait",
        ));
    }
    if now > validity.not_after.to_system_time() {
        faults.push(fault(
            format!("expired at {}", validity.not_after),
            "issue a new one: `fastness ca issue`; or this machine's clock is wrong",
        ));
    }
    match EndEntity::read(&leaf_der) {
        Err(reason) => faults.push(fault(
            format!("peers will refuse it: {reason}"),
            &format!("issue one with `fastness ca issue --profile {role} --id …`"),
        )),
        Ok(entity) => {
            if entity.role() != role {
                faults.push(fault(
                    format!(
                        "its extended key usage is for a {}, it stands here for the {role}",
                        entity.role()
                    ),
                    &format!("issue one with `--profile {role}`"),
                ));
            }
            if let Some(id) = id
                && entity.id() != id
            {
                faults.push(fault(
                    format!("its identity is {}, this node's is {id}", entity.id()),
                    "name the certificate of this node, or mend `id`",
                ));
            }
        }
    }
    if faults.is_empty()
        && let Some(anchors) = trust_anchors
        && let Err(problem) = anchors.verify(pem, role, now)
    {
        faults.push(fault(
            format!("does not chain to the trust anchors: {problem}"),
            problem.mend(),
        ));
    }
    if faults.is_empty() {
        Ok(OwnChain {
            pin: SpkiPin::of_spki(&spki),
            spki,
            not_after: validity.not_after.to_string(),
        })
    } else {
        Err(faults)
    }
}
