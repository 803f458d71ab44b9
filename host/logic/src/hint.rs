//! How hints lie in the store: the one rule by which they are kept, read and removed.
//!
//! ```text
//! key   = u64 owner | u16 partition | u64 epoch | u64 clock | u64 node, u64 incarnation, u64 counter, all big-endian
//! value = 1 or, where it counted towards a quorum, 2 | u32 keyspace | u32 length, partition key | u32 length, sort key
//! | u64 hash of key and all this | record
//! ```
//!
//! The record is [`crate::record`]'s stored form of the one version and what it supersedes, which checks itself. A hint
//! that counted is as durable as the write was to be. The others ask for no fsync: one that a power cut takes leaves a
//! difference that anti-entropy finds, and one that it brings back is held already.

use crate::event::{Hint, HintCount, HintId, HintJob, HintOutcome, HintWork};
use crate::id::{Dot, Epoch, Incarnation, Key, KeyspaceId, NodeId, PartitionId};
use crate::port::{Batch, Change, Durability, Store, StoreError, Table};
use crate::record::Record;
use crate::replica::refusal;
use crate::time::Hlc;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::{Buf, BufMut, Bytes};
use core::ops::ControlFlow;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The first byte of a hint that no client was told of.
pub const FORMAT: u8 = 1;
/// The first byte of a hint that counted towards the quorum of a write.
pub const FORMAT_COUNTED: u8 = 2;

/// Bytes of an engine key.
const KEY_BYTES: usize = 50;

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
        out.put_u64(self.dot.node.0);
        out.put_u64(self.dot.incarnation.0);
        out.put_u64(self.dot.counter);
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
            dot: Dot {
                node: NodeId(bytes.get_u64()),
                incarnation: Incarnation(bytes.get_u64()),
                counter: bytes.get_u64(),
            },
        })
    }
}

impl Hint {
    /// Bytes that it costs, up to a few.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let Key { partition_key, sort_key, .. } = &self.key;
        let value = self.version.value.as_ref().map_or(0, Bytes::len);
        (KEY_BYTES + 70 + partition_key.len() + sort_key.len() + value + self.past.bytes()) as u64
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let Key { keyspace, partition_key, sort_key } = &self.key;
        let record = Record::of(self.version.clone()).with_past(&self.past).encode();
        let mut out = Vec::with_capacity(21 + partition_key.len() + sort_key.len() + record.len());
        out.put_u8(if self.counted { FORMAT_COUNTED } else { FORMAT });
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
        let counted = match rest.try_get_u8().ok()? {
            FORMAT => false,
            FORMAT_COUNTED => true,
            _ => return None,
        };
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
        let (mut versions, past) = Record::decode(&rest).ok()?.into_parts();
        let version = versions.pop().filter(|_| versions.is_empty())?;
        Some(Self { id, key: Key { keyspace, partition_key, sort_key }, version, past, counted })
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
    let mut waiting = Waiting::default();
    for HintJob { work, .. } in jobs {
        match work {
            HintWork::Keep(hint, durability) => {
                let (key, value) = (hint.id.engine_key(), hint.encode());
                waiting.batch.push(Change::Put { table: Table::Hints, key, value });
                waiting.sync |= *durability == Durability::Sync;
            }
            HintWork::Drop(ids) => waiting.batch.extend(ids.iter().map(removal)),
            HintWork::Count | HintWork::Load { .. } | HintWork::Forget { .. } => {
                flush(store, &mut waiting, &mut outcomes);
                outcomes.push(look(store, work).unwrap_or_else(|error| HintOutcome::Refused(refusal(&error))));
                continue;
            }
        }
        waiting.jobs += 1;
    }
    flush(store, &mut waiting, &mut outcomes);
    outcomes
}

fn removal(id: &HintId) -> Change {
    Change::Delete { table: Table::Hints, key: id.engine_key() }
}

/// Changes that wait for [`flush`].
#[derive(Default)]
struct Waiting {
    batch: Batch,
    jobs: usize,
    sync: bool,
}

