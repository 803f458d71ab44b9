//! RocksDB: one column family per table.
//!
//! Its own manners are good: it slows writers down before it stops them, its directories are synced, and its journal
//! recovery takes what a power cut left. So there is little here but options that keep it small and steady.

use crate::engine::{self, Engine};
use crate::files;
use crate::open::Birth;
use crate::options::Options;
use bytes::Bytes;
use mks_logic::port::{Batch, Change, Read, StoreError, Table, Visit};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRawIterator,
    DBRecoveryMode, ErrorKind, ReadOptions, WriteBatch, WriteOptions,
};
use std::path::{Path, PathBuf};

/// Journals together, bytes: what a start replays at most.
const JOURNALS_BYTES_MAX: u64 = 128 << 20;

/// Files kept open.
const FILES_MAX: i32 = 512;

/// Full memtables of one table before RocksDB stops its writers.
const MEMTABLES_MAX: i32 = 4;

/// Tables files and value files, bytes, when they settle.
const FILE_BYTES: u64 = 64 << 20;

/// Written back by the system in steps of this size, so that an fsync never finds much to do, bytes.
const WRITE_BACK_BYTES: u64 = 512 << 10;

/// RocksDB's own log for its developers: files and bytes of each.
const INFO_LOGS_MAX: usize = 2;
const INFO_LOG_BYTES_MAX: usize = 1 << 20;

/// See the module.
pub(crate) struct Rocks {
    database: DB,
    directory: PathBuf,
}

impl Rocks {
    /// Opens the database in `directory`, or makes it.
    pub(crate) fn open(options: &Options, directory: &Path, birth: Birth) -> Result<Self, StoreError> {
        let cache = Cache::new_lru_cache(usize::try_from(options.cache_bytes).unwrap_or(usize::MAX));
        let families =
            Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(options, table, &cache)));
        let database = DB::open_cf_descriptors(&database_options(options, birth), directory, families);
        let database = database.map_err(|e| match e.kind() {
            // How it names missing files and missing tables.
            ErrorKind::InvalidArgument | ErrorKind::NotFound => StoreError::Corrupt(e.into_string()),
            _ => read_error(&e),
        })?;
        Ok(Self { database, directory: directory.to_owned() })
    }

    fn family(&self, table: Table) -> &ColumnFamily {
        self.database.cf_handle(table.name()).expect("every table's column family was named at opening")
    }

    fn property(&self, table: Table, name: &str) -> u64 {
        self.database.property_int_value_cf(self.family(table), name).ok().flatten().unwrap_or(0)
    }

    fn read(&self, table: Table, key: &[u8], how: &ReadOptions) -> Result<Option<Bytes>, StoreError> {
        let value = self.database.get_pinned_cf_opt(self.family(table), key, how).map_err(|e| read_error(&e))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn walk(
        &self,
        table: Table,
        (start, end): (&[u8], &[u8]),
        mut how: ReadOptions,
        visit: Visit<'_>,
    ) -> Result<(), StoreError> {
        how.set_iterate_upper_bound(end);
        let mut entries: DBRawIterator<'_> = self.database.raw_iterator_cf_opt(self.family(table), how);
        entries.seek(start);
        while let Some((key, value)) = entries.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            entries.next();
        }
        // An iterator that met damage looks like one that is done.
        entries.status().map_err(|e| read_error(&e))
    }
}

fn database_options(options: &Options, birth: Birth) -> rocksdb::Options {
    // A journal that lost its end between two records looks whole, and the next one would be replayed on top of the
    // hole: so each one says where the one before it ended.
    let mut database = rocksdb::Options::default()
        .get_options_from_string("track_and_verify_wals=true")
        .expect("RocksDB has had this option since 9.11");
    database.create_if_missing(birth == Birth::New);
    database.create_missing_column_families(birth == Birth::New);
    database.set_max_background_jobs(i32::try_from(options.workers.max(2)).unwrap_or(i32::MAX));
    database.set_max_open_files(FILES_MAX);
    database.set_max_total_wal_size(JOURNALS_BYTES_MAX);
    // Up to the first record that makes no sense; the floor tells a crash from damage.
    database.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // A journal in the middle that is gone altogether would leave no such record.
    database.set_track_and_verify_wals_in_manifest(true);
    database.set_bytes_per_sync(WRITE_BACK_BYTES);
    database.set_wal_bytes_per_sync(WRITE_BACK_BYTES);
    database.set_keep_log_file_num(INFO_LOGS_MAX);
    database.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    database.set_stats_dump_period_sec(0);
    database.set_stats_persist_period_sec(0);
    database
}

