//! The only read-merge-write rule of an owner: puts, and later hints, repair and sync, all pass through here.
//!
//! A group of jobs becomes one engine batch, one call per resolver and, where a job asks for it, one fsync. One thread
//! at a time runs this against a store, so one key never has two merges in flight.

use crate::event::WriteJob;
use crate::message::{Refused, WriteOutcome};
use crate::port::{Change, Columns, Durability, Resolve, ResolverHash, Store, StoreError, Table, Verdict};
use crate::record::Record;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

/// Siblings that one key may hold. They only pile up while a resolver fails.
pub const SIBLINGS_MAX: usize = 64;

/// One record that the group touches.
struct Slot {
    resolver: ResolverHash,
    stored: Record,
    merged: Record,
    jobs: Vec<usize>,
    failed: Option<Refused>,
}

/// Figures of one group, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Keys that had something to settle.
    pub conflicts: u64,
    /// Of those, settled by no verdict: all siblings were kept.
    pub unsettled: u64,
    /// Records written.
    pub written: u64,
}

/// Merges each job's version into its record and commits all of them as one batch. One outcome per job, in order.
///
/// [`WriteOutcome::Held`] is said only after the commit, at the strongest durability that any job of the group asks for.
/// A failing store refuses every job of the group; nothing of it was written then (but see [`StoreError::Fatal`]).
pub fn absorb(
    store: &dyn Store,
    resolve: &dyn Resolve,
    partition_bits: u8,
    jobs: &[WriteJob],
) -> (Vec<WriteOutcome>, Figures) {
    let mut outcomes = Vec::with_capacity(jobs.len());
    let mut slots: BTreeMap<Vec<u8>, Slot> = BTreeMap::new();
    for (i, job) in jobs.iter().enumerate() {
        let key = job.key.engine_key(partition_bits);
        let slot = slots.entry(key).or_insert_with_key(|key| Slot::read(store, key, job.resolver));
        outcomes.push(slot.admit(i, job));
    }
    let mut figures = settle(resolve, &mut slots);
    let mut batch = Vec::new();
    for (key, slot) in &slots {
        if let Some(refused) = slot.failed {
            for &i in &slot.jobs {
                outcomes[i] = WriteOutcome::Refused(refused);
            }
        } else if slot.merged != slot.stored {
            let value = slot.merged.encode();
            batch.push(Change::Put { table: Table::Records, key: Bytes::copy_from_slice(key), value });
        }
    }
    figures.written = batch.len() as u64;
    commit(store, jobs, batch, &mut outcomes);
    (outcomes, figures)
}

/// Commits, and turns promises that the store did not keep into refusals.
fn commit(store: &dyn Store, jobs: &[WriteJob], batch: Vec<Change>, outcomes: &mut [WriteOutcome]) {
    let held = |outcomes: &[WriteOutcome], i: usize| outcomes[i] == WriteOutcome::Held;
    let durability = (0..jobs.len()).filter(|&i| held(outcomes, i)).map(|i| jobs[i].durability).max();
    let durability = durability.unwrap_or(Durability::Os);
    // A version that lost, or came twice, needs no write. But its ack promises that what superseded it is as durable
    // as asked, and that may have been written at a weaker level: an empty synced batch makes sure.
    if batch.is_empty() && durability == Durability::Os {
        return;
    }
    if let Err(error) = store.apply(batch, durability) {
        let refused = refusal(&error);
        for outcome in outcomes.iter_mut().filter(|o| **o == WriteOutcome::Held) {
            *outcome = WriteOutcome::Refused(refused);
        }
    }
}

/// How a peer hears of a store's error.
#[must_use]
pub fn refusal(error: &StoreError) -> Refused {
    match error {
        StoreError::Full(_) => Refused::DiskFull,
        StoreError::Corrupt(_) | StoreError::Fatal(_) | StoreError::Io(_) => Refused::Store,
    }
}

