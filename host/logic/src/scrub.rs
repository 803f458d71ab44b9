//! A slow look at what the disk really holds.
//!
//! A *look* recomputes the sums of bucket after bucket from the records, beside everything else that goes on: a write
//! may come between its reading and its comparing. So what seems wrong is only suspected, and a *check* of that one
//! bucket makes sure, on the thread that runs [`crate::replica::absorb`], between two groups: then nothing changes
//! meanwhile.
//!
//! A check sets the sums to what the records say. Where a record is gone, or is another one than was written, they
//! differ from the other owners' then, and the comparison that must follow mends it. A record whose checksum fails
//! counts for nothing and stays where it is: it is not served, no write is merged into it, and whoever asks for it is
//! told so. Had it been taken away, this owner would say that there is nothing, and a read quorum might believe it.
//! Once all other owners have said what they hold of the key, a *mend* puts that in its place, and keeps the damaged
//! bytes under [`QUARANTINE`].

#[cfg(test)]
mod tests;

use crate::digest::{self, Contributions, Delta};
use crate::event::{Checked, Looked, ScrubOutcome, ScrubWork};
use crate::id::{BUCKETS, Epoch, Key, KeyspaceId, PartitionId, Place};
use crate::note;
use crate::outline::Outline;
use crate::port::{Change, Durability, StoreError, Table};
use crate::record::{DecodeError, Record};
use crate::replica::Ports;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::ControlFlow;

/// Where bytes of damaged records lie in [`Table::Digests`], before their engine key. For people who look for them.
pub const QUARANTINE: &[u8] = &[0x80];

/// Damaged records that one check names; the next pass goes on.
pub const DAMAGED_MAX: usize = 64;

/// Bytes of records after which a look ends, at the end of a bucket.
pub const LOOK_BYTES_MAX: u64 = 256 << 10;

/// Suspects after which a look ends, so that a disk that lost everything is checked piece by piece.
pub const SUSPECTS_MAX: usize = 64;

/// Does the work.
#[must_use]
pub fn work(ports: Ports<'_>, work: &ScrubWork) -> ScrubOutcome {
    match work {
        ScrubWork::Look { partition, bucket } => look(ports, *partition, *bucket),
        ScrubWork::Check { partition, bucket } => {
            check(ports, *partition, *bucket).map_or_else(|error| unreadable(&error, *bucket), ScrubOutcome::Checked)
        }
        ScrubWork::Mend { key, record } => match mend(ports, key, record) {
            Ok(()) => ScrubOutcome::Mended,
            Err(_) => ScrubOutcome::Failed,
        },
    }
}

fn unreadable(error: &StoreError, bucket: u16) -> ScrubOutcome {
    match error {
        StoreError::Corrupt(_) => ScrubOutcome::Unreadable { bucket },
        StoreError::Full(_) | StoreError::Fatal(_) | StoreError::Io(_) => ScrubOutcome::Failed,
    }
}

/// What a record of the table says.
enum Seen {
    /// Its versions, and its keyspace.
    Versions(KeyspaceId, Vec<crate::outline::Row>),
    /// Its bytes are not what was written.
    Damaged,
    /// Of a later release, or of a keyspace that this node has not heard of yet: not the disk's fault.
    Unknown,
}

fn read(ports: Ports<'_>, key: &[u8], value: &[u8]) -> Seen {
    let keyspace = Key::from_engine_key(key).map(|key| key.keyspace);
    let known = keyspace.filter(|keyspace| ports.digests.copies(*keyspace).is_some());
    match (Record::decode(&Bytes::copy_from_slice(value)), known) {
        (Ok(record), Some(keyspace)) => Seen::Versions(keyspace, Outline::of(&record).rows),
        (Err(DecodeError::FutureFormat(_)), _) | (Ok(_), None) => Seen::Unknown,
        (Err(DecodeError::Malformed | DecodeError::Damaged), _) => Seen::Damaged,
    }
}

fn first_key(partition: PartitionId, bucket: u16) -> u32 {
    (u32::from(partition.0) << 16) | u32::from(bucket)
}

