//! What `logic` needs from the world: a store, resolvers and data types. All are supplied by the room above.

use crate::id::{Dot, Incarnation, NodeId};
use crate::time::Hlc;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::ControlFlow;
use serde::{Deserialize, Serialize};

/// The separate key orders that one store keeps. A batch may touch several and is still all or nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Table {
    /// Records by [`crate::id::Key::engine_key`]. May hold large values.
    Records,
    /// The epoch log: Raft entries and votes.
    Log,
    /// Small facts about this data directory.
    Meta,
    /// Writes kept for other owners, by [`crate::event::HintId`].
    Hints,
    /// Sums over the records, by which owners compare what they hold: the module `digest`.
    Digests,
}

impl Table {
    /// All tables, in the order of their tags.
    pub const ALL: [Self; 5] = [Self::Records, Self::Log, Self::Meta, Self::Hints, Self::Digests];

    /// A stable name, part of the stored format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Log => "log",
            Self::Meta => "meta",
            Self::Hints => "hints",
            Self::Digests => "digests",
        }
    }
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Handed to the operating system: survives the death of the process, not of the machine.
    Os,
    /// On the disk after one fsync per group of waiting writes: survives a power cut.
    #[default]
    Sync,
}

/// One change of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Set `key` to `value`.
    Put { table: Table, key: Bytes, value: Bytes },
    /// Remove `key`; absent is fine.
    Delete { table: Table, key: Bytes },
    /// Remove every key in `start..end`.
    DeleteRange { table: Table, start: Bytes, end: Bytes },
}

/// Changes that happen together or not at all, in order.
pub type Batch = Vec<Change>;

/// Called with each key and value of a scan, in key order; `Break` ends the scan.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// The reading half of a store, also of a frozen view of it.
pub trait Read {
    /// The value of `key`, if any.
    ///
    /// # Errors
    /// When the engine cannot read: see [`StoreError`].
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Visits `start..end` in key order (`None`: to the end of the table).
    ///
    /// # Errors
    /// When the engine cannot read: see [`StoreError`]. Keys before the failure were visited.
    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError>;
}

/// An ordered, durable, transactional map per [`Table`]: what every engine offers.
pub trait Store: Read + Send + Sync {
    /// Applies `batch`: all or nothing, also across a crash.
    ///
    /// With [`Durability::Sync`] it returns after an fsync, which covers every earlier batch as well.
    ///
    /// # Errors
    /// Nothing of the batch is visible after an error, except after [`StoreError::Fatal`], when nobody knows:
    /// the store then answers everything with `Fatal` until it is opened again.
    fn apply(&self, batch: Batch, durability: Durability) -> Result<(), StoreError>;

    /// A frozen view: later batches do not show in it.
    fn snapshot(&self) -> Box<dyn Read + Send + '_>;

    /// Figures for people and metrics. Cheap; estimates where the engine only has those.
    fn stats(&self) -> StoreStats;
}

/// See [`Store::stats`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Engine name: `fjall`, `rocksdb` or `memory`.
    pub engine: &'static str,
    /// Keys in [`Table::Records`], estimated.
    pub records_estimate: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Batches applied since opening.
    pub batches: u64,
    /// Fsyncs that the store asked for since opening.
    pub fsyncs: u64,
    /// Time that writers were held back by the engine since opening, microseconds.
    pub stall_us: u64,
    /// The second engine that takes the same batches, where there is one.
    pub shadow: Option<ShadowStats>,
}

/// How a second engine does that takes the same batches, and which nobody reads from. All since opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShadowStats {
    /// Engine name: see [`StoreStats::engine`].
    pub engine: &'static str,
    /// What it is about.
    pub state: ShadowState,
    /// Why it has ended; empty while it has not.
    pub reason: String,
    /// Batches that it has applied.
    pub batches: u64,
    /// Batches that the store has applied, and it has not.
    pub lag: u64,
    /// Bytes of those that wait for it.
    pub queue_bytes: u64,
    /// Entries of the store that it was filled with.
    pub filled: u64,
    /// Entries that were read from both, when both had applied the same batches.
    pub compared: u64,
    /// Those of them that were not the same.
    pub differing: u64,
    /// The first of those, for people.
    pub samples: Vec<String>,
    /// Time that the store's own engine spent in writing the batches that went to both, nanoseconds. Without fsyncs.
    pub store_write_ns: u64,
    /// The same of this engine.
    pub write_ns: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
}

