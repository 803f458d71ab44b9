//! Figures of comparisons with other owners.

use super::{counter, family, gauge, raise};
use mks_logic::node::SyncFigures;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

/// How comparisons end, in the order of [`by_outcome`].
const OUTCOMES: [&str; 4] = ["clean", "mended", "failed", "plugin_drift"];

fn by_outcome(figures: SyncFigures) -> [u64; OUTCOMES.len()] {
    [figures.clean, figures.mended, figures.failed, figures.plugin_drift]
}

/// What [`super::Metrics`] counts of them.
pub(super) struct Counters {
    sessions: [Counter; OUTCOMES.len()],
    bytes: Counter,
    records_sent: Counter,
    records_received: Counter,
    running: Gauge<u64, AtomicU64>,
    demanded: Gauge<u64, AtomicU64>,
}

impl Counters {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            sessions: family(
                r,
                "sync_sessions",
                "Comparisons of this node with other owners, by how they ended; plugin_drift needs an operator",
                OUTCOMES,
                |outcome| [("outcome", outcome)],
            ),
            bytes: counter(r, "sync_bytes", "Bytes that this node's comparisons sent and received, about"),
            records_sent: counter(r, "sync_records_sent", "Records that comparisons sent to other owners"),
            records_received: counter(r, "sync_records_received", "Records that comparisons got from other owners"),
            running: gauge(r, "sync_running", "Comparisons under way"),
            demanded: gauge(r, "sync_demanded", "Pairs of partition and owner to be compared because somebody asked"),
        }
    }

    /// Takes over what was counted since `before`.
    pub(super) fn add(&self, before: SyncFigures, now: SyncFigures) {
        raise(&self.sessions, by_outcome(before), by_outcome(now));
        self.bytes.inc_by(now.bytes - before.bytes);
        self.records_sent.inc_by(now.records_sent - before.records_sent);
        self.records_received.inc_by(now.records_received - before.records_received);
        self.running.set(now.running);
        self.demanded.set(now.demanded);
    }
}
