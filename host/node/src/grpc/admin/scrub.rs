//! What a node tells of its looks at its own disk.

use super::PROGRESS_PERIOD;
use crate::handle::{Handle, ScrubView};
use futures_util::stream::{self, BoxStream, StreamExt};
use mks_logic::node::{DiskFault, ScrubFigures};
use mks_proto::v1::{self, ScrubProgress, ScrubStatus};
use tonic::Status;

/// What happened since, again and again until nothing is left.
pub(super) fn progress(handle: Handle, before: ScrubFigures) -> BoxStream<'static, Result<ScrubProgress, Status>> {
    let next = |going_on: Option<(Handle, ScrubFigures)>| async move {
        let (handle, before) = going_on?;
        tokio::time::sleep(PROGRESS_PERIOD).await;
        let view = handle.view.load().scrub.clone();
        let now = view.figures;
        let found =
            (now.damaged - before.damaged) + (now.altered - before.altered) + (now.unreadable - before.unreadable);
        let known = view.faults.len().saturating_sub(usize::try_from(found).unwrap_or(usize::MAX));
        let progress = ScrubProgress {
            left: now.demanded,
            records: now.records - before.records,
            bytes: now.bytes - before.bytes,
            damaged: now.damaged - before.damaged,
            altered: now.altered - before.altered,
            unreadable: now.unreadable - before.unreadable,
            mended: now.mended - before.mended,
            waiting: now.waiting,
            faults: view.faults[known..].iter().map(fault).collect(),
        };
        Some((Ok(progress), (now.demanded > 0).then_some((handle, before))))
    };
    stream::unfold(Some((handle, before)), next).boxed()
}

pub(super) fn status(view: &ScrubView) -> ScrubStatus {
    let figures = view.figures;
    ScrubStatus {
        passes: figures.passes,
        partitions_done: figures.partitions_done,
        partitions: figures.partitions,
        records: figures.records,
        bytes: figures.bytes,
        damaged: figures.damaged,
        altered: figures.altered,
        unreadable: figures.unreadable,
        mended: figures.mended,
        waiting: figures.waiting,
        faults: view.faults.iter().map(fault).collect(),
    }
}

fn fault(fault: &DiskFault) -> v1::DiskFault {
    v1::DiskFault {
        kind: fault.kind.name().into(),
        partition: fault.place.partition.0.into(),
        bucket: fault.place.bucket.into(),
        key: fault.key.map_or_else(String::new, |key| format!("{key:016x}")),
        found_ms: fault.found_ms,
        mended_ms: fault.mended_ms.unwrap_or(0),
    }
}