/// See [`ShadowStats::state`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShadowState {
    /// It is being opened.
    #[default]
    Opening,
    /// It is being filled with what the store holds.
    Filling,
    /// It holds what the store holds, but for the batches that wait for it, and is compared.
    Following,
    /// It was too slow for the load and has missed batches: it has ended.
    Behind,
    /// It has ended with an error.
    Failed,
}

impl ShadowState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Opening, Self::Filling, Self::Following, Self::Behind, Self::Failed];

    /// Its name in metrics and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Filling => "filling",
            Self::Following => "following",
            Self::Behind => "behind",
            Self::Failed => "failed",
        }
    }

    /// Whether it takes no batches any more.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Behind | Self::Failed)
    }
}

/// Why a store could not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No space left. Nothing of the batch was applied; reads go on.
    #[error("the disk is full: {0}; free some space, nothing of this batch was written")]
    Full(String),
    /// Bytes on disk are not what was written.
    #[error("the store is damaged: {0}; this copy must be rebuilt from the other owners")]
    Corrupt(String),
    /// The engine failed in a way that leaves its state unknown (a failed fsync for one). Never retried.
    #[error("the store can't go on: {0}; restart the node, it opens again at what the disk really holds")]
    Fatal(String),
    /// The engine refused for a reason that passes.
    #[error("the store could not read or write: {0}")]
    Io(String),
}

/// Values as columns, the shape that crosses the sandbox wall cheaply. Row `i` of a column of bytes ends at `ends[i]`,
/// and begins where row `i - 1` ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// What tells each value from all others of the store.
    pub names: Vec<u8>,
    /// One past the last byte of each name.
    pub name_ends: Vec<u32>,
    /// The values.
    pub values: Vec<u8>,
    /// One past the last byte of each value.
    pub ends: Vec<u32>,
}

impl Rows {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True when there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Adds a row; the name comes in pieces.
    pub fn push(&mut self, name: &[&[u8]], value: &[u8]) {
        name.iter().for_each(|piece| self.names.extend_from_slice(piece));
        self.name_ends.push(end(&self.names));
        self.values.extend_from_slice(value);
        self.ends.push(end(&self.values));
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let value = &self.values[start..*end as usize];
            start = *end as usize;
            value
        })
    }
}

/// Whoever builds rows bounds them far below this.
fn end(column: &[u8]) -> u32 {
    u32::try_from(column.len()).unwrap_or(u32::MAX)
}

/// What stands between values and an engine: what it makes of a value is what the engine keeps.
///
/// For the store and the sandbox, which know nothing of one another; the logic never sees one.
pub trait Adapt: Send + Sync {
    /// In which form it leaves values, with its own name: who says the same reads the same. One line.
    fn form(&self) -> &str;

    /// Puts what the engine shall keep in the place of each value.
    ///
    /// # Errors
    /// The rows are of no use then.
    fn pack(&self, rows: &mut Rows) -> Result<(), AdaptError>;

    /// Puts the values in the place of what the engine has kept; those that are not whole become empty.
    ///
    /// # Errors
    /// The rows are of no use then.
    fn unpack(&self, rows: &mut Rows) -> Result<Vec<Unpacked>, AdaptError>;
}

/// What became of a value on its way back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unpacked {
    /// It is what was packed.
    Whole,
    /// The bytes are not what was packed, or belong to another name.
    Damaged,
    /// It says that it was packed under another key, or in another form: damage too, but counted apart.
    Foreign,
}

/// An adapter gave no answer, or none that fits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the storage adapter {adapter} failed: {reason}")]
pub struct AdaptError {
    /// Which one.
    pub adapter: String,
    /// How.
    pub reason: String,
}

/// First byte of what a store gives in the place of a value that its adapters can't unpack; the bytes of the engine
/// follow. No stored form begins so: whoever decodes it finds a damaged record, as after any other damage.
pub const UNREADABLE: u8 = 0;

