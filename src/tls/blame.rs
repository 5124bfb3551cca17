//! Why there is no connection, by whose fault it is.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error};

use super::anchors::AnchorError;
use super::lane::LaneError;
use super::signing::SigningFailed;
use crate::admission::Turned;
use crate::keeper::ask::AskError;
use crate::policy::Reason;
use crate::role::TlsRole;

/// Why a handshake failed. For our log: the peer got an alert, or nothing.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer was too slow, or the token was.
    #[error("no handshake within {0:?}")]
    Deadline(Duration),
    /// The network's or the peer's end of the connection.
    #[error("the connection failed during the handshake")]
    Io(#[from] io::Error),
    /// The peer does not speak our TLS, or not correctly.
    #[error("the peer does not speak TLS 1.3 with us")]
    Peer(#[source] Error),
    /// The peer broke off.
    #[error("the peer broke off with the alert {0:?}")]
    Alert(AlertDescription),
    /// The peer does not speak HTTP/2 (RFC 7301 §3.2).
    #[error("the peer does not offer ALPN h2")]
    NotH2,
    /// The peer showed no certificate.
    #[error("the peer shows no certificate")]
    NoCertificate,
    /// WebPKI refuses the peer's certificate: unknown authority, expired, not yet valid, …
    #[error("the peer's certificate is not valid")]
    NotTrusted(#[source] Error),
    /// Nobody can be believed.
    #[error(
        "all trust anchors of this node have expired or are not valid yet: renew them, or set this machine's clock"
    )]
    NoAnchorInDate,
    /// The peer policy refuses the peer.
    #[error("the peer is refused")]
    Refused(#[source] Reason),
    /// The server did not ask for our certificate, or takes no signature that our key makes.
    #[error("the server takes no client certificate of ours")]
    NotMutual,
    /// The keeper did not sign for us.
    #[error("no signature for the handshake")]
    LocalSigning(#[source] Arc<AskError>),
    /// The peer's address, or strangers as a whole, have had their share.
    #[error("the handshake is not begun")]
    Turned(#[source] Turned),
    /// Too much is going on here.
    #[error("the handshake is not begun")]
    Busy(#[source] LaneError),
    /// This node has no certificate for the role.
    #[error("this node has no {0} certificate")]
    NoCredential(TlsRole),
    /// A bug: rustls does not take our configuration.
    #[error("rustls refuses our configuration")]
    Configuration(#[source] Error),
    /// A bug of ours.
    #[error("a bug in the handshake: {0}")]
    Bug(&'static str),
}

impl HandshakeError {
    /// The name for logs, metrics and tests; of a refusal, the reason's.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::Io(_) => "io",
            Self::Peer(_) => "not-our-tls",
            Self::Alert(_) => "alert",
            Self::NotH2 => "not-h2",
            Self::NoCertificate => "no-certificate",
            Self::NotTrusted(error) => not_trusted(error),
            Self::NoAnchorInDate => "no-trust-anchor",
            Self::Refused(reason) => reason.code(),
            Self::NotMutual => "not-mutual",
            Self::LocalSigning(_) => "local-signing",
            Self::Turned(turned) => turned.code(),
            Self::Busy(LaneError::TooLate) => "token-too-slow",
            Self::Busy(_) => "queue-full",
            Self::NoCredential(_) => "no-credential",
            Self::Configuration(_) | Self::Bug(_) => "bug",
        }
    }
}

/// What WebPKI has against a certificate, where an operator would act on it otherwise than on a chain that
/// leads nowhere. The purpose has the policy's name for it: WebPKI is only the first to look.
fn not_trusted(error: &Error) -> &'static str {
    use CertificateError as Why;
    let Error::InvalidCertificate(why) = error else {
        return "not-trusted";
    };
    match why {
        Why::InvalidPurpose | Why::InvalidPurposeContext { .. } => {
            Reason::WrongExtendedKeyUsage.code()
        }
        Why::Expired | Why::ExpiredContext { .. } => "expired",
        Why::NotValidYet | Why::NotValidYetContext { .. } => "not-yet-valid",
        _ => "not-trusted",
    }
}

impl From<LaneError> for HandshakeError {
    fn from(error: LaneError) -> Self {
        match error {
            LaneError::Full | LaneError::TooLate => Self::Busy(error),
            LaneError::Gone => Self::Bug("the lane is gone"),
        }
    }
}

impl From<Error> for HandshakeError {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidCertificate(CertificateError::Other(ref other)) => {
                let (reason, anchors) = (other.0.downcast_ref(), other.0.downcast_ref());
                match (reason, anchors) {
                    (Some(reason), _) => Self::Refused(*reason),
                    (_, Some(AnchorError::NoneInDate)) => Self::NoAnchorInDate,
                    _ => Self::NotTrusted(error),
                }
            }
            Error::InvalidCertificate(_) => Self::NotTrusted(error),
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::NoApplicationProtocol => Self::NotH2,
            Error::AlertReceived(alert) => Self::Alert(alert),
            Error::Other(other) => match other.0.downcast_ref::<SigningFailed>() {
                Some(failed) => Self::LocalSigning(failed.0.clone()),
                None => Self::Peer(Error::Other(other)),
            },
            error => Self::Peer(error),
        }
    }
}

/// Whether a connection has ended by an alert of the peer's.
pub(crate) fn is_alert(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(inner, Some(Error::AlertReceived(_)))
}

/// How a connection ends that a peer refuses.
#[cfg(test)]
pub(crate) fn an_alert() -> io::Error {
    let alert = Error::AlertReceived(AlertDescription::AccessDenied);
    io::Error::new(io::ErrorKind::InvalidData, alert)
}
