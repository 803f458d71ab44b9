//! The disk's part of a scrub, and the log lines that name what it found.

use super::DiskParts;
use crate::pump::Event;
use mks_logic::digest::key_hash;
use mks_logic::event::{ScrubJob, ScrubOutcome, ScrubWork};
use mks_logic::id::Key;
use mks_logic::scrub;

/// Does it and says what came of it. False when there is nobody to tell.
pub(super) fn job(parts: &DiskParts, ScrubJob { job, work }: ScrubJob) -> bool {
    let outcome = scrub::work(parts.ports(), &work);
    name(parts, &work, &outcome);
    parts.events.blocking_send(Event::Scrubbed(job, outcome)).is_ok()
}

/// Clients met damaged records. False when there is nobody to tell.
pub(super) fn met<'a>(parts: &DiskParts, keys: impl Iterator<Item = &'a Key>) -> bool {
    let keys: Vec<Key> = keys.cloned().collect();
    keys.is_empty() || parts.events.blocking_send(Event::Damaged(keys)).is_ok()
}

fn name(parts: &DiskParts, work: &ScrubWork, outcome: &ScrubOutcome) {
    match (work, outcome) {
        (ScrubWork::Check { partition, bucket }, ScrubOutcome::Checked(checked)) => {
            for engine_key in &checked.damaged {
                tracing::error!(
                    partition = partition.0,
                    bucket,
                    key = format!("{:016x}", key_hash(engine_key)),
                    "the disk has damaged a record: it is not served from this node until the other owners have \
                     replaced it; check this disk"
                );
            }
            if checked.differed && checked.damaged.is_empty() {
                tracing::error!(
                    partition = partition.0,
                    bucket,
                    "the disk holds other records than were written: this partition is compared with its other owners \
                     now; check this disk"
                );
            }
        }
        (
            ScrubWork::Look { partition, .. } | ScrubWork::Check { partition, .. },
            ScrubOutcome::Unreadable { bucket },
        ) => {
            tracing::error!(
                partition = partition.0,
                bucket,
                "the engine can't read these records, a file of it is damaged: replace this disk, delete the data \
                 directory and let the node copy all of it again"
            );
        }
        (ScrubWork::Mend { key, record }, ScrubOutcome::Mended) => {
            let key = format!("{:016x}", key_hash(&key.engine_key(parts.partition_bits)));
            let versions = record.versions().len();
            tracing::info!(key, versions, "a damaged record was replaced by what the other owners hold");
        }
        _ => {}
    }
}
