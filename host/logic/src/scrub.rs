//! A slow look at what the disk really holds: the sums of one bucket at a time, recomputed from its records.
//!
//! It must run on the thread that runs [`crate::replica::absorb`], between two groups: then nothing changes meanwhile.
//! A record whose checksum fails is taken out of the way, its bytes kept under [`QUARANTINE`]: they are not served, not
//! added to sums and not spread, and the record that other owners hold can be written in its place. The sums are set to
//! what the records say, so that they differ from the other owners' where a record is gone or is not what it was:
//! the comparison that must follow mends it.

use crate::digest::{self, Delta};
use crate::id::{BUCKETS, Epoch, Key, PartitionId};
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

/// Damaged records that one bucket's scrub takes out of the way; the next one goes on. Their bytes are kept.
pub const DAMAGED_MAX: usize = 64;

/// What a scrub of a bucket found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scrubbed {
    /// Records looked at.
    pub records: u64,
    /// Engine keys of records that were damaged, at most [`DAMAGED_MAX`].
    pub damaged: Vec<Bytes>,
    /// Sums were not those of the records: the disk lost or changed something, whether or not it is known what.
    pub differed: bool,
}

impl Scrubbed {
    /// True when this partition must be compared with its other owners: see [`crate::event::Input::Repair`].
    #[must_use]
    pub fn needs_repair(&self) -> bool {
        self.differed || !self.damaged.is_empty()
    }
}

/// Which bucket comes after this one, of partitions that `is_mine`: all of them, round and round.
#[must_use]
pub fn after(
    (partition, bucket): (PartitionId, u16),
    partition_bits: u8,
    is_mine: impl Fn(PartitionId) -> bool,
) -> Option<(PartitionId, u16)> {
    if u32::from(bucket) + 1 < BUCKETS && is_mine(partition) {
        return Some((partition, bucket + 1));
    }
    let count = 1u32 << partition_bits;
    let next = (1..=count).map(|i| PartitionId(((u32::from(partition.0) + i) % count) as u16)).find(|p| is_mine(*p));
    next.map(|partition| (partition, 0))
}

