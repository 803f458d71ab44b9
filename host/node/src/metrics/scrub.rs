//! Figures of looks at this node's own disk.

use super::{Sample, SampleKind, counter, family, gauge, raise};
use mks_logic::node::{DiskFault, FaultKind, ScrubFigures};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

const KINDS: [FaultKind; 3] = [FaultKind::Damaged, FaultKind::Altered, FaultKind::Unreadable];

fn by_kind(figures: ScrubFigures) -> [u64; KINDS.len()] {
    [figures.damaged, figures.altered, figures.unreadable]
}

/// What [`super::Metrics`] counts of them.
pub(super) struct Counters {
    faults: [Counter; KINDS.len()],
    passes: Counter,
    records: Counter,
    bytes: Counter,
    mended: Counter,
    waiting: Gauge<u64, AtomicU64>,
    done: Gauge<u64, AtomicU64>,
    partitions: Gauge<u64, AtomicU64>,
}

impl Counters {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            faults: family(
                r,
                "scrub_faults",
                "Places where this node's disk does not hold what was written: records that fail their checksum, buckets \
                 with other records than were written, buckets that the engine can't read",
                KINDS,
                |kind| [("kind", kind.name())],
            ),
            passes: counter(r, "scrub_passes", "Times that all records of this node were looked at"),
            records: counter(r, "scrub_records", "Records looked at"),
            bytes: counter(r, "scrub_bytes", "Bytes of records looked at"),
            mended: counter(r, "scrub_mended", "Damaged records that are what the other owners hold again"),
            waiting: gauge(
                r,
                "scrub_waiting",
                "Damaged records that are not read here until all owners were asked what they hold",
            ),
            done: gauge(r, "scrub_partitions_done", "Partitions that the pass under way has done"),
            partitions: gauge(r, "scrub_partitions", "Partitions that a pass has to do"),
        }
    }

    /// Takes over what was counted since `before`.
    pub(super) fn add(&self, before: ScrubFigures, now: ScrubFigures) {
        raise(&self.faults, by_kind(before), by_kind(now));
        self.passes.inc_by(now.passes - before.passes);
        self.records.inc_by(now.records - before.records);
        self.bytes.inc_by(now.bytes - before.bytes);
        self.mended.inc_by(now.mended - before.mended);
        self.waiting.set(now.waiting);
        self.done.set(now.partitions_done);
        self.partitions.set(now.partitions);
    }
}

/// One figure for each of the latest lies of the disk: when it was found. How many are remembered is bounded.
pub(crate) fn disk_faults(faults: &[DiskFault]) -> Vec<Sample> {
    let sample = |fault: &DiskFault| Sample {
        name: "scrub_fault_found_seconds".into(),
        help: "When a place was found that does not hold what was written (the latest few), Unix time".into(),
        kind: SampleKind::Gauge,
        labels: vec![
            ("kind", fault.kind.name().to_owned()),
            ("partition", fault.place.partition.0.to_string()),
            ("bucket", fault.place.bucket.to_string()),
            ("key", fault.key.map_or_else(String::new, |key| format!("{key:016x}"))),
            ("mended", fault.mended_ms.is_some().to_string()),
        ],
        value: fault.found_ms as f64 / 1e3,
    };
    faults.iter().map(sample).collect()
}
