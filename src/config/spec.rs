//! What `node.toml` says, before anything in it is believed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::application::ApplicationSpec;
use super::limits::LimitsSpec;
use crate::telemetry::{LogFormat, LogLevel};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    /// SPIFFE-form identity: the URI SAN of both certificates.
    pub(super) id: Spanned<String>,
    /// `IP:port`, one or more.
    pub(super) listen: Spanned<Vec<Spanned<String>>>,
    /// PEM file of the trust anchors.
    pub(super) trust_anchors: Spanned<PathBuf>,
    /// The peer policy's file.
    pub(super) peers: Spanned<PathBuf>,
    /// The admin socket; `admin.sock` beside the configuration by default.
    pub(super) admin: Option<Spanned<PathBuf>>,
    /// Loopback `IP:port` for scrapers of metrics; none by default.
    pub(super) metrics: Option<Spanned<String>>,
    /// The application beside us; none by default.
    pub(super) application: Option<ApplicationSpec>,
    pub(super) token: Vec<Spanned<TokenSpec>>,
    #[serde(default)]
    pub(super) limits: LimitsSpec,
    #[serde(default)]
    pub(super) log: LogSpec,
    #[serde(default)]
    pub(super) sandbox: SandboxSpec,
}

/// `[sandbox]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SandboxSpec {
    /// The user that the node runs as.
    pub(super) node_user: Option<Spanned<String>>,
    /// Files with other profiles than those in the binary.
    pub(super) node_profile: Option<Spanned<PathBuf>>,
    pub(super) supervisor_profile: Option<Spanned<PathBuf>>,
    /// The user that the resolver runs as.
    pub(super) resolver_user: Option<Spanned<String>>,
    pub(super) resolver_profile: Option<Spanned<PathBuf>>,
    /// TCP ports that the node may dial beside those of the policy it starts with.
    #[serde(default)]
    pub(super) dial_ports: Vec<Spanned<i64>>,
}

/// One `[[token]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenSpec {
    /// PKCS#11 module, an absolute path.
    pub(super) module: Spanned<PathBuf>,
    /// RFC 7512 URI of the token.
    pub(super) uri: Spanned<String>,
    /// `file:PATH`, `fd:N`, `credential:NAME` or `prompt`.
    pub(super) pin: Spanned<String>,
    /// The only environment that the module sees.
    #[serde(default)]
    pub(super) environment: BTreeMap<String, Spanned<String>>,
    /// Sessions to sign with.
    pub(super) sessions: Option<Spanned<i64>>,
    /// Milliseconds between two health probes, at most.
    pub(super) probe_ms: Option<Spanned<i64>>,
    /// Files and folders that its module opens again after the login.
    #[serde(default)]
    pub(super) files: Vec<Spanned<PathBuf>>,
    /// TCP ports that its module connects to.
    #[serde(default)]
    pub(super) ports: Vec<Spanned<i64>>,
    /// The user that its keeper runs as.
    pub(super) user: Option<Spanned<String>>,
    /// A file with another profile for its keeper than those in the binary.
    pub(super) profile: Option<Spanned<PathBuf>>,
    pub(super) server: Spanned<KeySpec>,
    pub(super) client: Spanned<KeySpec>,
}

/// A key and the certificate chain that belongs to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeySpec {
    /// RFC 7512 URI of the private key, within the token.
    pub(super) key: Spanned<String>,
    /// PEM file: end entity first, then intermediates.
    pub(super) certificate: Spanned<PathBuf>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogSpec {
    pub(super) level: Option<LogLevel>,
    pub(super) format: Option<LogFormat>,
}
