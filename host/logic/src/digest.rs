//! What a node knows of its partitions by sums: how owners find out that they differ without reading a record.
//!
//! Each (partition, epoch) has [`BUCKETS`] sums of 128 bits: the wrapping sum of [`contribution`] over all live
//! versions stamped with that epoch. A write adds its own and subtracts what it replaced. Sums know no order and no
//! grouping, so that every owner may reach them on its own way, and a range of epochs is one sum as well: epochs before
//! the two latest ones are folded into a base, and an owner that has not folded yet adds up to the same.
//!
//! Keyspaces of fewer copies lie on fewer of a partition's owners. So sums are kept apart by keyspace, and two owners
//! add up those of the keyspaces that both of them hold. A keyspace that gets another number of copies is added up by
//! others then: no record is read for that, and nothing that was kept of it changes.
//!
//! # Why a log of deltas
//!
//! The promise is that after a crash the sums equal a recomputation from the records, exactly; the price may be 5 % of
//! a put. A commit touches up to hundreds of random buckets: storing each sum beside its record would be a second put
//! per put. So the sums live in memory (4 MiB per epoch for 256 partitions), changed by the one thread that commits,
//! and each commit carries **one** more put in the same engine batch: its *deltas*, about 24 bytes per record. Whatever
//! a crash leaves of the records, it leaves of the deltas.
//!
//! To start again, a node needs the sums as of some commit and the deltas since. There is no checkpoint that would stop
//! writers: for every [`FLUSH_EVERY`] deltas the commit under way also carries one *page*, the sums of one partition,
//! the one whose stored form is the oldest. A page names the last commit in it, so that deltas before it are not added
//! twice. Deltas older than all that pages lack are dropped. Hence bounds: memory is three epochs' sums per partition,
//! the log is at most [`FLUSH_EVERY`] deltas per partition (12 MiB for 256 of them), a commit carries at most a few
//! pages (usually none), and opening reads one log and one page per partition. All that is for each keyspace, and for
//! one of few records it is as little as those ([`part`]). A page or delta whose checksum fails is not believed: then
//! the sums are recomputed from the records.

mod codec;
mod part;
mod table;
#[cfg(test)]
mod tests;

pub use table::{DigestTable, FLUSH_EVERY, recompute};

use crate::id::{BUCKETS, Epoch, KeyspaceId, PartitionId, Place};
use crate::outline::Row;
use crate::port::Batch;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128_with_seed};

/// One sum per bucket.
pub type Sums = Vec<u128>;

/// Which epochs a sum spans, as seen from the current one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Age {
    /// All epochs before the previous one.
    Closed,
    /// The epoch before the current one.
    Previous,
    /// The current epoch: it changes while clients write.
    Open,
    /// All of them, as a partition that moves is compared: a record may go from one epoch to another meanwhile.
    Any,
}

impl Age {
    /// Those that owners compare apart, in that order.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Previous, Self::Open];

    /// The age of `epoch` when `current` is the current one; `None` for one that is still to come.
    #[must_use]
    pub fn of(epoch: Epoch, current: Epoch) -> Option<Self> {
        match current.0.checked_sub(epoch.0)? {
            0 => Some(Self::Open),
            1 => Some(Self::Previous),
            _ => Some(Self::Closed),
        }
    }

    /// Whether it spans `epoch` when `current` is the current one.
    #[must_use]
    pub fn spans(self, epoch: Epoch, current: Epoch) -> bool {
        self == Self::Any || Self::of(epoch, current) == Some(self)
    }
}

/// Which sums: of a partition, for the keyspaces of at least so many copies ([`Digests::copies`]), of that age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Range {
    /// Which partition.
    pub partition: PartitionId,
    /// Keyspaces of fewer copies are left out: they don't lie on both owners.
    pub copies_min: u8,
    /// The epoch that `age` is seen from.
    pub epoch: Epoch,
    /// Which epochs.
    pub age: Age,
    /// Up to where tombstones of the partition are gone, on both owners: one that has more would give them back.
    pub purged: Epoch,
    /// It is compared so that the partition can be sealed, up to here; zero: it is not.
    pub closed: Epoch,
}

/// The change of one sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delta {
    /// Which partition.
    pub partition: PartitionId,
    /// The record's keyspace.
    pub keyspace: KeyspaceId,
    /// Which bucket, below [`BUCKETS`].
    pub bucket: u16,
    /// Of which epoch's sum.
    pub epoch: Epoch,
    /// What is added, wrapping.
    pub sum: u128,
}

/// The sums of a node, as its writer and those who compare see them.
///
/// One thread stages, commits and then settles: [`Self::stage`] before the engine's commit, [`Self::settle`] after it.
pub trait Digests: Send + Sync {
    /// Owners of the records of a keyspace, the most in any table in force; `None` when this node has not heard of it.
    fn copies(&self, keyspace: KeyspaceId) -> Option<u8>;

    /// What the batch that carries the change of the records must carry as well. The sums are as before.
    fn stage(&self, deltas: Vec<Delta>) -> Batch;