fn flush(store: &dyn Store, waiting: &mut Waiting, outcomes: &mut Vec<HintOutcome>) {
    let Waiting { batch, jobs, sync } = core::mem::take(waiting);
    if jobs == 0 {
        return;
    }
    let outcome = match store.apply(batch, if sync { Durability::Sync } else { Durability::Os }) {
        Ok(()) => HintOutcome::Done,
        Err(error) => HintOutcome::Refused(refusal(&error)),
    };
    outcomes.extend(core::iter::repeat_n(outcome, jobs));
}

fn look(store: &dyn Store, work: &HintWork) -> Result<HintOutcome, StoreError> {
    match work {
        HintWork::Load { owner, after, count_max, bytes_max } => load(store, *owner, *after, *count_max, *bytes_max),
        HintWork::Forget { owner } => forget(store, *owner),
        HintWork::Count | HintWork::Keep(..) | HintWork::Drop(_) => count(store),
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
            of.counted += u64::from(value.first() == Some(&FORMAT_COUNTED));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{JobId, WriteJob};
    use crate::id::Dot;
    use crate::replica::absorb;
    use crate::testing::{Disk, Rules, job, key, version};
    use crate::version::Version;
    use proptest::prelude::*;

    fn hint(owner: u64, counter: u64, value: &str) -> Hint {
        let version = version(1, counter, Hlc(counter), Some(value));
        let Version { dot, written, epoch, .. } = version.clone();
        let (owner, partition) = (NodeId(owner), PartitionId(3));
        let past = (1..counter % 4).map(|i| Dot { node: NodeId(7), counter: 2 * i, ..dot }).collect();
        let id = HintId { owner, partition, epoch, written, dot };
        Hint { id, key: key("k"), version, past, counted: false }
    }

    fn keep(hint: Hint) -> HintWork {
        HintWork::Keep(hint, Durability::Os)
    }

    fn done(disk: &Disk, work_: HintWork) -> HintOutcome {
        work(disk, &[HintJob { job: JobId(1), work: work_ }]).remove(0)
    }

    fn loaded(disk: &Disk, after: Option<HintId>, count_max: usize, bytes_max: usize) -> Vec<Hint> {
        match done(disk, HintWork::Load { owner: NodeId(3), after, count_max, bytes_max }) {
            HintOutcome::Loaded { hints, damaged } if damaged.is_empty() => hints,
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn a_hint_reads_back(owner: u64, counter in 0u64..1 << 40, value: String, counted: bool) {
            let hint = Hint { counted, ..hint(owner, counter, &value) };
            prop_assert_eq!(HintId::from_engine_key(&hint.id.engine_key()), Some(hint.id));
            prop_assert_eq!(Hint::decode(hint.id, &hint.encode()), Some(hint));
        }

        #[test]
        fn a_flipped_or_missing_bit_is_no_hint(at: prop::sample::Index, bit in 0u8..8, value: String) {
            let hint = hint(3, 7, &value);
            let mut bytes = hint.encode().to_vec();
            let i = at.index(bytes.len());
            prop_assert_eq!(Hint::decode(hint.id, &Bytes::copy_from_slice(&bytes[..i])), None);
            bytes[i] ^= 1 << bit;
            prop_assert_eq!(Hint::decode(hint.id, &bytes.into()), None);
        }

        #[test]
        fn garbage_is_no_hint_and_no_panic(bytes: Vec<u8>) {
            let _ = Hint::decode(hint(3, 7, "").id, &bytes.into());
        }

        /// Hints replayed twice, in any grouping, between newer writes, leave the record that the writes alone leave.
        #[test]
        fn replays_never_change_what_newer_writes_left(
            counters in prop::collection::btree_set(1u64..40, 1..8),
            steps in prop::collection::vec((any::<prop::sample::Index>(), 1usize..4, any::<bool>()), 1..20),
        ) {
            let jobs: Vec<WriteJob> = counters.iter().map(|c| {
                let Hint { key, version, .. } = hint(3, *c, "v");
                WriteJob { fresh: false, ..job(&key, version) }
            }).collect();
            let (plain, replayed) = (Disk::default(), Disk::default());
            let mut newer = 100;
            absorb(plain.ports(&Rules::Work), &jobs);
            for (at, count, write) in steps {
                if write {
                    newer += 1;
                    let fresh = job(&key("k"), version(2, newer, Hlc(newer), Some("newer")));
                    absorb(plain.ports(&Rules::Work), std::slice::from_ref(&fresh));
                    absorb(replayed.ports(&Rules::Work), &[fresh]);
                }
                let from = at.index(jobs.len());
                absorb(replayed.ports(&Rules::Work), &jobs[from..jobs.len().min(from + count)]);
            }
            absorb(replayed.ports(&Rules::Work), &jobs);
            prop_assert_eq!(plain.record(&key("k")), replayed.record(&key("k")));
        }
    }

    #[test]
    fn neighbours_are_one_batch_and_each_job_has_its_outcome() {
        let disk = Disk::default();
        let job = |work| HintJob { job: JobId(1), work };
        let jobs = [
            job(keep(hint(3, 1, "a"))),
            job(keep(hint(3, 2, "b"))),
            job(HintWork::Count),
            job(HintWork::Drop(vec![hint(3, 1, "a").id])),
        ];
        let outcomes = work(&disk, &jobs);
        assert_eq!((&outcomes[..2], &outcomes[3]), (&[HintOutcome::Done, HintOutcome::Done][..], &HintOutcome::Done));
        let HintOutcome::Counted(counts) = &outcomes[2] else { panic!("{outcomes:?}") };
        assert_eq!((counts[&NodeId(3)].count, counts[&NodeId(3)].oldest), (2, Hlc(1)));
        assert_eq!((disk.stats().batches, disk.stats().fsyncs, disk.hints().len()), (2, 0, 1));
    }

    #[test]
    fn a_hint_that_counted_survives_a_power_cut_and_shows_in_the_count() {
        let disk = Disk::default();
        let counted = Hint { counted: true, ..hint(3, 1, "a") };
        done(&disk, HintWork::Keep(counted.clone(), Durability::Sync));
        done(&disk, keep(hint(3, 2, "b")));
        disk.lose_power();
        assert_eq!(loaded(&disk, None, 10, 1 << 20), [counted]);
        let HintOutcome::Counted(counts) = done(&disk, HintWork::Count) else { panic!("a count is asked for") };
        assert_eq!((counts[&NodeId(3)].count, counts[&NodeId(3)].counted), (1, 1));
    }

    #[test]
    fn hints_are_read_in_order_in_parts_and_per_owner() {
        let disk = Disk::default();
        for counter in [2, 1, 3] {
            assert_eq!(done(&disk, keep(hint(3, counter, "value"))), HintOutcome::Done);
            done(&disk, keep(hint(4, counter, "other")));
        }
        let all = loaded(&disk, None, 10, 1 << 20);
        assert_eq!(all, [1, 2, 3].map(|counter| hint(3, counter, "value")));
        assert_eq!(loaded(&disk, None, 2, 1 << 20), all[..2]);
        assert_eq!(loaded(&disk, Some(all[1].id), 2, 1 << 20), all[2..]);
        assert_eq!(loaded(&disk, None, 10, 1), all[..1], "one at least");
        assert_eq!(done(&disk, HintWork::Forget { owner: NodeId(3) }), HintOutcome::Forgotten { more: false });
        assert_eq!((loaded(&disk, None, 10, 1 << 20), disk.hints().len()), (Vec::new(), 3));
    }

    #[test]
    fn a_store_that_fails_keeps_nothing_and_says_so() {
        let disk = Disk::default();
        disk.fail(Some(StoreError::Full("no room".into())));
        let full = HintOutcome::Refused(crate::message::Refused::DiskFull);
        assert_eq!(done(&disk, keep(hint(3, 1, "a"))), full);
    }
}
