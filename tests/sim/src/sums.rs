//! The sums over a process's records, as its threads share them.

use mks_logic::digest::{DigestTable, HoldsDigests};
use mks_logic::id::KeyspaceId;
use mks_logic::port::{Store, StoreError};
use std::sync::{Mutex, PoisonError};

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
        self.with_digests(|table| table.learn(keyspaces));
    }
}

impl HoldsDigests for Sums {
    fn with_digests<T>(&self, work: impl FnOnce(&mut DigestTable) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
