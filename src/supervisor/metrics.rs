//! What the supervisor counts of the processes, in the Prometheus text format.

use super::Supervisor;
use super::keepers::Keeper;
use crate::telemetry::metrics::{Kind, Text};

impl Supervisor {
    /// Tokens and processes; the node counts the rest.
    pub(super) fn metrics(&self) -> String {
        let mut text = Text::default();
        let keepers: Vec<_> = self
            .keepers
            .iter()
            .enumerate()
            .map(|(index, keeper)| (index.to_string(), keeper.label(), keeper))
            .collect();
        let mut each = |name, kind, help, value: &dyn Fn(&Keeper) -> u64| {
            let mut family = text.family(name, kind, help);
            for (index, label, keeper) in &keepers {
                family.sample(&[("token", index), ("label", label)], value(keeper));
            }
        };
        each(
            "fastness_keeper_signs",
            Kind::Gauge,
            "1 while the token is open and its health is good.",
            &|keeper| keeper.signs().into(),
        );
        each(
            "fastness_keeper_latched",
            Kind::Gauge,
            "1 while it waits for `fastness unlock`.",
            &|keeper| keeper.is_locked().into(),
        );
        each(
            "fastness_keeper_latches_total",
            Kind::Counter,
            "How often a login was refused, or not tried as it could have locked the PIN.",
            &|keeper| keeper.latches.into(),
        );
        each(
            "fastness_keeper_restarts_total",
            Kind::Counter,
            "How often the keeper was started again.",
            &|keeper| keeper.restarts.into(),
        );
        each(
            "fastness_keeper_sessions",
            Kind::Gauge,
            "Sessions open.",
            &|keeper| keeper.vitals.sessions as u64,
        );
        each(
            "fastness_keeper_signatures_total",
            Kind::Counter,
            "Signatures the token made, health probes included.",
            &|keeper| keeper.totals().signatures,
        );
        each(
            "fastness_keeper_refusals_total",
            Kind::Counter,
            "Requests for what may not be signed.",
            &|keeper| keeper.totals().refusals,
        );
        let mut family = text.family(
            "fastness_keeper_evictions_total",
            Kind::Counter,
            "Sessions closed after an error, by return code.",
        );
        for (index, label, keeper) in &keepers {
            for (code, count) in &keeper.totals().evictions {
                family.sample(
                    &[("token", index), ("label", label), ("code", code)],
                    *count,
                );
            }
        }
        text.family(
            "fastness_node_restarts_total",
            Kind::Counter,
            "How often the node's process was started again.",
        )
        .sample(&[], self.node.restarts.into());
        text.family(
            "fastness_node_ready",
            Kind::Gauge,
            "1 while the node's process serves.",
        )
        .sample(&[], self.node.ready.into());
        text.family(
            "fastness_ready",
            Kind::Gauge,
            "1 while the node counts as ready, as grpc.health.v1 and systemd have it.",
        )
        .sample(&[], self.ready.into());
        text.into_string()
    }

    /// Hands the counts on to the node, for those who scrape its port.
    pub(super) fn push_metrics(&mut self) {
        if self.listeners.metrics.is_some() {
            let text = self.metrics();
            self.node.metrics(text);
        }
    }
}
