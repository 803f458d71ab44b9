//! What a store is opened with.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A native storage engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Engine {
    /// LSM tree in Rust, large values apart from it. The default.
    Fjall,
    /// RocksDB, built from source when the `rocksdb` feature asks for it.
    RocksDb,
    /// A sorted map that dies with the process: for tests and benchmarks.
    Memory,
}

/// The engines that this binary has.
pub const BUILT: &[Engine] = &[
    Engine::Fjall,
    #[cfg(feature = "rocksdb")]
    Engine::RocksDb,
    Engine::Memory,
];

impl Engine {
    /// Its name in configs, on disk and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fjall => "fjall",
            Self::RocksDb => "rocksdb",
            Self::Memory => "memory",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Fjall, Self::RocksDb, Self::Memory]
            .into_iter()
            .find(|engine| engine.name() == name)
            .ok_or_else(|| format!("there is no storage engine `{name}`: use fjall, rocksdb or memory"))
    }
}

/// How to open a store. All sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The store's own directory, made when it is missing. Ignored by [`Engine::Memory`].
    pub directory: PathBuf,
    /// Which engine. A directory that another one made is copied to this one when it is opened.
    pub engine: Engine,
    /// Cache of blocks that were read, for all tables together.
    pub cache_bytes: u64,
    /// One write buffer of one table. At most seven of them are full at any time; smaller ones are flushed in
    /// shorter bursts, larger ones compact less. fjall keeps the size with which the directory was made.
    pub memtable_bytes: u64,
    /// Values of [`mks_logic::port::Table::Records`] from this size on are stored apart from the tree; 0: never.
    ///
    /// 4 KiB is the size of a tree's block: a larger value costs a read of its own wherever it lies, and inside the
    /// tree every compaction would write it again. A smaller one would pay a second read for nothing. fjall keeps the
    /// value with which the directory was made.
    pub value_separation_bytes: u32,
    /// Threads that flush and compact, at least 2 so that a compaction never holds up a flush.
    pub workers: u32,
    /// Compress (LZ4) what has settled in the lower levels of the tree and the values stored apart. fjall keeps the
    /// value with which the directory was made.
    pub compression: bool,
    /// Free space that must remain on the disk. Below it writes answer `Full`, and below half of it deletes do as well:
    /// flushing and compaction need room of their own, and no engine survives running dry in the middle of them.
    pub reserve_bytes: u64,
    /// A second engine that takes the same batches and is compared. None: what one has left is removed. Ignored by
    /// [`Engine::Memory`].
    pub shadow: Option<Box<ShadowOptions>>,
}

/// How to open a second engine that takes the same batches and is compared: see [`Options::shadow`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowOptions {
    /// Its settings. It lies in the store's directory, and keeps twice the store's reserve free: `directory`,
    /// `reserve_bytes` and `shadow` of these are ignored. [`Engine::Memory`] fails, it would keep nothing.
    pub engine: Options,
    /// Bytes of batches that may wait for it; one that comes to an empty queue always may. Beyond it the shadow ends.
    pub queue_bytes_max: u64,
    /// What it is filled with per second, at most, when it does not hold what the store holds; bytes.
    pub fill_bytes_per_second: u64,
    /// Pause between two comparisons. Each goes on where the one before it ended, round all tables.
    pub compare_every: Duration,
}

impl Default for ShadowOptions {
    fn default() -> Self {
        Self {
            engine: Options::default(),
            queue_bytes_max: 64 << 20,
            fill_bytes_per_second: 32 << 20,
            compare_every: Duration::from_secs(1),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("data/store"),
            engine: Engine::Fjall,
            cache_bytes: 128 << 20,
            memtable_bytes: 16 << 20,
            value_separation_bytes: 4 << 10,
            workers: 2,
            compression: true,
            reserve_bytes: 256 << 20,
            shadow: None,
        }
    }
}

impl Options {
    /// Smallest write buffer that makes sense, bytes: what is smaller flushes all the time.
    pub(crate) const MEMTABLE_BYTES_MIN: u64 = 64 << 10;

    /// `memtable_bytes` within reason.
    pub(crate) fn memtable(&self) -> u64 {
        self.memtable_bytes.max(Self::MEMTABLE_BYTES_MIN)
    }
}