/// The content hash (BLAKE3) of a component, a resolver or a data type: replicas agree on code, not on names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResolverHash(pub [u8; 32]);

impl ResolverHash {
    /// No code has this hash: nobody is asked, and all versions are kept.
    pub const NOBODY: Self = Self([0; 32]);
}

impl core::fmt::Debug for ResolverHash {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for byte in &self.0[..6] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// By which rules the versions of a keyspace supersede one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// The code that settles siblings; [`ResolverHash::NOBODY`]: they are kept.
    pub resolver: ResolverHash,
    /// Writes say which versions they have seen, and supersede exactly those: see [`crate::record`].
    pub causal: bool,
    /// What that code is.
    pub role: Role,
}

impl Policy {
    /// Values are states of a data type.
    #[must_use]
    pub const fn typed(&self) -> bool {
        matches!(self.role, Role::DataType)
    }
}

/// What the code of a keyspace is: whom it serves, and when it is asked. The numbers are part of the stored format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Role {
    /// A resolver that goes by what is known about versions: every owner asks it as soon as versions meet.
    #[default]
    Resolver,
    /// A data type: see [`DataTypes`]. No owner asks it when versions meet: they stay beside each other until the next
    /// operation of a client joins them.
    DataType,
    /// A resolver that looks at values and merges them for readers: see [`Resolve::merge`]. Owners keep siblings, and
    /// the reader's next write takes their place.
    Merger,
}

impl Role {
    /// As people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resolver => "resolver",
            Self::DataType => "data type",
            Self::Merger => "resolver that merges at read",
        }
    }
}

/// Many conflicts as columns of primitives, the shape that crosses the sandbox wall cheaply.
///
/// Conflict `i` owns the rows `ends[i-1]..ends[i]` of every other column. Rows of one conflict are ordered by dot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// One past the last row of each conflict.
    pub ends: Vec<u32>,
    /// Coordinator of each version's dot.
    pub nodes: Vec<u64>,
    /// Incarnation of each version's dot.
    pub incarnations: Vec<u64>,
    /// Counter of each version's dot.
    pub counters: Vec<u64>,
    /// Hybrid logical clock of each version.
    pub written: Vec<u64>,
    /// Bytes of each value.
    pub sizes: Vec<u32>,
    /// Bit 0: tombstone.
    pub marks: Vec<u8>,
    /// Hash of each value.
    pub digests: Vec<u64>,
}

impl Columns {
    /// Bit of [`Self::marks`]: the version is a tombstone.
    pub const TOMBSTONE: u8 = 1;

    /// Adds a row to the conflict that is being built; [`Self::close`] ends the conflict.
    pub fn row(&mut self, dot: Dot, written: u64, size: u32, tombstone: bool, digest: u64) {
        let Dot { node: NodeId(node), incarnation, counter } = dot;
        self.nodes.push(node);
        self.incarnations.push(incarnation.0);
        self.counters.push(counter);
        self.written.push(written);
        self.sizes.push(size);
        self.marks.push(if tombstone { Self::TOMBSTONE } else { 0 });
        self.digests.push(digest);
    }

    /// Ends the conflict whose rows were added since the last call.
    pub fn close(&mut self) {
        self.ends.push(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
    }

    /// Number of conflicts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True when there is no conflict.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The rows of conflict `i`.
    #[must_use]
    pub fn rows(&self, i: usize) -> core::ops::Range<usize> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        start..self.ends[i] as usize
    }

    /// The dot of the version in a row.
    #[must_use]
    pub fn dot(&self, row: usize) -> Dot {
        let (node, incarnation) = (NodeId(self.nodes[row]), Incarnation(self.incarnations[row]));
        Dot { node, incarnation, counter: self.counters[row] }
    }

    /// Whether these are an answer to the question: one for each conflict, and none names a version that is not there.
    #[must_use]
    pub fn fits(&self, verdicts: &[Verdict]) -> bool {
        let sound = |(i, verdict): (usize, &Verdict)| match verdict {
            Verdict::Keep(row) => (*row as usize) < self.rows(i).len(),
            Verdict::KeepAll => true,
        };
        verdicts.len() == self.len() && verdicts.iter().enumerate().all(sound)
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.nodes.clear();
        self.incarnations.clear();
        self.counters.clear();
        self.written.clear();
        self.sizes.clear();
        self.marks.clear();
        self.digests.clear();
    }
}

