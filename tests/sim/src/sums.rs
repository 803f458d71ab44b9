//! The sums over a process's records, as its threads share them.

use mks_logic::digest::{Buckets, Contributions, Delta, DigestTable, Digests, Range, Sums as Said};
use mks_logic::id::{Epoch, KeyspaceId, PartitionId};
use mks_logic::port::{Batch, Store, StoreError};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// [`DigestTable`] behind a lock.
#[derive(Debug, Default)]
pub struct Sums(Mutex<DigestTable>);

impl Sums {
    /// What lies in `store`, as at every start of a process.
    ///
    /// # Errors
    /// When the store can't read or write.
    pub fn open(store: &dyn Store, keyspaces: impl IntoIterator<Item = (KeyspaceId, u8)>) -> Result<Self, StoreError> {
        DigestTable::open(store, keyspaces).map(|table| Self(Mutex::new(table)))
    }

    /// Copies per keyspace, as the epoch log has them now.
    pub fn learn(&self, keyspaces: impl IntoIterator<Item = (KeyspaceId, u8)>) {
        self.table().learn(keyspaces);
    }

    fn table(&self) -> MutexGuard<'_, DigestTable> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Digests for Sums {
    fn copies(&self, keyspace: KeyspaceId) -> Option<u8> {
        self.table().copies(keyspace)
    }

    fn stage(&self, deltas: Vec<Delta>) -> Batch {
        self.table().stage(deltas)
    }

    fn settle(&self, committed: bool) {
        self.table().settle(committed);
    }

    fn sums(&self, range: Range) -> Option<Said> {
        self.table().sums(range)
    }

    fn correct(
        &self,
        partition: PartitionId,
        bucket: u16,
        records: &BTreeMap<(KeyspaceId, Epoch), u128>,
    ) -> Vec<Delta> {
        self.table().correct(partition, bucket, records)
    }

    fn held(&self) -> Vec<(PartitionId, u8)> {
        self.table().held()
    }

    fn differing(&self, partition: PartitionId, buckets: Buckets, records: &Contributions) -> Vec<u16> {
        self.table().differing(partition, buckets, records)
    }
}
