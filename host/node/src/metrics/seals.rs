//! Figures of seals, and of the tombstones that they let go.

use super::{counter, gauge};
use mks_logic::cluster::State;
use mks_logic::id::PartitionId;
use mks_logic::node::Sealing;
use mks_logic::ring::Ring;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

/// What [`super::Metrics`] shows of them.
pub(super) struct Counters {
    closed: Gauge<u64, AtomicU64>,
    sealed: Gauge<u64, AtomicU64>,
    purging: Gauge<u64, AtomicU64>,
    purged: Counter,
}

impl Counters {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            closed: gauge(r, "closed_epoch", "Every member is done with all writes up to this epoch"),
            sealed: gauge(r, "sealed_epoch", "All partitions are sealed up to this epoch"),
            purging: gauge(r, "purging_partitions", "Partitions that are sealed further than they are purged here"),
            purged: counter(r, "tombstones_purged", "Tombstones that were removed because a seal covers them"),
        }
    }

    pub(super) fn set(&self, state: &State, sealing: &Sealing) {
        let partitions = state.ring.as_ref().map_or(0, Ring::partitions);
        let sealed = (0..partitions).map(|partition| state.sealed(PartitionId(partition as u16)).epoch.0);
        self.closed.set(state.closed().epoch.0);
        self.sealed.set(sealed.min().unwrap_or(0));
        self.purging.set(sealing.purging.into());
        self.purged.inc_by(sealing.purged.saturating_sub(self.purged.get()));
    }
}