/// A resolver's answer for one conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Keep this version alone: its position among the conflict's own rows, counted from 0.
    Keep(u32),
    /// Keep all of them as siblings.
    KeepAll,
}

/// Settles conflicts with the code that a keyspace names.
pub trait Resolve: Send + Sync {
    /// One verdict per conflict, in order.
    ///
    /// # Errors
    /// Whatever goes wrong (a trap, a timeout, an answer out of range, code that this node does not have), the
    /// caller keeps all siblings: a failure never decides.
    fn settle(&self, resolver: ResolverHash, conflicts: &Columns) -> Result<Vec<Verdict>, ResolveError>;

    /// Whether this node has the code, and it works. Otherwise all versions are kept, and nothing is compared with
    /// other owners: the differences would be none of the data's.
    fn has(&self, resolver: ResolverHash) -> bool;

    /// What a reader is shown in the place of siblings. It reads values and may take its time, so it is never asked on
    /// the pump.
    ///
    /// # Errors
    /// As [`Resolve::settle`]: the reader gets all siblings.
    fn merge(&self, resolver: ResolverHash, siblings: &Siblings) -> Result<Merged, ResolveError>;
}

/// The versions of one key, for a resolver that looks at values.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Siblings {
    /// The partition key, and the sort key behind it.
    pub key: Bytes,
    /// What is known about them: one conflict.
    pub versions: Columns,
    /// Their values, in the same order; empty for a tombstone.
    pub values: Vec<Bytes>,
}

/// A resolver's answer for a reader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Merged {
    /// These versions, by their positions from 0, in ascending order: one at least.
    Kept(Vec<u32>),
    /// A new value in the place of all of them.
    Value(Bytes),
}

/// Why a resolver gave no verdict. All versions are kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// This node does not have the code.
    #[error("no resolver with hash {0:?} on this node")]
    Unknown(ResolverHash),
    /// The component trapped or ran out of its budget.
    #[error("the resolver failed: {0}")]
    Failed(String),
    /// The answer is no answer to the question.
    #[error("the resolver's answer makes no sense: {0}")]
    Nonsense(String),
}

/// Runs the data types that keyspaces name: values that clients change by operations, and that are joined where they
/// met nobody. What comes out is the logic's to store, or not; a failure never changes anything.
pub trait DataTypes: Send + Sync {
    /// Applies an operation to the join of `states`. The dot is fresh, and the states hold all that the same node and
    /// incarnation did to the key before.
    ///
    /// # Errors
    /// [`TypeError`]: there is no new state.
    fn apply(
        &self,
        data_type: ResolverHash,
        at: (Dot, Hlc),
        states: &[Bytes],
        operation: &Bytes,
    ) -> Result<NewState, TypeError>;

    /// The join of one state or more.
    ///
    /// # Errors
    /// [`TypeError`].
    fn join(&self, data_type: ResolverHash, states: &[Bytes]) -> Result<Bytes, TypeError>;

    /// Answers a question about the join of one state or more.
    ///
    /// # Errors
    /// [`TypeError`].
    fn view(&self, data_type: ResolverHash, states: &[Bytes], question: &Bytes) -> Result<Bytes, TypeError>;
}

/// What an operation made of some states.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewState {
    /// It holds all of them.
    pub state: Bytes,
    /// What the client is told.
    pub reply: Option<Bytes>,
}

/// Why a data type gave no answer. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    /// This node does not have the code.
    #[error("this node does not have the keyspace's data type ({0:?})")]
    Unknown(ResolverHash),
    /// The type refuses the operation or the question, in its own words.
    #[error("{0}")]
    Refused(String),
    /// The component trapped, ran out of its budget, or a state is none, or too large.
    #[error("the data type failed: {0}")]
    Failed(String),
    /// It failed too often, and nobody asks it. By its name.
    #[error(
        "the data type {0} is in quarantine, as it failed too often; what is stored stays as it is. Alter the keyspace to \
         another version of it, or let it run again: `mks plugin alter {0} --release`"
    )]
    Quarantined(String),
}
