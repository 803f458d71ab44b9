//! The state machine: [`State`] after each entry, and snapshots of it.

use super::{Failure, LogId, Membership, RaftEntry, SnapshotMeta, TypeConfig, blocking, failure};
use crate::epoch_log::codec::{decode, encode};
use bytes::Bytes;
use mks_logic::cluster::{Applied, Refusal, State};
use mks_logic::port::{Change, Durability, Store, StoreError, Table};
use openraft::storage::RaftStateMachine;
use openraft::{BasicNode, EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder, Snapshot};
use serde::{Deserialize, Serialize};
use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

const IMAGE: &[u8] = b"m";
const SNAPSHOT: &[u8] = b"s";

/// The state machine in [`Table::Log`]. Cheap to clone; clones share the state.
#[derive(Clone)]
pub struct Machine {
    store: Arc<dyn Store>,
    image: Arc<Mutex<Image>>,
    published: Arc<watch::Sender<Arc<State>>>,
}

/// The state and how far the log is applied in it: written together, so they are never apart.
#[derive(Clone, Debug, Default)]
struct Image {
    applied: Option<LogId>,
    membership: Membership,
    state: Arc<State>,
}

/// A snapshot as it is stored: what it covers, and the encoded [`State`].
#[derive(Serialize, Deserialize)]
struct Stored {
    meta: SnapshotMeta,
    data: Vec<u8>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("applied", &self.image().applied).finish_non_exhaustive()
    }
}

impl Machine {
    /// Opens the state machine at what the disk holds.
    ///
    /// # Errors
    /// When the store can't read, or holds something else.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let stored: Option<(Option<LogId>, Membership, State)> = blocking(&store, |store| {
            let bytes = store.get(Table::Log, IMAGE)?;
            Ok(bytes.map(|bytes| decode("state", &bytes)).transpose()?)
        })
        .await?;
        let (applied, membership, state) = stored.unwrap_or_default();
        let image = Image { applied, membership, state: Arc::new(state) };
        let published = watch::Sender::new(Arc::clone(&image.state));
        Ok(Self { store, image: Arc::new(Mutex::new(image)), published: Arc::new(published) })
    }

    /// The latest state, now and whenever it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.published.subscribe()
    }

    fn image(&self) -> Image {
        self.image.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores an image, and only then shows it to anybody.
    async fn store(&self, image: Image, snapshot: Option<Change>, durability: Durability) -> Result<(), StoreError> {
        let value = encode("state", &(&image.applied, &image.membership, image.state.as_ref()))?.into();
        let mut batch = vec![Change::Put { table: Table::Log, key: Bytes::from_static(IMAGE), value }];
        batch.extend(snapshot);
        blocking(&self.store, move |store| store.apply(batch, durability)).await?;
        let state = Arc::clone(&image.state);
        *self.image.lock().unwrap_or_else(PoisonError::into_inner) = image;
        self.published.send_if_modified(|shown| {
            let changed = *shown != state;
            *shown = state;
            changed
        });
        Ok(())
    }

    async fn current(&self) -> Result<Option<Stored>, StoreError> {
        blocking(&self.store, |store| {
            let bytes = store.get(Table::Log, SNAPSHOT)?;
            Ok(bytes.map(|bytes| decode("snapshot", &bytes)).transpose()?)
        })
        .await
    }

    /// Builds a snapshot of the present state and stores it.
    async fn take(&self) -> Result<Stored, StoreError> {
        let Image { applied, membership, state } = self.image();
        let snapshot_id = applied.map_or_else(|| "empty".to_owned(), |id| format!("{}-{}", id.leader_id, id.index));
        let meta = SnapshotMeta { last_log_id: applied, last_membership: membership, snapshot_id };
        let stored = Stored { meta, data: encode("state", state.as_ref())? };
        let change = snapshot_change(&stored)?;
        blocking(&self.store, move |store| store.apply(vec![change], Durability::Sync)).await?;
        Ok(stored)
    }

    async fn install(&self, stored: Stored) -> Result<(), StoreError> {
        let state: State = decode("state", &stored.data)?;
        let change = snapshot_change(&stored)?;
        let image =
            Image { applied: stored.meta.last_log_id, membership: stored.meta.last_membership, state: Arc::new(state) };
        self.store(image, Some(change), Durability::Sync).await
    }
}

fn snapshot_change(stored: &Stored) -> Result<Change, StoreError> {
    let value = encode("snapshot", stored)?.into();
    Ok(Change::Put { table: Table::Log, key: Bytes::from_static(SNAPSHOT), value })
}

impl From<Stored> for Snapshot<TypeConfig> {
    fn from(stored: Stored) -> Self {
        Self { meta: stored.meta, snapshot: Box::new(Cursor::new(stored.data)) }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), Failure> {
        let image = self.image();
        Ok((image.applied, image.membership))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Result<Applied, Refusal>>, Failure>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut image = self.image();
        let mut answers = Vec::new();
        for entry in entries {
            image.applied = Some(entry.log_id);
            answers.push(match entry.payload {
                EntryPayload::Blank => Ok(Applied::Done),
                EntryPayload::Normal(entry) => Arc::make_mut(&mut image.state).apply(&entry),
                EntryPayload::Membership(membership) => {
                    image.membership = Membership::new(Some(entry.log_id), membership);
                    Ok(Applied::Done)
                }
            });
        }
        let stored = self.store(image, None, Durability::Os).await;
        stored.map_err(failure(ErrorSubject::StateMachine, ErrorVerb::Write))?;
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, Failure> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &openraft::SnapshotMeta<u64, BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), Failure> {
        let stored = Stored { meta: meta.clone(), data: snapshot.into_inner() };
        self.install(stored).await.map_err(failure(ErrorSubject::Snapshot(Some(meta.signature())), ErrorVerb::Write))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, Failure> {
        let stored = self.current().await.map_err(failure(ErrorSubject::Snapshot(None), ErrorVerb::Read))?;
        Ok(stored.map(Into::into))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, Failure> {
        let stored = self.take().await.map_err(failure(ErrorSubject::Snapshot(None), ErrorVerb::Write))?;
        Ok(stored.into())
    }
}