impl Slot {
    fn read(store: &dyn Store, key: &[u8], resolver: ResolverHash) -> Self {
        let (stored, failed) = match store.get(Table::Records, key) {
            Ok(bytes) => match Record::decode(&bytes.unwrap_or_default()) {
                Ok(record) => (record, None),
                Err(_) => (Record::default(), Some(Refused::Store)),
            },
            Err(error) => (Record::default(), Some(refusal(&error))),
        };
        Self { resolver, merged: stored.clone(), stored, jobs: Vec::new(), failed }
    }

    /// Puts the job's version beside what is there, unless there is a reason not to.
    fn admit(&mut self, i: usize, job: &WriteJob) -> WriteOutcome {
        if !job.version.is_intact() {
            return WriteOutcome::Refused(Refused::Damaged);
        }
        if !self.merged.holds(job.version.dot) {
            if let Some(latest) = self.merged.latest().filter(|latest| job.fresh && *latest >= job.version.written) {
                return WriteOutcome::StaleStamp { latest };
            }
            self.merged.insert(job.version.clone());
        }
        self.jobs.push(i);
        WriteOutcome::Held
    }
}

/// Asks each resolver once for all conflicts of the group that are its business.
fn settle(resolve: &dyn Resolve, slots: &mut BTreeMap<Vec<u8>, Slot>) -> Figures {
    let mut figures = Figures::default();
    let mut by_resolver: BTreeMap<ResolverHash, (Columns, Vec<&mut Slot>)> = BTreeMap::new();
    for slot in slots.values_mut().filter(|slot| slot.failed.is_none() && slot.merged.versions().len() > 1) {
        let (columns, conflicts) = by_resolver.entry(slot.resolver).or_default();
        describe(&slot.merged, columns);
        conflicts.push(slot);
    }
    for (resolver, (columns, conflicts)) in by_resolver {
        figures.conflicts += conflicts.len() as u64;
        let verdicts = verdicts(resolve, resolver, &columns);
        for (i, slot) in conflicts.into_iter().enumerate() {
            match verdicts.as_ref().map(|v| v[i]) {
                Some(Verdict::Keep(row)) => slot.merged.keep(row as usize),
                Some(Verdict::KeepAll) => {}
                None => figures.unsettled += 1,
            }
            if slot.merged.versions().len() > SIBLINGS_MAX {
                slot.failed = Some(Refused::TooManySiblings);
            }
        }
    }
    figures
}

/// The resolver's verdicts, if they are an answer to the question: a failure never decides.
fn verdicts(resolve: &dyn Resolve, resolver: ResolverHash, columns: &Columns) -> Option<Vec<Verdict>> {
    let verdicts = resolve.settle(resolver, columns).ok()?;
    let sound = |i: usize, verdict: &Verdict| match verdict {
        Verdict::Keep(row) => (*row as usize) < columns.rows(i).len(),
        Verdict::KeepAll => true,
    };
    let fits = verdicts.len() == columns.len() && verdicts.iter().enumerate().all(|(i, v)| sound(i, v));
    fits.then_some(verdicts)
}

fn describe(record: &Record, columns: &mut Columns) {
    for v in record.versions() {
        let size = v.value.as_ref().map_or(0, Bytes::len) as u32;
        columns.row(v.dot, v.written.0, size, v.is_tombstone(), v.digest);
    }
    columns.close();
}

/// Merges what several owners hold of one key, for a reader: the union of their versions, settled.
#[must_use]
pub fn merge(resolve: &dyn Resolve, resolver: ResolverHash, records: impl IntoIterator<Item = Record>) -> Record {
    let mut merged = Record::default();
    for version in records.into_iter().flat_map(Record::into_versions) {
        merged.insert(version);
    }
    if merged.versions().len() > 1 {
        let mut columns = Columns::default();
        describe(&merged, &mut columns);
        if let Some([Verdict::Keep(row)]) = verdicts(resolve, resolver, &columns).as_deref() {
            merged.keep(*row as usize);
        }
    }
    merged
}