/// Looks at the buckets from this one on.
fn look(ports: Ports<'_>, partition: PartitionId, from: u16) -> ScrubOutcome {
    let end = first_key(partition, u16::MAX).checked_add(1).map(u32::to_be_bytes);
    let start = first_key(partition, from).to_be_bytes();
    let mut looked = Looked::default();
    let mut there = Contributions::new();
    let (mut bucket, mut damaged) = (from, Vec::new());
    let done = ports.store.scan(Table::Records, &start, end.as_ref().map(|end| &end[..]), &mut |key, value| {
        let Some(place) = Place::of_engine_key(key) else { return ControlFlow::Continue(()) };
        let full = looked.bytes >= LOOK_BYTES_MAX || damaged.len() >= SUSPECTS_MAX;
        if full && place.bucket != bucket {
            looked.next = Some(place.bucket);
            return ControlFlow::Break(());
        }
        bucket = place.bucket;
        looked.records += 1;
        looked.bytes += (key.len() + value.len()) as u64;
        match read(ports, key, value) {
            Seen::Versions(keyspace, rows) => {
                let hash = digest::key_hash(key);
                for row in rows {
                    let sum = there.entry((keyspace, bucket, row.epoch)).or_default();
                    *sum = sum.wrapping_add(digest::contribution(hash, &row));
                }
            }
            Seen::Damaged if damaged.last() != Some(&bucket) => damaged.push(bucket),
            Seen::Damaged | Seen::Unknown => {}
        }
        ControlFlow::Continue(())
    });
    if let Err(error) = done {
        // What came before it is looked at again when the pass comes here next time.
        return unreadable(&error, bucket);
    }
    let last = looked.next.map_or(BUCKETS as u16 - 1, |next| next - 1);
    looked.suspects = ports.digests.differing(partition, from..=last, &there);
    looked.suspects.extend(damaged);
    looked.suspects.sort_unstable();
    looked.suspects.dedup();
    if let Some(more) = looked.suspects.get(SUSPECTS_MAX).copied() {
        looked.suspects.truncate(SUSPECTS_MAX);
        looked.next = Some(more);
    }
    ScrubOutcome::Looked(looked)
}

/// Compares the records of one bucket with the sums kept, and sets those right.
///
/// # Errors
/// When the store can't read or write; nothing changed then (but see [`StoreError::Fatal`]).
fn check(ports: Ports<'_>, partition: PartitionId, bucket: u16) -> Result<Checked, StoreError> {
    let first = first_key(partition, bucket);
    let end = first.checked_add(1).map(u32::to_be_bytes);
    let mut checked = Checked::default();
    let mut there: BTreeMap<(KeyspaceId, Epoch), u128> = BTreeMap::new();
    ports.store.scan(Table::Records, &first.to_be_bytes(), end.as_ref().map(|end| &end[..]), &mut |key, value| {
        checked.records += 1;
        checked.bytes += (key.len() + value.len()) as u64;
        match read(ports, key, value) {
            Seen::Versions(keyspace, rows) => {
                let hash = digest::key_hash(key);
                for row in rows {
                    let sum: &mut u128 = there.entry((keyspace, row.epoch)).or_default();
                    *sum = sum.wrapping_add(digest::contribution(hash, &row));
                }
            }
            Seen::Damaged if checked.damaged.len() < DAMAGED_MAX => {
                checked.damaged.push(Bytes::copy_from_slice(key));
            }
            Seen::Damaged | Seen::Unknown => {}
        }
        ControlFlow::Continue(())
    })?;
    let deltas: Vec<Delta> = ports.digests.correct(partition, bucket, &there);
    checked.differed = !deltas.is_empty();
    if checked.differed {
        ports.mints.lost();
        let done = ports.store.apply(ports.digests.stage(deltas), Durability::Sync);
        ports.digests.settle(done.is_ok());
        done?;
        // What is remembered may be what the disk no longer holds.
        ports.outlines.forget_under(&first.to_be_bytes());
    }
    for key in &checked.damaged {
        ports.outlines.forget(key);
    }
    Ok(checked)
}

/// Puts what the other owners hold in the place of a damaged record, and keeps its bytes for people. A record that can
/// be read (again) is left as it is.
///
/// # Errors
/// When the store can't read or write; nothing changed then (but see [`StoreError::Fatal`]).
fn mend(ports: Ports<'_>, key: &Key, record: &Record) -> Result<(), StoreError> {
    let engine_key = Bytes::from(key.engine_key(ports.partition_bits));
    let bytes = ports.store.get(Table::Records, &engine_key)?.unwrap_or_default();
    let unknown = ports.digests.copies(key.keyspace).is_none();
    if unknown || !matches!(Record::decode(&bytes), Err(DecodeError::Malformed | DecodeError::Damaged)) {
        return Ok(());
    }
    let outline = Outline::of(record);
    let mut deltas = Vec::new();
    digest::difference(&engine_key, key.keyspace, &[], &outline.rows, &mut deltas);
    let kept = Bytes::from([QUARANTINE, &engine_key].concat());
    let mut batch = alloc::vec![Change::Put { table: Table::Digests, key: kept, value: bytes }];
    batch.push(if record.is_empty() {
        Change::Delete { table: Table::Records, key: engine_key.clone() }
    } else {
        Change::Put { table: Table::Records, key: engine_key.clone(), value: record.encode() }
    });
    // A note too many does no harm.
    let noted = note::tombstone(&outline.rows).zip(Place::of_engine_key(&engine_key));
    batch.extend(noted.map(|(row, place)| note::note(place.partition, row.epoch, &engine_key)));
    batch.extend(ports.digests.stage(deltas));
    ports.mints.lost();
    let done = ports.store.apply(batch, Durability::Sync);
    ports.digests.settle(done.is_ok());
    ports.outlines.forget(&engine_key);
    done
}
