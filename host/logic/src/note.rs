//! How an owner finds its tombstones again, and remembers up to where it has removed them: see `docs/seals.md`.
//!
//! ```text
//! 4 | u16 partition                              mark: u64 epoch | u64 clock | u64 hash of key and these
//! 5 | u16 partition | u64 epoch | engine key     note: there is, or was, a tombstone of that epoch; no value
//! ```
//!
//! Both lie in [`Table::Digests`], beside the sums. A note comes with the tombstone, in the same batch. It may outlive
//! it: whoever goes by it looks at the record.

use crate::cluster::Mark;
use crate::id::{Epoch, PartitionId};
use crate::outline::Row;
use crate::port::{Change, Table};
use crate::time::Hlc;
use alloc::vec::Vec;
use bytes::{Buf, BufMut, Bytes};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const MARKS: u8 = 4;
const NOTES: u8 = 5;

/// Where marks begin, and where they end.
pub const MARKS_SPAN: (&[u8], &[u8]) = (&[MARKS], &[NOTES]);

/// The tombstone that a record amounts to, if it does: where the last write wins, nothing else of it counts.
#[must_use]
pub fn tombstone(rows: &[Row]) -> Option<&Row> {
    rows.iter().max_by_key(|row| (row.written, row.tombstone)).filter(|latest| latest.tombstone)
}

fn key(kind: u8, partition: PartitionId) -> Vec<u8> {
    let mut key = Vec::with_capacity(64);
    key.put_u8(kind);
    key.put_u16(partition.0);
    key
}

/// The key of a note. `engine_key` is the record's.
#[must_use]
pub fn note_key(partition: PartitionId, epoch: Epoch, engine_key: &[u8]) -> Bytes {
    let mut key = key(NOTES, partition);
    key.put_u64(epoch.0);
    key.put_slice(engine_key);
    key.into()
}

/// Reads [`note_key`] back: the epoch and the record's engine key.
#[must_use]
pub fn read_note_key(mut key: &[u8]) -> Option<(Epoch, &[u8])> {
    if key.try_get_u8().ok()? != NOTES {
        return None;
    }
    key.try_get_u16().ok()?;
    let epoch = Epoch(key.try_get_u64().ok()?);
    Some((epoch, key))
}

/// Where the notes of a partition begin, and where those of later epochs than `upto` do.
#[must_use]
pub fn notes_span(partition: PartitionId, upto: Epoch) -> (Bytes, Bytes) {
    (note_key(partition, Epoch(0), &[]), note_key(partition, Epoch(upto.0.saturating_add(1)), &[]))
}

/// What a tombstone's batch carries as well.
#[must_use]
pub fn note(partition: PartitionId, epoch: Epoch, engine_key: &[u8]) -> Change {
    Change::Put { table: Table::Digests, key: note_key(partition, epoch, engine_key), value: Bytes::new() }
}

/// Says that the tombstones of a partition are gone up to there.
#[must_use]
pub fn mark(partition: PartitionId, mark: Mark) -> Change {
    let key = key(MARKS, partition);
    let mut value = Vec::with_capacity(24);
    value.put_u64(mark.epoch.0);
    value.put_u64(mark.clock.0);
    value.put_u64(xxh3_64_with_seed(&value, xxh3_64_with_seed(&key, 0)));
    Change::Put { table: Table::Digests, key: key.into(), value: value.into() }
}

/// Reads a mark back; `None` when it is none, or damaged.
#[must_use]
pub fn read_mark(key: &[u8], mut value: &[u8]) -> Option<(PartitionId, Mark)> {
    let hash = xxh3_64_with_seed(value.get(..16)?, xxh3_64_with_seed(key, 0));
    let mark = Mark { epoch: Epoch(value.try_get_u64().ok()?), clock: Hlc(value.try_get_u64().ok()?) };
    let mut at = key;
    let known = key.len() == 3 && value.len() == 8 && at.get_u8() == MARKS && value.get_u64() == hash;
    known.then(|| (PartitionId(at.get_u16()), mark))
}

/// Forgets all that is noted of a partition, and its mark.
#[must_use]
pub fn forget(partition: PartitionId) -> [Change; 2] {
    let (start, end) = notes_span(partition, Epoch(u64::MAX - 1));
    let mark = Change::Delete { table: Table::Digests, key: key(MARKS, partition).into() };
    [Change::DeleteRange { table: Table::Digests, start, end }, mark]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_note_reads_back_and_lies_in_its_span(p: u16, epoch in 0..u64::MAX - 1, key: Vec<u8>) {
            let note = note_key(PartitionId(p), Epoch(epoch), &key);
            prop_assert_eq!(read_note_key(&note), Some((Epoch(epoch), &key[..])));
            let (start, end) = notes_span(PartitionId(p), Epoch(epoch));
            prop_assert!(start <= note && note < end);
            let before = notes_span(PartitionId(p), Epoch(epoch.saturating_sub(1))).1;
            prop_assert!(epoch == 0 || note >= before);
        }

        #[test]
        fn a_mark_reads_back_and_a_damaged_one_is_none(p: u16, epoch: u64, clock: u64, at in 0usize..24, bit in 0u8..8)
        {
            let said = Mark { epoch: Epoch(epoch), clock: Hlc(clock) };
            let Change::Put { key, value, .. } = mark(PartitionId(p), said) else { panic!("a mark is put") };
            prop_assert_eq!(read_mark(&key, &value), Some((PartitionId(p), said)));
            let mut damaged = value.to_vec();
            damaged[at] ^= 1 << bit;
            prop_assert_eq!(read_mark(&key, &damaged), None);
        }

        #[test]
        fn garbage_is_neither_and_no_panic(key: Vec<u8>, value: Vec<u8>) {
            let _ = (read_note_key(&key), read_mark(&key, &value));
        }
    }
}
