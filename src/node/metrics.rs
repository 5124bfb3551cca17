//! What the node counts, and the text of it.

use tokio::sync::watch;

use super::Node;
use crate::admission::Class;
use crate::role::TlsRole;
use crate::telemetry::metrics::{Kind, Tally, Text};

/// The node's own counts; the others are where they are made.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    /// By our TLS role and outcome.
    pub(super) handshakes: Tally,
    /// By class and reason.
    pub(super) refused: Tally,
    /// By reason.
    pub(super) refused_calls: Tally,
    /// What the supervisor counts, for the port that the node serves.
    pub(super) supervisor: watch::Sender<String>,
}

impl Metrics {
    /// Refusals by reason, in the words of the admin socket.
    pub(super) fn refusals(&self) -> std::collections::HashMap<String, u64> {
        let mut counts = std::collections::HashMap::new();
        let connections = self.refused.snapshot().into_iter();
        for ((_, code), count) in connections.chain(self.refused_calls.snapshot()) {
            *counts
                .entry(format!("refused_{}", code.replace('-', "_")))
                .or_default() += count;
        }
        counts
    }
}

impl Node {
    /// Everything that this process counts, in the Prometheus text format.
    pub(super) fn metrics(&self) -> String {
        let mut text = Text::default();
        self.handshake_metrics(&mut text);
        self.lane_metrics(&mut text);
        self.token_metrics(&mut text);
        text.into_string()
    }

    fn handshake_metrics(&self, text: &mut Text) {
        let metrics = &self.0.metrics;
        let mut family = text.family(
            "fastness_handshakes_total",
            Kind::Counter,
            "Handshakes that were begun, by our role and their outcome.",
        );
        for ((role, outcome), count) in metrics.handshakes.snapshot() {
            family.sample(&[("role", role), ("outcome", outcome)], count);
        }
        let mut family = text.family(
            "fastness_refused_total",
            Kind::Counter,
            "Incoming connections that were refused, by the class of their address and the reason.",
        );
        for ((class, reason), count) in metrics.refused.snapshot() {
            family.sample(&[("class", class), ("reason", reason)], count);
        }
        let mut family = text.family(
            "fastness_refused_calls_total",
            Kind::Counter,
            "Calls of connected peers that were refused, by the reason.",
        );
        for ((_, reason), count) in metrics.refused_calls.snapshot() {
            family.sample(&[("reason", reason)], count);
        }
        let mut family = text.family(
            "fastness_proxied_calls_total",
            Kind::Counter,
            "Calls that were passed on, by direction and how they ended; with mode http, requests; with mode tcp, connections.",
        );
        for ((direction, outcome), count) in self.0.proxy.calls.snapshot() {
            family.sample(&[("direction", direction), ("outcome", outcome)], count);
        }
        let sizes = self.0.gate.sizes();
        text.family(
            "fastness_half_open_connections",
            Kind::Gauge,
            "Incoming connections whose handshake is not done.",
        )
        .sample(&[("class", Class::Listed.name())], sizes.listed as u64)
        .sample(&[("class", Class::Stranger.name())], sizes.strangers as u64);
        text.family(
            "fastness_stranger_sources",
            Kind::Gauge,
            "Addresses of strangers that are remembered.",
        )
        .sample(&[], sizes.sources as u64);
        let live = |role| self.0.live.count_of(role) as u64;
        text.family(
            "fastness_connections",
            Kind::Gauge,
            "Established connections, by our role.",
        )
        .sample(&[("role", "server")], live(TlsRole::Client))
        .sample(&[("role", "client")], live(TlsRole::Server));
    }

    fn lane_metrics(&self, text: &mut Text) {
        let lane = self.0.handshakes.lane();
        text.family(
            "fastness_lane_threads",
            Kind::Gauge,
            "Threads of the lane: handshakes that compute or are signed at once.",
        )
        .sample(&[], lane.threads() as u64);
        let mut family = text.family(
            "fastness_lane_waiting",
            Kind::Gauge,
            "Handshakes that wait for a thread of the lane.",
        );
        for class in Class::ALL {
            family.sample(&[("class", class.name())], lane.waiting(class) as u64);
        }
        let mut family = text.family(
            "fastness_lane_running",
            Kind::Gauge,
            "Handshakes that have a thread of the lane.",
        );
        for class in Class::ALL {
            family.sample(&[("class", class.name())], lane.running(class) as u64);
        }
        let mut family = text.family(
            "fastness_lane_wait_seconds",
            Kind::Histogram,
            "Waiting for a thread of the lane, for each step of a handshake.",
        );
        for class in Class::ALL {
            family.histogram(&[("class", class.name())], lane.waits(class));
        }
        let mut family = text.family(
            "fastness_signatures_total",
            Kind::Counter,
            "Signatures that tokens made for handshakes.",
        );
        for class in Class::ALL {
            family.sample(
                &[("class", class.name())],
                self.0.handshakes.signatures().count(class),
            );
        }
    }

    fn token_metrics(&self, text: &mut Text) {
        let signers: Vec<_> = self
            .0
            .signers
            .iter()
            .enumerate()
            .map(|(index, signer)| (index.to_string(), signer))
            .collect();
        let mut family = text.family(
            "fastness_sign_wait_seconds",
            Kind::Histogram,
            "Waiting until the token's keeper takes one more question.",
        );
        for (index, signer) in &signers {
            family.histogram(
                &[("token", index), ("label", &signer.label)],
                signer.asker.waits(),
            );
        }
        let mut family = text.family(
            "fastness_sign_seconds",
            Kind::Histogram,
            "A signature, from the question to the keeper to its answer.",
        );
        for (index, signer) in &signers {
            family.histogram(
                &[("token", index), ("label", &signer.label)],
                signer.asker.times(),
            );
        }
        let mut family = text.family(
            "fastness_sign_failures_total",
            Kind::Counter,
            "Signatures that were asked for in vain.",
        );
        for (index, signer) in &signers {
            for (reason, count) in signer.asker.failures() {
                family.sample(
                    &[
                        ("token", index),
                        ("label", &signer.label),
                        ("reason", reason),
                    ],
                    count,
                );
            }
        }
        let mut family = text.family(
            "fastness_breaker_open",
            Kind::Gauge,
            "1 while the token is not asked as long as another can be.",
        );
        for (index, signer) in &signers {
            let open = u64::from(!signer.asker.is_usable());
            family.sample(&[("token", index), ("label", &signer.label)], open);
        }
    }
}