fn table_options(options: &Options, table: Table, cache: &Cache) -> rocksdb::Options {
    let settled = if options.compression { DBCompressionType::Lz4 } else { DBCompressionType::None };
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_bloom_filter(10.0, false);
    // Within the cache and not beside it: otherwise memory grows with the number of files.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut family = rocksdb::Options::default();
    family.set_block_based_table_factory(&blocks);
    family.set_write_buffer_size(usize::try_from(options.memtable()).unwrap_or(usize::MAX));
    family.set_max_write_buffer_number(MEMTABLES_MAX);
    family.set_level_compaction_dynamic_level_bytes(true);
    family.set_target_file_size_base(FILE_BYTES);
    family.set_compression_type(settled);
    if table == Table::Records && options.value_separation_bytes > 0 {
        family.set_enable_blob_files(true);
        family.set_min_blob_size(u64::from(options.value_separation_bytes));
        family.set_blob_file_size(FILE_BYTES);
        family.set_blob_compression_type(settled);
        family.set_enable_blob_gc(true);
    }
    family
}

fn read_error(e: &rocksdb::Error) -> StoreError {
    let why = e.to_string();
    match e.kind() {
        ErrorKind::Corruption => StoreError::Corrupt(why),
        // A file that is gone, or shorter than it was.
        ErrorKind::IOError if why.contains("No such file") || why.contains("truncated") => StoreError::Corrupt(why),
        ErrorKind::IOError if why.contains("No space left") => StoreError::Full(why),
        _ => StoreError::Io(why),
    }
}

struct View<'a> {
    snapshot: rocksdb::Snapshot<'a>,
    rocks: &'a Rocks,
}

impl View<'_> {
    fn how(&self) -> ReadOptions {
        let mut how = ReadOptions::default();
        how.set_snapshot(&self.snapshot);
        how
    }
}

impl Read for View<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.rocks.read(table, key, &self.how())
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        let Some(span) = engine::clamp(start, end) else { return Ok(()) };
        self.rocks.walk(table, span, self.how(), visit)
    }
}

impl Read for Rocks {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.read(table, key, &ReadOptions::default())
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        let Some(span) = engine::clamp(start, end) else { return Ok(()) };
        self.walk(table, span, ReadOptions::default(), visit)
    }
}

impl Engine for Rocks {
    fn name(&self) -> &'static str {
        crate::Engine::RocksDb.name()
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let mut changes = WriteBatch::default();
        for change in &batch {
            match change {
                Change::Put { table, key, value } => changes.put_cf(self.family(*table), key, value),
                Change::Delete { table, key } => changes.delete_cf(self.family(*table), key),
                Change::DeleteRange { table, start, end } => {
                    if let Some((start, end)) = engine::clamp(start, Some(end)) {
                        changes.delete_range_cf(self.family(*table), start, end);
                    }
                }
            }
        }
        let mut how = WriteOptions::default();
        how.set_sync(false);
        let written = self.database.write_opt(changes, &how);
        written.map_err(|e| StoreError::Fatal(format!("rocksdb could not write: {e}")))
    }

    fn sync(&self) -> Result<(), StoreError> {
        let synced = self.database.flush_wal(true);
        synced.map_err(|e| StoreError::Fatal(format!("rocksdb could not sync its journal: {e}")))
    }

    fn view(&self) -> Box<dyn Read + Send + '_> {
        Box::new(View { snapshot: self.database.snapshot(), rocks: self })
    }

    fn pressure(&self) -> f64 {
        // It slows its writers down itself.
        0.0
    }

    fn records_estimate(&self) -> u64 {
        self.property(Table::Records, "rocksdb.estimate-num-keys")
    }

    fn disk_bytes(&self) -> u64 {
        ["sst", "blob", "log"].into_iter().map(|extension| files::bytes_of(&self.directory, extension)).sum()
    }
}
