//! Every bound on what a peer may take, with its default, its range and its reason.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::fault::Fault;

/// The bounds in force. Sizes are bytes, times are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// From the first byte to the last of a handshake. A peer that needs longer is cut off.
    pub handshake_deadline_ms: u64,
    /// Incoming handshakes under way at once. Strangers, who come from an address that the policy
    /// lists for no peer, never have more than three quarters, and give way to listed addresses.
    pub pending_handshakes: u64,
    /// Incoming handshakes under way at once from one stranger's address (IPv6: from one /64).
    pub source_pending: u64,
    /// Signatures a second for one stranger's address, and at most so many at once. For an address of a
    /// listed peer only those count whose handshakes do not end as a listed peer's, and it has one more
    /// at once for each thread of the lane; beyond, handshakes wait for their turn.
    pub source_signatures_per_second: u64,
    /// Signatures a second for all strangers together, and at most so many at once; no address has a
    /// higher rate. A TLS server signs before it knows who asks (RFC 8446 §4.4.3); with 0 only listed
    /// addresses are answered, and the rate of each is one.
    pub stranger_signatures_per_second: u64,
    /// Established connections at once, all peers together. Fewer when the limit of open files
    /// leaves less beside `pending_handshakes` and 128 descriptors for the rest.
    pub connections: u64,
    /// Established connections at once that one peer made, and those to an HTTP/1.1 application for its
    /// requests: it cannot have all of [`Self::connections`].
    pub peer_connections: u64,
    /// One signature, waiting for a free session included.
    pub sign_deadline_ms: u64,
    /// Longest gRPC message that this node's own services take, and those of an embedding program that
    /// pass on [`Node::message_bytes`](crate::Node::message_bytes). What is only passed on to an
    /// application is not bounded here: no message is held.
    pub message_bytes: u64,
    /// Longest message with a P2PFL model received; P2PFL itself takes 1 GiB.
    pub weights_bytes: u64,
    /// Calls at once on one connection (RFC 9113 §5.1.2).
    pub streams: u64,
    /// Headers or trailers of a call (RFC 9113 §6.5.2). A call with more ends with RESOURCE_EXHAUSTED; four
    /// times as much on the wire ends the connection.
    pub header_list_bytes: u64,
    /// Largest HTTP/2 frame we accept. 256 KiB nearly doubles bulk throughput over the default.
    pub frame_bytes: u64,
    /// HTTP/2 flow-control window of one stream (RFC 9113 §6.9).
    pub stream_window_bytes: u64,
    /// HTTP/2 flow-control window of a connection: the most that we hold of what comes on it. Calls whose
    /// receiver takes nothing hold one stream's window each, so it is that of many streams: the other
    /// calls of the connection go on beside them.
    pub connection_window_bytes: u64,
    /// A connection is probed when it was silent for half of this time, and closed when it is silent for
    /// another half. In HTTP/1.1, which has no probes, it may be idle for so long between requests.
    pub keepalive_ms: u64,
    /// A connection takes no new calls at this age, so that no accepted certificate lives on in an old
    /// connection, and is cut off after a tenth of it more.
    pub connection_age_ms: u64,
    /// A call whose receiver takes less than 64 KiB in so long a time of our waiting is ended.
    pub stall_ms: u64,
    /// How long running calls may take to end after SIGTERM.
    pub drain_ms: u64,
    /// How long dialling may take before the handshake, all addresses of a peer together, and how long a call of
    /// the application waits for a connection, its handshake included.
    pub connect_ms: u64,
}

impl Limits {
    /// The handshake's deadline.
    pub fn handshake_deadline(&self) -> Duration {
        Duration::from_millis(self.handshake_deadline_ms)
    }

    /// A signature's deadline.
    pub fn sign_deadline(&self) -> Duration {
        Duration::from_millis(self.sign_deadline_ms)
    }
}

/// `usize` of a limit: every limit's upper bound fits.
pub(crate) fn size(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// `u32` of a limit: every limit's upper bound fits.
pub(crate) fn size32(limit: u64) -> u32 {
    u32::try_from(limit).unwrap_or(u32::MAX)
}

macro_rules! limits {
    ($($name:ident: $default:literal, $least:literal ..= $most:literal;)*) => {
        /// `[limits]`
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct LimitsSpec {
            $($name: Option<Spanned<i64>>,)*
        }

        impl LimitsSpec {
            /// The limits that the file sets, the defaults for the others. `fault` is told what is
            /// out of range and where it stands.
            pub(super) fn resolve(self, mut fault: impl FnMut(usize, Fault)) -> Limits {
                Limits {
                    $($name: match self.$name {
                        None => $default,
                        Some(value) => match u64::try_from(*value.get_ref()) {
                            Ok(number) if ($least..=$most).contains(&number) => number,
                            _ => {
                                fault(value.span().start, Fault::new(
                                    concat!("limits.", stringify!($name)),
                                    "out of range",
                                    concat!("from ", $least, " to ", $most, "; ", $default, " is the default"),
                                ));
                                $default
                            }
                        },
                    },)*
                }
            }
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }
    };
}

limits! {
    handshake_deadline_ms: 10000, 100 ..= 120000;
    pending_handshakes: 1024, 1 ..= 65536;
    source_pending: 16, 1 ..= 65536;
    source_signatures_per_second: 20, 1 ..= 1000000;
    stranger_signatures_per_second: 200, 0 ..= 1000000;
    connections: 4096, 1 ..= 1000000;
    peer_connections: 2048, 1 ..= 1000000;
    sign_deadline_ms: 5000, 10 ..= 60000;
    message_bytes: 67108864, 1024 ..= 2147483647;
    weights_bytes: 1073741824, 1024 ..= 1073741824;
    streams: 1024, 1 ..= 65536;
    header_list_bytes: 16384, 1024 ..= 1048576;
    frame_bytes: 262144, 16384 ..= 16777215;
    stream_window_bytes: 1048576, 65535 ..= 2147483647;
    connection_window_bytes: 16777216, 65535 ..= 2147483647;
    keepalive_ms: 20000, 1000 ..= 3600000;
    connection_age_ms: 86400000, 1000 ..= 31536000000;
    stall_ms: 300000, 1000 ..= 3600000;
    drain_ms: 10000, 0 ..= 3600000;
    connect_ms: 5000, 10 ..= 120000;
}