    /// The batch of the last [`Self::stage`] was committed (the sums change) or was not (they don't).
    fn settle(&self, committed: bool);

    /// The sums of a range; `None` when they can't be told apart any more: records of a later epoch are here already.
    fn sums(&self, range: Range) -> Option<Sums>;

    /// What must be staged so that the sums of a bucket become those of its records, by keyspace and epoch.
    fn correct(&self, partition: PartitionId, bucket: u16, records: &BTreeMap<(KeyspaceId, Epoch), u128>)
    -> Vec<Delta>;

    /// Partitions of which there are records, each with the copies of a keyspace that it has records of.
    fn held(&self) -> Vec<(PartitionId, u8)>;

    /// Those of `buckets` whose sums are not those of `records`.
    fn differing(&self, partition: PartitionId, buckets: Buckets, records: &Contributions) -> Vec<u16>;
}

/// Whoever holds a [`DigestTable`], under a lock mostly, and keeps sums as that does.
pub trait HoldsDigests: Send + Sync {
    /// Works with the table. The lock is never held across a disk access.
    fn with_digests<T>(&self, work: impl FnOnce(&mut DigestTable) -> T) -> T;
}

impl<H: HoldsDigests> Digests for H {
    fn copies(&self, keyspace: KeyspaceId) -> Option<u8> {
        self.with_digests(|table| table.copies(keyspace))
    }

    fn stage(&self, deltas: Vec<Delta>) -> Batch {
        self.with_digests(|table| table.stage(deltas))
    }

    fn settle(&self, committed: bool) {
        self.with_digests(|table| table.settle(committed));
    }

    fn sums(&self, range: Range) -> Option<Sums> {
        self.with_digests(|table| table.sums(range))
    }

    fn correct(
        &self,
        partition: PartitionId,
        bucket: u16,
        records: &BTreeMap<(KeyspaceId, Epoch), u128>,
    ) -> Vec<Delta> {
        self.with_digests(|table| table.correct(partition, bucket, records))
    }

    fn held(&self) -> Vec<(PartitionId, u8)> {
        self.with_digests(|table| table.held())
    }

    fn differing(&self, partition: PartitionId, buckets: Buckets, records: &Contributions) -> Vec<u16> {
        self.with_digests(|table| table.differing(partition, buckets, records))
    }
}

/// A run of buckets.
pub type Buckets = core::ops::RangeInclusive<u16>;

/// What records add up to, by keyspace, bucket and epoch.
pub type Contributions = BTreeMap<(KeyspaceId, u16, Epoch), u128>;

/// What one version adds to its bucket's sum. Part of the stored format, and the same on every owner.
///
/// It needs no value, only the version's row: see [`crate::outline`]. `key` is [`key_hash`] of the record.
#[must_use]
pub fn contribution(key: u64, row: &Row) -> u128 {
    let mut bytes = [0; 57];
    let parts = [row.dot.node.0, row.dot.incarnation.0, row.dot.counter, row.written.0, row.epoch.0, row.digest];
    for (at, part) in bytes.chunks_exact_mut(8).zip(parts.into_iter().chain([u64::from(row.size)])) {
        at.copy_from_slice(&part.to_le_bytes());
    }
    bytes[56] = u8::from(row.tombstone);
    let key = if row.past == 0 { key } else { xxh3_64_with_seed(&row.past.to_le_bytes(), key) };
    xxh3_128_with_seed(&bytes, key)
}

/// The key of [`contribution`]: a hash of the engine key.
#[must_use]
pub fn key_hash(engine_key: &[u8]) -> u64 {
    xxh3_64(engine_key)
}

/// Adds to `deltas` what changes when the rows `before` of a record become `after`. Both are ordered by dot.
pub fn difference(engine_key: &[u8], keyspace: KeyspaceId, before: &[Row], after: &[Row], deltas: &mut Vec<Delta>) {
    let Some(place) = Place::of_engine_key(engine_key) else { return };
    let (key, first) = (key_hash(engine_key), deltas.len());
    let mut add = |epoch: Epoch, sum: u128| match deltas[first..].iter_mut().find(|delta| delta.epoch == epoch) {
        Some(delta) => delta.sum = delta.sum.wrapping_add(sum),
        None => deltas.push(Delta { partition: place.partition, keyspace, bucket: place.bucket, epoch, sum }),
    };
    for row in before.iter().filter(|row| !after.contains(row)) {
        add(row.epoch, contribution(key, row).wrapping_neg());
    }
    for row in after.iter().filter(|row| !before.contains(row)) {
        add(row.epoch, contribution(key, row));
    }
}

/// The sum over all buckets: equal sums, equal roots.
#[must_use]
pub fn root(sums: &[u128]) -> u128 {
    // Bucket numbers need not enter: a key's contribution depends on the key, and so on its bucket.
    sums.iter().fold(0, |root, sum| root.wrapping_add(*sum))
}

/// No contribution in any bucket.
#[must_use]
pub fn nothing() -> Sums {
    alloc::vec![0; BUCKETS as usize]
}
