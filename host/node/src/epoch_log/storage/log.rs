//! Raft's log and vote.

use super::{Failure, LogId, RaftEntry, TypeConfig, Vote, blocking, failure};
use crate::epoch_log::codec::{decode, encode};
use bytes::Bytes;
use mks_logic::port::{Change, Durability, Store, StoreError, Table};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader};
use std::fmt::Debug;
use std::ops::{Bound, ControlFlow, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

const VOTE: &[u8] = b"v";
const COMMITTED: &[u8] = b"c";
const PURGED: &[u8] = b"p";
/// Entries are `e` and the index, big endian, so that they lie in order.
const ENTRY: u8 = b'e';

/// One answer to a follower carries at most this many entries, so that it stays a small message.
const ENTRIES_PER_READ_MAX: u64 = 64;

/// Raft's log and vote in [`Table::Log`]. Cheap to clone; clones share the store.
#[derive(Clone)]
pub struct LogStore {
    store: Arc<dyn Store>,
    ends: Arc<Mutex<Ends>>,
}

/// What the store can't tell without a scan: the last entry.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    purged: Option<LogId>,
    last: Option<LogId>,
}

impl Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore").field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl LogStore {
    /// Opens the log and finds its end.
    ///
    /// # Errors
    /// When the store can't read, or holds something else.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let ends = blocking(&store, |store| {
            let purged = read(store, PURGED, "log id")?;
            let mut last = purged;
            scan(store, 0, u64::MAX, |entry| last = Some(entry.log_id))?;
            Ok(Ends { purged, last })
        })
        .await?;
        Ok(Self { store, ends: Arc::new(Mutex::new(ends)) })
    }

    fn ends(&self) -> Ends {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_ends(&self, change: impl FnOnce(&mut Ends)) {
        change(&mut self.ends.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn apply(&self, batch: Vec<Change>, durability: Durability) -> Result<(), StoreError> {
        blocking(&self.store, move |store| store.apply(batch, durability)).await
    }

    async fn read<T: serde::de::DeserializeOwned + Send + 'static>(
        &self,
        key: &'static [u8],
        what: &'static str,
    ) -> Result<Option<T>, StoreError> {
        blocking(&self.store, move |store| read(store, key, what)).await
    }

    async fn entries(&self, from: u64, to: u64) -> Result<Vec<RaftEntry>, StoreError> {
        blocking(&self.store, move |store| {
            let mut entries = Vec::new();
            scan(store, from, to, |entry| entries.push(entry))?;
            Ok(entries)
        })
        .await
    }
}

fn entry_key(index: u64) -> Bytes {
    let mut key = Vec::with_capacity(9);
    key.push(ENTRY);
    key.extend_from_slice(&index.to_be_bytes());
    key.into()
}

/// One past the last possible entry.
const fn entries_end() -> Bytes {
    Bytes::from_static(&[ENTRY + 1])
}

fn put<T: serde::Serialize>(key: Bytes, what: &'static str, value: &T) -> Result<Change, StoreError> {
    Ok(Change::Put { table: Table::Log, key, value: encode(what, value)?.into() })
}

fn read<T: serde::de::DeserializeOwned>(
    store: &dyn Store,
    key: &[u8],
    what: &'static str,
) -> Result<Option<T>, StoreError> {
    Ok(store.get(Table::Log, key)?.map(|bytes| decode(what, &bytes)).transpose()?)
}

/// Visits the entries from `from` up to `to`, without it.
fn scan(store: &dyn Store, from: u64, to: u64, mut visit: impl FnMut(RaftEntry)) -> Result<(), StoreError> {
    let mut broken = None;
    store.scan(
        Table::Log,
        &entry_key(from),
        Some(&entry_key(to)),
        &mut |_, value| match decode("log entry", value) {
            Ok(entry) => {
                visit(entry);
                ControlFlow::Continue(())
            }
            Err(error) => {
                broken = Some(error);
                ControlFlow::Break(())
            }
        },
    )?;
    broken.map_or(Ok(()), |error| Err(error.into()))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, Failure> {
        let from = match range.start_bound() {
            Bound::Included(&from) => from,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&to) => to,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(from, to).await.map_err(failure(ErrorSubject::Logs, ErrorVerb::Read))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, Failure> {
        self.try_get_log_entries(start..end.min(start.saturating_add(ENTRIES_PER_READ_MAX))).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, Failure> {
        let Ends { purged, last } = self.ends();
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), Failure> {
        let fail = failure(ErrorSubject::Vote, ErrorVerb::Write);
        let change = match put(Bytes::from_static(VOTE), "vote", vote) {
            Ok(change) => change,
            Err(error) => return Err(fail(error)),
        };
        self.apply(vec![change], Durability::Sync).await.map_err(fail)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, Failure> {
        self.read(VOTE, "vote").await.map_err(failure(ErrorSubject::Vote, ErrorVerb::Read))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), Failure> {
        let fail = failure(ErrorSubject::Store, ErrorVerb::Write);
        let change = match put(Bytes::from_static(COMMITTED), "log id", &committed) {
            Ok(change) => change,
            Err(error) => return Err(fail(error)),
        };
        // An older value is legal after a crash: Raft learns the newer one again from the leader.
        self.apply(vec![change], Durability::Os).await.map_err(fail)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, Failure> {
        let committed: Result<Option<Option<LogId>>, _> = self.read(COMMITTED, "log id").await;
        committed.map(Option::flatten).map_err(failure(ErrorSubject::Store, ErrorVerb::Read))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), Failure>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let fail = failure(ErrorSubject::Logs, ErrorVerb::Write);
        let mut last = None;
        let mut batch = Vec::new();
        for entry in entries {
            last = Some(entry.log_id);
            match put(entry_key(entry.log_id.index), "log entry", &entry) {
                Ok(change) => batch.push(change),
                Err(error) => return Err(fail(error)),
            }
        }
        if let Err(error) = self.apply(batch, Durability::Sync).await {
            callback.log_io_completed(Err(std::io::Error::other(error.clone())));
            return Err(fail(error));
        }
        self.set_ends(|ends| ends.last = last.or(ends.last));
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), Failure> {
        let fail = failure(ErrorSubject::Log(log_id), ErrorVerb::Delete);
        let rest = Change::DeleteRange { table: Table::Log, start: entry_key(log_id.index), end: entries_end() };
        let before = log_id.index.saturating_sub(1);
        let result = match self.apply(vec![rest], Durability::Sync).await {
            Ok(()) => self.entries(before, log_id.index).await,
            Err(error) => Err(error),
        };
        let last = result.map_err(fail)?.last().map(|entry| entry.log_id);
        self.set_ends(|ends| ends.last = last.or(ends.purged));
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), Failure> {
        let fail = failure(ErrorSubject::Log(log_id), ErrorVerb::Delete);
        let end = entry_key(log_id.index.saturating_add(1));
        let gone = Change::DeleteRange { table: Table::Log, start: entry_key(0), end };
        let result = match put(Bytes::from_static(PURGED), "log id", &log_id) {
            Ok(purged) => self.apply(vec![purged, gone], Durability::Sync).await,
            Err(error) => Err(error),
        };
        result.map_err(fail)?;
        self.set_ends(|ends| {
            ends.purged = Some(log_id);
            ends.last = ends.last.max(Some(log_id));
        });
        Ok(())
    }
}
