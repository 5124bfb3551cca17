//! Supervisor and resolver.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::sandbox;
use crate::telemetry::LogSetup;

/// To the resolver. The setup comes first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToResolver {
    Setup(Box<ResolverSetup>),
    /// It was attested: look the names up.
    LookUp,
    #[cfg(feature = "attack-trigger")]
    Attack(sandbox::attack::Attack),
}

/// What a resolver is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ResolverSetup {
    pub(crate) log: LogSetup,
    /// Each `name:port`, once; they are looked up in this order.
    pub(crate) hosts: Vec<String>,
    /// So many at once.
    pub(crate) at_once: usize,
    /// The administrator's own, instead of the one in the binary.
    pub(crate) profile: Option<sandbox::OwnProfile>,
}

/// From the resolver, which ends after the last of its names.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromResolver {
    /// It cannot be confined.
    Refused { faults: Vec<Fault> },
    /// It is confined, and waits to be attested.
    Sealed(Box<sandbox::Report>),
    /// What one of the hosts stands for, or why that was not found.
    Found {
        host: String,
        outcome: Result<Vec<SocketAddr>, String>,
    },
}
