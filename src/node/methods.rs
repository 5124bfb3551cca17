//! The last term of what a peer is let in for: the method, asked at every call of every connection under
//! the policy in force.

use std::time::Instant;

use http::Uri;

use super::{Node, PeerConnection};
use crate::policy::Reason;
use crate::proxy::{Code, Refusal};

/// What the peer is told, whatever it asked for.
const REFUSED: &str = "this peer may not call this method";
/// So much of a path that a peer chose goes into the log, in characters.
const SHOWN: usize = 128;

impl Node {
    /// Whether the peer behind `connection` may call `path`; who may not is counted and logged.
    ///
    /// # Errors
    /// Why not: the call ends with [`refusal`], and nobody hears of it.
    pub(super) fn may_call(&self, connection: &PeerConnection, path: &str) -> Result<(), Reason> {
        let Err(reason) = connection.may_call(path) else {
            return Ok(());
        };
        self.0.metrics.refused_calls.count("", reason.code());
        if let Some(unlogged) = self.0.refused_call_lines.take(Instant::now()) {
            let facts = connection.facts();
            let shown: String = path.chars().take(SHOWN).collect();
            tracing::warn!(
                peer = facts.peer.name(),
                address = %facts.remote,
                method = ?shown,
                code = reason.code(),
                unlogged,
                "a call was refused"
            );
        }
        Err(reason)
    }
}

/// The whole of what a gRPC call names: its path must have no query.
pub(super) fn path(uri: &Uri) -> &str {
    uri.path_and_query().map_or("", |path| path.as_str())
}

/// A refused call's end.
pub(super) fn refusal() -> Refusal {
    Refusal {
        code: Code::PermissionDenied,
        message: REFUSED.into(),
    }
}
