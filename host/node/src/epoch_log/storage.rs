//! Raft's log, vote, state machine and snapshots on the node's own store.
//!
//! All of it lies in [`Table::Log`], under one-byte prefixes. Entries and votes are on the disk before Raft hears that
//! they are saved. The state after each applied entry is written too, without an fsync of its own: a crash may take
//! it back a few entries, never apart, and Raft applies those again.

mod log;
mod machine;

pub use log::LogStore;
pub use machine::Machine;

use mks_logic::cluster::{Applied, Entry, Refusal};
use mks_logic::port::{Store, StoreError};
use openraft::{AnyError, ErrorSubject, ErrorVerb, StorageError, StorageIOError};
use std::io::Cursor;
use std::sync::Arc;

openraft::declare_raft_types!(
    /// The types of the epoch log: what an entry is, and what applying one answers.
    pub TypeConfig:
        D = Entry,
        R = Result<Applied, Refusal>,
        SnapshotData = Cursor<Vec<u8>>,
);

/// openraft's own entry: one of ours, a change of its membership, or nothing.
pub(super) type RaftEntry = openraft::Entry<TypeConfig>;
pub(super) type LogId = openraft::LogId<u64>;
pub(super) type Vote = openraft::Vote<u64>;
pub(super) type Membership = openraft::StoredMembership<u64, openraft::BasicNode>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<u64, openraft::BasicNode>;
type Failure = StorageError<u64>;

/// Runs a store operation where blocking is allowed: an fsync must not hold up the runtime's few threads.
async fn blocking<T: Send + 'static>(
    store: &Arc<dyn Store>,
    operation: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let store = Arc::clone(store);
    tokio::task::spawn_blocking(move || operation(store.as_ref()))
        .await
        .unwrap_or_else(|error| Err(StoreError::Fatal(format!("a store operation did not finish: {error}"))))
}

/// What openraft calls a failure of `subject`.
fn failure(subject: ErrorSubject<u64>, verb: ErrorVerb) -> impl FnOnce(StoreError) -> Failure {
    move |error| StorageIOError::new(subject, verb, AnyError::new(&error)).into()
}
