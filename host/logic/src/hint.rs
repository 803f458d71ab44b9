//! How hints lie in the store: the one rule by which they are kept, read and removed.
//!
//! ```text
//! key   = u64 owner | u16 partition | u64 epoch | u64 clock | u64 incarnation | u64 counter, all big-endian
//! value = 1 | u32 keyspace | u32 length, partition key | u32 length, sort key | u64 hash of key and all this | record
//! ```
//!
//! The record is [`crate::record`]'s stored form of the one version, which checks itself. Hints ask for no fsync: one
//! that a power cut takes leaves a difference that anti-entropy finds, and one that it brings back is held already.

use crate::event::{Hint, HintCount, HintId, HintJob, HintOutcome, HintWork};
use crate::id::{Epoch, Incarnation, Key, KeyspaceId, NodeId, PartitionId};
use crate::port::{Batch, Change, Durability, Store, StoreError, Table};
use crate::record::Record;
use crate::replica::refusal;
use crate::time::Hlc;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::{Buf, BufMut, Bytes};
use core::ops::ControlFlow;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The format that this code writes, and the only one there has been.
pub const FORMAT: u8 = 1;

/// Bytes of an engine key.
const KEY_BYTES: usize = 42;

/// Hints that one [`HintWork::Forget`] removes.
const FORGET_MAX: usize = 4_096;

impl HintId {
    /// The key under which engines store the hint.
    #[must_use]
    pub fn engine_key(&self) -> Bytes {
        let mut out = Vec::with_capacity(KEY_BYTES);
        out.put_u64(self.owner.0);
        out.put_u16(self.partition.0);
        out.put_u64(self.epoch.0);
        out.put_u64(self.written.0);
        out.put_u64(self.incarnation.0);
        out.put_u64(self.counter);
        out.into()
    }

    /// Reads an engine key back. `None` when the bytes are not one.
    #[must_use]
    pub fn from_engine_key(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() != KEY_BYTES {
            return None;
        }
        Some(Self {
            owner: NodeId(bytes.get_u64()),
            partition: PartitionId(bytes.get_u16()),
            epoch: Epoch(bytes.get_u64()),
            written: Hlc(bytes.get_u64()),
            incarnation: Incarnation(bytes.get_u64()),
            counter: bytes.get_u64(),
        })
    }
}

impl Hint {
    /// Bytes that it costs, up to a few.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let Key { partition_key, sort_key, .. } = &self.key;
        let value = self.version.value.as_ref().map_or(0, Bytes::len);
        (KEY_BYTES + 70 + partition_key.len() + sort_key.len() + value) as u64
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let Key { keyspace, partition_key, sort_key } = &self.key;
        let record = Record::of(self.version.clone()).encode();
        let mut out = Vec::with_capacity(21 + partition_key.len() + sort_key.len() + record.len());
        out.put_u8(FORMAT);
        out.put_u32(keyspace.0);
        for part in [partition_key, sort_key] {
            out.put_u32(part.len() as u32);
            out.put_slice(part);
        }
        let hash = xxh3_64_with_seed(&out, self.id.hash());
        out.put_u64(hash);
        out.put_slice(&record);
        out.into()
    }

    /// Reads the stored form back, sharing the bytes of the value. `None` when it is damaged or lies in a wrong place.
    #[must_use]
    pub fn decode(id: HintId, bytes: &Bytes) -> Option<Self> {
        let mut rest = bytes.clone();
        if rest.try_get_u8().ok()? != FORMAT {
            return None;
        }
        let keyspace = KeyspaceId(rest.try_get_u32().ok()?);
        let mut part = || {
            let size = rest.try_get_u32().ok()? as usize;
            (size <= rest.remaining()).then(|| rest.split_to(size))
        };
        let (partition_key, sort_key) = (part()?, part()?);
        let head = &bytes[..bytes.len() - rest.remaining()];
        if rest.try_get_u64().ok()? != xxh3_64_with_seed(head, id.hash()) {
            return None;
        }
        let mut versions = Record::decode(&rest).ok()?.into_versions();
        let version = versions.pop().filter(|_| versions.is_empty())?;
        Some(Self { id, key: Key { keyspace, partition_key, sort_key }, version })
    }
}

impl HintId {
    fn hash(&self) -> u64 {
        xxh3_64_with_seed(&self.engine_key(), 0)
    }
}

