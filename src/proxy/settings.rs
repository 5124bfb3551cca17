//! What every connection is bounded by, and what is counted of its calls.

use std::time::Duration;

use h2::server::Builder;

use super::exchange::Outcome;
use super::frames::{LATE, at_once, remembered};
use super::header_lists::HeaderLists;
use super::session::Direction;
use crate::config::{Limits, size, size32};
use crate::telemetry::Lines;
use crate::telemetry::metrics::Tally;

/// What small frames of data may cost beyond their bytes while nobody has looked at them, in windows: h2
/// counts each as 256 bytes. It is no more than a moment, as [`super::pump`] puts them together, and many
/// come in one: with h2's own half of a window it ended honest connections.
const SMALL_FRAMES: usize = 4;
/// Connections that are too old are cut off after this part of their age more: their calls had the time
/// to end.
const GRACE: u32 = 10;

/// How every session is bounded.
pub(crate) struct Settings {
    pub(super) server: Builder,
    client: h2::client::Builder,
    /// From the first byte to the end of the HTTP/2 preface and settings.
    begin: Duration,
    keepalive: Duration,
    age: Duration,
    stall: Duration,
    limits: Limits,
    /// What bounds header lists.
    pub(super) lists: HeaderLists,
    /// About connections that did not end well.
    pub(super) lines: Lines,
    /// Calls by direction and outcome.
    pub(crate) calls: Tally,
}

impl Settings {
    /// What the configuration's limits mean for HTTP/2.
    pub(crate) fn new(limits: &Limits) -> Self {
        let small_frames = size(limits.connection_window_bytes).saturating_mul(SMALL_FRAMES);
        let lists = HeaderLists::new(limits.header_list_bytes);
        let mut server = Builder::new();
        server
            .initial_window_size(size32(limits.stream_window_bytes))
            .initial_connection_window_size(size32(limits.connection_window_bytes))
            .max_concurrent_streams(size32(limits.streams))
            .max_frame_size(size32(limits.frame_bytes))
            .max_header_list_size(lists.decoded())
            .data_frame_budget(small_frames)
            .max_concurrent_reset_streams(remembered())
            .reset_stream_duration(LATE)
            // How often calls may be taken back (CVE-2023-44487, rapid reset) is for `Frames` to say. `Watched`
            // sees to it that h2 holds no more of them than come in one read.
            .max_pending_accept_reset_streams(at_once());
        let mut client = h2::client::Builder::new();
        client
            .initial_window_size(size32(limits.stream_window_bytes))
            .initial_connection_window_size(size32(limits.connection_window_bytes))
            .max_frame_size(size32(limits.frame_bytes))
            .max_header_list_size(lists.decoded())
            .data_frame_budget(small_frames)
            .max_concurrent_reset_streams(remembered())
            .reset_stream_duration(LATE)
            // It is shared, and many of our own callers may take back more in that time, beside calls that end well.
            .max_local_error_reset_streams(Some(remembered()))
            .enable_push(false);
        Self {
            server,
            client,
            begin: Duration::from_millis(limits.handshake_deadline_ms),
            keepalive: Duration::from_millis(limits.keepalive_ms),
            age: Duration::from_millis(limits.connection_age_ms),
            stall: Duration::from_millis(limits.stall_ms),
            limits: limits.clone(),
            lists,
            lines: Lines::default(),
            calls: Tally::default(),
        }
    }

    /// For the connections of a [`Pool`].
    pub(super) fn client(&self) -> &h2::client::Builder {
        &self.client
    }

    /// What services of ours may hold of messages that a connection has begun, and as much of answers that it does
    /// not take.
    pub(super) fn budget(&self) -> usize {
        size(self.limits.message_bytes).saturating_add(size(self.limits.connection_window_bytes))
    }

    /// The window of a stream, as each side of a connection hears at its beginning.
    pub(super) fn window(&self) -> u32 {
        size32(self.limits.stream_window_bytes)
    }

    /// From a connection's first byte to the other side's beginning of HTTP/2.
    pub(super) fn begin(&self) -> Duration {
        self.begin
    }

    /// The oldest that a connection may be and take another call.
    pub(super) fn age(&self) -> Duration {
        self.age
    }

    /// The oldest that a connection may become.
    pub(super) fn oldest(&self) -> Duration {
        self.age + self.age / GRACE
    }

    /// Silence after which the other side is asked whether it is there, and the same again for its
    /// answer.
    pub(super) fn silence(&self) -> Duration {
        self.keepalive / 2
    }

    /// How long somebody may take too little of what it is sent.
    pub(crate) fn stall(&self) -> Duration {
        self.stall
    }

    pub(super) fn count(&self, direction: Direction, outcome: Outcome) {
        self.calls.count(direction.name(), outcome.name());
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }
}
