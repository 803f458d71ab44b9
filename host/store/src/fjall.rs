//! fjall: an LSM tree in Rust. One keyspace per table, and the values of records apart from the tree when they are
//! large, as in WiscKey and Badger.
//!
//! What its sources say, and what follows:
//! - A batch is visible key by key to readers without a snapshot: every read here takes one.
//! - A write, sync or worker that fails poisons the database: reported as the end of the store.
//! - It panics on some damaged files: a panic while opening or reading is damage.
//! - A writer sleeps in steps of 100 ms while a keyspace has 4 full memtables, and spins from 20 sorted runs in level 0
//!   on: [`Fjall::pressure`] reaches 1 before either.
//! - Its writers wait while it syncs the journal before each flush: see [`trail`].
//! - A journal is only dropped when all keyspaces flushed what it holds: a cap on their size makes the idle ones flush.
//! - Directories of new keyspaces are not fsynced: done here.
//! - The directory of the value log's files is not fsynced either, and nothing here could do it in time. So a power cut
//!   is survived where the fsync of a new file keeps its name as well, as on ext4, XFS, Btrfs and F2FS; POSIX does not
//!   ask for that.

mod journal;
mod trail;

use crate::effects::{Effects, settle};
use crate::engine::{self, Engine};
use crate::files;
use crate::open::Birth;
use crate::options::Options;
use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::config::CompressionPolicy;
use fjall::{
    AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, LsmError,
    PersistMode, Readable, Slice, Snapshot,
};
use mks_logic::port::{Batch, Read, StoreError, Table, Visit};
use std::io::ErrorKind;
use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use trail::Trail;

/// All sealed journals together, bytes: what a start replays at most, beside the active one of 64 MiB.
const JOURNALS_BYTES_MAX: u64 = 128 << 20;

/// fjall's first worker never compacts: while compactions wait and the others are busy, it hands them back to the queue
/// in a loop that takes a whole core. Each flush asks for as many compactions as there are workers, so with two of them
/// that is all through every long compaction, with four hardly ever.
const WORKERS_MIN: usize = 4;

/// Files kept open. A file beyond that is opened again when it is read.
const FILES_MAX: usize = 512;

/// Size of a table's and of a value log's files, bytes, when they settle.
const VALUE_FILE_BYTES: u64 = 64 << 20;

/// Full memtables that wait to be flushed, in units of one: below it nobody waits, at `HARD` everybody does. fjall's
/// own stop is at 4 of one keyspace.
const MEMTABLES_SOFT: f64 = 1.0;
const MEMTABLES_HARD: f64 = 3.5;

/// The same for sorted runs in level 0, whose compaction starts at 4. fjall's own brake is at 20, its stop at 30.
const RUNS_SOFT: f64 = 10.0;
const RUNS_HARD: f64 = 19.0;

/// See the module.
pub(crate) struct Fjall {
    trail: Trail,
    tables: Tables,
    database: Database,
    directory: PathBuf,
    memtable_bytes: u64,
}

#[derive(Clone)]
struct Tables {
    records: Keyspace,
    log: Keyspace,
    meta: Keyspace,
    hints: Keyspace,
    digests: Keyspace,
}

impl Tables {
    fn of(&self, table: Table) -> &Keyspace {
        match table {
            Table::Records => &self.records,
            Table::Log => &self.log,
            Table::Meta => &self.meta,
            Table::Hints => &self.hints,
            Table::Digests => &self.digests,
        }
    }
}

impl Fjall {
    /// Opens the database in `directory`, or makes it.
    pub(crate) fn open(options: &Options, directory: &Path, birth: Birth) -> Result<Self, StoreError> {
        if birth == Birth::Old {
            journal::check(directory)?;
        }
        calm(|| Self::open_checked(options, directory, birth))
    }

    fn open_checked(options: &Options, directory: &Path, birth: Birth) -> Result<Self, StoreError> {
        if birth == Birth::Old && !directory.join("version").try_exists().map_err(|e| io_error(&e))? {
            return Err(StoreError::Corrupt("fjall's version file is missing".into()));
        }
        let database = Database::builder(directory)
            .cache_size(options.cache_bytes)
            .worker_threads((options.workers as usize).max(WORKERS_MIN))
            .max_journaling_size(JOURNALS_BYTES_MAX)
            .journal_compression(CompressionType::None)
            .max_cached_files(Some(FILES_MAX))
            .open()
            .map_err(|e| read_error(&e))?;
        let keyspace = |table: Table| {
            if birth == Birth::Old && !database.keyspace_exists(table.name()) {
                return Err(StoreError::Corrupt(format!("table {} is missing", table.name())));
            }
            database.keyspace(table.name(), || create_options(options, table)).map_err(|e| read_error(&e))
        };
        let tables = Tables {
            records: keyspace(Table::Records)?,
            log: keyspace(Table::Log)?,
            meta: keyspace(Table::Meta)?,
            hints: keyspace(Table::Hints)?,
            digests: keyspace(Table::Digests)?,
        };
        if birth == Birth::New {
            files::sync_tree(directory).map_err(|e| io_error(&e))?;
        }
        let trail = Trail::start(directory).map_err(|e| io_error(&e))?;
        Ok(Self { trail, tables, database, directory: directory.to_owned(), memtable_bytes: options.memtable() })
    }