/// Compares the records of one bucket with the sums kept, and sets right what is wrong on this node.
///
/// # Errors
/// When the store can't read or write; nothing changed then (but see [`StoreError::Fatal`]).
pub fn bucket(ports: Ports<'_>, partition: PartitionId, bucket: u16) -> Result<Scrubbed, StoreError> {
    let first = (u32::from(partition.0) << 16) | u32::from(bucket);
    let end = first.checked_add(1).map(u32::to_be_bytes);
    let mut scrubbed = Scrubbed::default();
    let mut batch = Vec::new();
    let mut there: BTreeMap<(u8, Epoch), u128> = BTreeMap::new();
    ports.store.scan(Table::Records, &first.to_be_bytes(), end.as_ref().map(|end| &end[..]), &mut |key, value| {
        scrubbed.records += 1;
        let value = Bytes::copy_from_slice(value);
        let known = Key::from_engine_key(key).and_then(|key| ports.digests.copies(key.keyspace));
        match (Record::decode(&value), known) {
            (Ok(record), Some(copies)) => {
                let hash = digest::key_hash(key);
                for row in Outline::of(&record).rows {
                    let sum: &mut u128 = there.entry((copies, row.epoch)).or_default();
                    *sum = sum.wrapping_add(digest::contribution(hash, &row));
                }
            }
            // Of a later release, or of a keyspace that this node has not heard of yet: not the disk's fault.
            (Err(DecodeError::FutureFormat(_)), _) | (Ok(_), None) => {}
            (Err(_), _) => {
                if scrubbed.damaged.len() < DAMAGED_MAX {
                    let key = Bytes::copy_from_slice(key);
                    let kept = [QUARANTINE, &key].concat().into();
                    batch.push(Change::Put { table: Table::Digests, key: kept, value });
                    batch.push(Change::Delete { table: Table::Records, key: key.clone() });
                    scrubbed.damaged.push(key);
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    let deltas: Vec<Delta> = ports.digests.correct(partition, bucket, &there);
    scrubbed.differed = !deltas.is_empty();
    if scrubbed.needs_repair() {
        batch.extend(ports.digests.stage(deltas));
        if !scrubbed.damaged.is_empty() {
            ports.mints.lost();
        }
        let done = ports.store.apply(batch, Durability::Sync);
        ports.digests.settle(done.is_ok());
        for key in &scrubbed.damaged {
            ports.outlines.forget(key);
        }
        done?;
    }
    Ok(scrubbed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Age, Range};
    use crate::event::WriteJob;
    use crate::message::{ReadOutcome, Want, WriteOutcome};
    use crate::port::Store;
    use crate::replica::{absorb, find};
    use crate::testing::{Disk, PARTITION_BITS, Rules, job, key, version};
    use crate::time::Hlc;

    fn filled() -> Disk {
        let disk = Disk::default();
        for i in 1..200 {
            let version = crate::version::Version { epoch: Epoch(i % 7), ..version(1, i, Hlc(i), Some("v")) };
            let jobs = [WriteJob { fresh: false, ..job(&key(&format!("key {i}")), version) }];
            assert_eq!(absorb(disk.ports(&Rules::Work), &jobs).0, [WriteOutcome::Held]);
        }
        disk
    }

    fn scrub_all(disk: &Disk) -> Vec<(PartitionId, u16, Scrubbed)> {
        let mut found = Vec::new();
        let (mut at, last) = ((PartitionId(0), 0), (PartitionId(0), 0));
        loop {
            let scrubbed = bucket(disk.ports(&Rules::Work), at.0, at.1).unwrap();
            if scrubbed.needs_repair() {
                found.push((at.0, at.1, scrubbed));
            }
            at = after(at, PARTITION_BITS, |_| true).unwrap();
            if at == last {
                return found;
            }
        }
    }

    fn sums(disk: &Disk, partition: PartitionId) -> Vec<Option<digest::Sums>> {
        let range = |age| Range { partition, copies_min: 1, epoch: Epoch(9), age };
        Age::ALL.map(|age| disk.digests(|digests| digests.sums(range(age)))).to_vec()
    }

    #[test]
    fn a_healthy_disk_is_left_alone() {
        let disk = filled();
        let batches = disk.stats().batches;
        assert_eq!(scrub_all(&disk), []);
        assert_eq!(disk.stats().batches, batches);
    }

    #[test]
    fn the_record_that_a_disk_damaged_is_named_and_its_place_is_free_for_a_good_one() {
        let disk = filled();
        let good = disk.record(&key("key 42"));
        disk.damage(&key("key 42"));
        disk.restart();
        let place = key("key 42").place(PARTITION_BITS);
        let found = scrub_all(&disk);
        let engine_key = Bytes::from(key("key 42").engine_key(PARTITION_BITS));
        let named = Scrubbed { damaged: vec![engine_key], differed: true, ..found[0].2.clone() };
        assert_eq!(found, [(place.partition, place.bucket, named)]);
        let recomputed = disk.recomputed();
        let range = Range { partition: place.partition, copies_min: 1, epoch: Epoch(9), age: Age::Closed };
        assert_eq!(disk.digests(|digests| digests.sums(range)), recomputed.sums(range));
        assert_eq!(scrub_all(&disk), [], "once");
        let version = good.versions()[0].clone();
        let jobs = [WriteJob { fresh: false, ..job(&key("key 42"), version) }];
        assert_eq!(absorb(disk.ports(&Rules::Work), &jobs).0, [WriteOutcome::Held]);
        assert_eq!(find(disk.ports(&Rules::Work), &key("key 42"), Want::Record), ReadOutcome::Record(good));
    }

    #[test]
    fn a_record_that_a_disk_lost_shows_in_the_sums() {
        let (disk, whole) = (filled(), filled());
        let lost = key("key 77").engine_key(PARTITION_BITS);
        let place = key("key 77").place(PARTITION_BITS);
        disk.apply(vec![Change::Delete { table: Table::Records, key: lost.into() }], Durability::Sync).unwrap();
        disk.restart();
        assert_eq!(sums(&disk, place.partition), sums(&whole, place.partition), "the disk lies");
        let found = scrub_all(&disk);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].1), (place.partition, place.bucket));
        assert!(found[0].2.differed && found[0].2.damaged.is_empty());
        assert_ne!(sums(&disk, place.partition), sums(&whole, place.partition), "now a comparison finds it");
        disk.restart();
        assert_eq!(scrub_all(&disk), []);
    }

    #[test]
    fn a_disk_that_is_full_changes_nothing() {
        let disk = filled();
        disk.damage(&key("key 42"));
        disk.restart();
        let place = key("key 42").place(PARTITION_BITS);
        disk.fail(Some(StoreError::Full("no room".into())));
        let scrub = || bucket(disk.ports(&Rules::Work), place.partition, place.bucket);
        assert!(scrub().is_err());
        disk.fail(None);
        assert_eq!(scrub().map(|scrubbed| scrubbed.damaged.len()), Ok(1));
    }
}
