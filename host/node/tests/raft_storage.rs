//! openraft's own suite for storage, over every engine.

use mks::epoch_log::storage::{LogStore, Machine, TypeConfig};
use mks_logic::port::{Store, StoreError};
use mks_store::{BUILT, Engine, Options};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{AnyError, StorageError, StorageIOError};
use std::sync::Arc;
use tempfile::TempDir;

struct Builder(Engine);

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<u64>> {
        let directory = tempfile::tempdir().map_err(|error| io(&error))?;
        let store = open(self.0, &directory);
        let log = LogStore::open(Arc::clone(&store)).await.map_err(|error| io(&error))?;
        let machine = Machine::open(store).await.map_err(|error: StoreError| io(&error))?;
        Ok((directory, log, machine))
    }
}

fn io(error: &(impl std::error::Error + 'static)) -> StorageError<u64> {
    StorageIOError::write(AnyError::new(error)).into()
}

fn open(engine: Engine, directory: &TempDir) -> Arc<dyn Store> {
    let options = Options { engine, directory: directory.path().join("store"), ..Options::default() };
    mks_store::open(&options).expect("a fresh store opens")
}

#[test]
fn raft_keeps_its_promises_on_every_engine() {
    for &engine in BUILT {
        std::println!("{engine}");
        Suite::test_all(Builder(engine)).unwrap_or_else(|error| panic!("{engine}: {error}"));
    }
}

mod reopened {
    use super::*;
    use mks_logic::cluster::Entry;
    use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
    use openraft::{CommittedLeaderId, EntryPayload, LogId, RaftLogReader, RaftSnapshotBuilder, Vote};

    fn id(index: u64) -> LogId<u64> {
        LogId::new(CommittedLeaderId::new(1, 1), index)
    }

    fn entry(index: u64) -> openraft::Entry<TypeConfig> {
        let found = Entry::Found {
            cluster: 5,
            partition_bits: 4,
            expect: 1,
            resolver: "lww".to_owned(),
            resolver_hash: mks_logic::port::ResolverHash([1; 32]),
        };
        let payload = if index == 1 { EntryPayload::Normal(found) } else { EntryPayload::Blank };
        openraft::Entry { log_id: id(index), payload }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_raft_stored_is_there_after_a_restart() {
        for &engine in BUILT.iter().filter(|engine| **engine != Engine::Memory) {
            let directory = tempfile::tempdir().unwrap();
            {
                let store = open(engine, &directory);
                let mut log = LogStore::open(Arc::clone(&store)).await.unwrap();
                let mut machine = Machine::open(store).await.unwrap();
                log.save_vote(&Vote::new(3, 2)).await.unwrap();
                log.blocking_append((1..=20).map(entry)).await.unwrap();
                log.save_committed(Some(id(9))).await.unwrap();
                machine.apply((1..=9).map(entry)).await.unwrap();
                machine.build_snapshot().await.unwrap();
                log.purge(id(5)).await.unwrap();
                log.truncate(id(18)).await.unwrap();
            }
            let store = open(engine, &directory);
            let mut log = LogStore::open(Arc::clone(&store)).await.unwrap();
            let mut machine = Machine::open(store).await.unwrap();
            let ends = log.get_log_state().await.unwrap();
            assert_eq!((ends.last_purged_log_id, ends.last_log_id), (Some(id(5)), Some(id(17))), "{engine}");
            assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 2)));
            assert_eq!(log.read_committed().await.unwrap(), Some(id(9)));
            let kept: Vec<u64> = log.try_get_log_entries(..).await.unwrap().iter().map(|e| e.log_id.index).collect();
            assert_eq!(kept, (6..=17).collect::<Vec<_>>());
            assert_eq!(machine.applied_state().await.unwrap().0, Some(id(9)));
            assert_eq!(machine.watch().borrow().cluster, 5);
            let snapshot = machine.get_current_snapshot().await.unwrap().unwrap();
            assert_eq!(snapshot.meta.last_log_id, Some(id(9)));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_log_of_another_format_is_refused() {
        use mks_logic::port::{Change, Durability, Table};
        let directory = tempfile::tempdir().unwrap();
        let store = open(Engine::Memory, &directory);
        let change = Change::Put { table: Table::Log, key: "m".into(), value: vec![9, 0, 0].into() };
        store.apply(vec![change], Durability::Os).unwrap();
        let refused = Machine::open(store).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Corrupt(why) if why.contains("format 9")), "{refused}");
    }
}