    fn freeze(&self) -> View<'_> {
        View { snapshot: self.database.snapshot(), tables: &self.tables }
    }

    fn list_keys(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let snapshot = self.database.snapshot();
        calm(|| {
            for entry in snapshot.range::<&[u8], _>(self.tables.of(table), span(start, end)) {
                // Keys alone: a value that lies apart is not read.
                if visit(&entry.key().map_err(|e| read_error(&e))?).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn commit(&self, effects: Effects) -> Result<(), StoreError> {
        let mut batch = self.database.batch();
        let mut bytes = 0;
        for ((table, key), value) in effects {
            bytes += (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64;
            let keyspace = self.tables.of(table);
            // Copies: a memtable that kept a slice of a network frame would keep the whole frame.
            let key = Slice::new(&key);
            match value {
                Some(value) => batch.insert(keyspace, key, Slice::new(&value)),
                None => batch.remove(keyspace, key),
            }
        }
        match catch_unwind(AssertUnwindSafe(|| batch.commit())) {
            Ok(Ok(())) => self.trail.wrote(bytes),
            Ok(Err(e)) => Err(StoreError::Fatal(format!("fjall could not commit: {e:?}"))),
            Err(_) => Err(StoreError::Fatal("fjall panicked in a commit".into())),
        }
    }

    /// Bytes in memtables beyond the one that each table is filling.
    fn backlog(&self) -> u64 {
        let filling: u64 = Table::ALL
            .into_iter()
            .map(|table| self.tables.of(table).tree.active_memtable().size().min(self.memtable_bytes))
            .sum();
        self.database.write_buffer_size().saturating_sub(filling)
    }
}

fn create_options(options: &Options, table: Table) -> KeyspaceCreateOptions {
    let settled = if options.compression { CompressionType::Lz4 } else { CompressionType::None };
    // Levels 0 and 1 are written again soon: compressing them is wasted.
    let policy = CompressionPolicy::new([CompressionType::None, CompressionType::None, settled]);
    // Level 1 holds 4 of these: as large as what level 0 brings, so that a merge writes each byte about twice.
    let table_bytes = options.memtable().saturating_mul(2).min(VALUE_FILE_BYTES);
    let apart = (table == Table::Records && options.value_separation_bytes > 0).then(|| {
        KvSeparationOptions::default()
            .separation_threshold(options.value_separation_bytes)
            .file_target_size(VALUE_FILE_BYTES)
            .compression(settled)
    });
    KeyspaceCreateOptions::default()
        .max_memtable_size(options.memtable())
        .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(table_bytes)))
        .data_block_compression_policy(policy)
        .with_kv_separation(apart)
}

/// Runs what only reads; a panic in it means bytes that fjall takes for impossible.
fn calm<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().map(String::as_str);
        let why = why.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        Err(StoreError::Corrupt(format!("fjall panicked on its files: {why}")))
    })
}

fn span<'a>(start: &'a [u8], end: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (Bound::Included(start), Bound::Excluded(end))
}

fn io_error(e: &std::io::Error) -> StoreError {
    match e.kind() {
        // `InvalidInput`: a damaged position is where no file has a byte.
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::NotFound => {
            StoreError::Corrupt(e.to_string())
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full(e.to_string()),
        _ => StoreError::Io(e.to_string()),
    }
}

fn read_error(e: &fjall::Error) -> StoreError {
    match e {
        fjall::Error::Io(e) | fjall::Error::Storage(LsmError::Io(e)) => io_error(e),
        fjall::Error::Poisoned => StoreError::Fatal("fjall stopped after a failed write or sync".into()),
        fjall::Error::Locked => StoreError::Io("another process has fjall's own lock".into()),
        damaged => StoreError::Corrupt(format!("{damaged:?}")),
    }
}

struct View<'a> {
    snapshot: Snapshot,
    tables: &'a Tables,
}

impl Read for View<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        calm(|| {
            let value = self.snapshot.get(self.tables.of(table), key).map_err(|e| read_error(&e))?;
            Ok(value.map(Bytes::from))
        })
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        let Some((start, end)) = engine::clamp(start, end) else { return Ok(()) };
        let mut entries = calm(|| Ok(self.snapshot.range::<&[u8], _>(self.tables.of(table), span(start, end))))?;
        loop {
            let next = calm(|| entries.next().map(|entry| entry.into_inner().map_err(|e| read_error(&e))).transpose())?;
            match next {
                Some((key, value)) if visit(&key, &value).is_continue() => {}
                _ => return Ok(()),
            }
        }
    }
}

impl Read for Fjall {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.freeze().get(table, key)
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        self.freeze().scan(table, start, end, visit)
    }
}

impl Engine for Fjall {
    fn name(&self) -> &'static str {
        crate::Engine::Fjall.name()
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let effects = settle(batch, &|table, start, end, visit| self.list_keys(table, start, end, visit))?;
        self.commit(effects)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.database
            .persist(PersistMode::SyncData)
            .map_err(|e| StoreError::Fatal(format!("fjall could not sync its journal: {e:?}")))?;
        self.trail.synced();
        Ok(())
    }

    fn view(&self) -> Box<dyn Read + Send + '_> {
        Box::new(self.freeze())
    }

    fn pressure(&self) -> f64 {
        let memtables = self.backlog() as f64 / self.memtable_bytes as f64;
        let runs = self.tables.records.tree.l0_run_count() as f64;
        let memtables = (memtables - MEMTABLES_SOFT) / (MEMTABLES_HARD - MEMTABLES_SOFT);
        let runs = (runs - RUNS_SOFT) / (RUNS_HARD - RUNS_SOFT);
        memtables.max(runs).max(0.0)
    }

    fn records_estimate(&self) -> u64 {
        self.tables.records.approximate_len() as u64
    }

    fn disk_bytes(&self) -> u64 {
        let trees: u64 = Table::ALL.into_iter().map(|table| self.tables.of(table).disk_space()).sum();
        trees + files::bytes_of(&self.directory, "jnl")
    }
}
