//! What a node says of its store.

use mks_logic::port::{ShadowStats, StoreStats};
use mks_proto::v1::{StoreShadow, StoreStatus};

pub(super) fn status(stats: StoreStats, adapter: &str) -> StoreStatus {
    StoreStatus {
        engine: stats.engine.into(),
        adapter: adapter.into(),
        records_estimate: stats.records_estimate,
        disk_bytes: stats.disk_bytes,
        batches: stats.batches,
        fsyncs: stats.fsyncs,
        stall_us: stats.stall_us,
        shadow: stats.shadow.map(shadow),
    }
}

fn shadow(stats: ShadowStats) -> StoreShadow {
    StoreShadow {
        engine: stats.engine.into(),
        state: stats.state.name().into(),
        reason: stats.reason,
        batches: stats.batches,
        lag: stats.lag,
        queue_bytes: stats.queue_bytes,
        filled: stats.filled,
        compared: stats.compared,
        differing: stats.differing,
        samples: stats.samples,
        store_write_us: stats.store_write_ns / 1_000,
        write_us: stats.write_ns / 1_000,
        disk_bytes: stats.disk_bytes,
    }
}