/// Does the jobs in order, neighbours that change something as one batch. One outcome per job.
pub fn work(store: &dyn Store, jobs: &[HintJob]) -> Vec<HintOutcome> {
    let mut outcomes = Vec::with_capacity(jobs.len());
    // Changes that wait for `flush`, and how many jobs they are of.
    let (mut batch, mut waiting) = (Batch::new(), 0);
    for HintJob { work, .. } in jobs {
        match work {
            HintWork::Keep(hint) => {
                batch.push(Change::Put { table: Table::Hints, key: hint.id.engine_key(), value: hint.encode() });
            }
            HintWork::Drop(ids) => batch.extend(ids.iter().map(removal)),
            HintWork::Count | HintWork::Load { .. } | HintWork::Forget { .. } => {
                flush(store, &mut batch, &mut waiting, &mut outcomes);
                outcomes.push(look(store, work).unwrap_or_else(|error| HintOutcome::Refused(refusal(&error))));
                continue;
            }
        }
        waiting += 1;
    }
    flush(store, &mut batch, &mut waiting, &mut outcomes);
    outcomes
}

fn removal(id: &HintId) -> Change {
    Change::Delete { table: Table::Hints, key: id.engine_key() }
}

fn flush(store: &dyn Store, batch: &mut Batch, waiting: &mut usize, outcomes: &mut Vec<HintOutcome>) {
    let waiting = core::mem::take(waiting);
    if waiting == 0 {
        return;
    }
    let outcome = match store.apply(core::mem::take(batch), Durability::Os) {
        Ok(()) => HintOutcome::Done,
        Err(error) => HintOutcome::Refused(refusal(&error)),
    };
    outcomes.extend(core::iter::repeat_n(outcome, waiting));
}

fn look(store: &dyn Store, work: &HintWork) -> Result<HintOutcome, StoreError> {
    match work {
        HintWork::Load { owner, after, count_max, bytes_max } => load(store, *owner, *after, *count_max, *bytes_max),
        HintWork::Forget { owner } => forget(store, *owner),
        HintWork::Count | HintWork::Keep(_) | HintWork::Drop(_) => count(store),
    }
}

/// The range of an owner's hints.
fn range(owner: NodeId) -> (Bytes, Option<Bytes>) {
    let at = |node: u64| Bytes::copy_from_slice(&node.to_be_bytes());
    (at(owner.0), owner.0.checked_add(1).map(at))
}

fn count(store: &dyn Store) -> Result<HintOutcome, StoreError> {
    let mut counts: BTreeMap<NodeId, HintCount> = BTreeMap::new();
    store.scan(Table::Hints, &[], None, &mut |key, value| {
        if let Some(id) = HintId::from_engine_key(key) {
            let of = counts.entry(id.owner).or_insert(HintCount { oldest: id.written, ..HintCount::default() });
            of.count += 1;
            of.bytes += (key.len() + value.len()) as u64;
            of.oldest = of.oldest.min(id.written);
        }
        ControlFlow::Continue(())
    })?;
    Ok(HintOutcome::Counted(counts))
}

fn load(
    store: &dyn Store,
    owner: NodeId,
    after: Option<HintId>,
    count_max: usize,
    bytes_max: usize,
) -> Result<HintOutcome, StoreError> {
    let (start, end) = range(owner);
    let start = after.map_or(start, |id| [&id.engine_key()[..], &[0]].concat().into());
    let (mut hints, mut damaged, mut bytes) = (Vec::new(), Vec::new(), 0);
    store.scan(Table::Hints, &start, end.as_deref(), &mut |key, value| {
        let full = bytes + value.len() > bytes_max && bytes > 0;
        if full || hints.len() + damaged.len() >= count_max {
            return ControlFlow::Break(());
        }
        bytes += value.len();
        if let Some(id) = HintId::from_engine_key(key) {
            match Hint::decode(id, &Bytes::copy_from_slice(value)) {
                Some(hint) => hints.push(hint),
                None => damaged.push(id),
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(HintOutcome::Loaded { hints, damaged })
}

fn forget(store: &dyn Store, owner: NodeId) -> Result<HintOutcome, StoreError> {
    let (start, end) = range(owner);
    let mut batch = Batch::new();
    store.scan(Table::Hints, &start, end.as_deref(), &mut |key, _| {
        batch.push(Change::Delete { table: Table::Hints, key: Bytes::copy_from_slice(key) });
        if batch.len() < FORGET_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    let more = batch.len() == FORGET_MAX;
    if !batch.is_empty() {
        store.apply(batch, Durability::Os)?;
    }
    Ok(HintOutcome::Forgotten { more })
}
