//! The only read-merge-write rule of an owner: puts, and later hints, repair and sync, all pass through here.
//!
//! A group of jobs becomes one engine batch, one call per resolver and, where a job asks for it, one fsync. One thread
//! at a time runs this against a store, so one key never has two merges in flight. What the store holds is taken from
//! its outline where that is remembered: the values that a write replaces are not read.
//!
//! States of data types are changed here as well (`typed`), because here is the state that holds all that this node did
//! to them before. Those that meet stay beside each other: an owner that takes a version from another one runs no code,
//! and the next operation of a client takes the place of all that it joins.

use crate::cluster::Shadows;
use crate::context::Context;
use crate::digest::{self, Delta, Digests};
use crate::event::WriteJob;
use crate::id::{Dot, Key, KeyspaceId, Place};
use crate::message::{ReadOutcome, Refused, Want, WriteOutcome};
use crate::mint::Mints;
use crate::note;
use crate::outline::{Outline, Outlines, Row};
use crate::port::{
    Batch, Change, Columns, DataTypes, Durability, Policy, Resolve, ResolverHash, Role, Siblings, Store, StoreError,
    Table, Verdict,
};
use crate::record::{DecodeError, Record};
use crate::shadow::{Gathering, Trial};
use crate::time::Hlc;
use crate::version::Version;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

mod typed;

/// Siblings of one key beyond which no client may add another. They pile up where writers do not say what they have
/// seen, or a resolver fails. What other owners hold is taken all the same: two of them, each below the bound, may be
/// above it together, and must become equal.
pub const SIBLINGS_MAX: usize = 64;

/// What an owner works with.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "borrowed trait objects")]
pub struct Ports<'a> {
    /// Where records lie.
    pub store: &'a dyn Store,
    /// What is remembered of them. Nobody else changes it, or the table of records, meanwhile.
    pub outlines: &'a dyn Outlines,
    /// The sums over the records: they change when the records do.
    pub digests: &'a dyn Digests,
    /// Names for new writes of causal keyspaces.
    pub mints: &'a Mints,
    /// Settles siblings.
    pub resolve: &'a dyn Resolve,
    /// Changes states of data types.
    pub types: &'a dyn DataTypes,
    /// Q = 2^bits.
    pub partition_bits: u8,
}

/// A version of a slot: what decides about it, and its value unless that is only in the store.
struct Candidate {
    row: Row,
    fresh: Option<Version>,
}

/// One record that the group touches.
struct Slot {
    policy: Policy,
    keyspace: KeyspaceId,
    /// The first job that names it.
    first: usize,
    /// What the store holds, ordered by dot.
    before: Vec<Row>,
    /// Ordered by dot, each dot once, none of them past.
    candidates: Vec<Candidate>,
    past: Context,
    /// The past is more than what the store holds.
    grown: bool,
    changed: bool,
    jobs: Vec<usize>,
    /// A client waits for one of them.
    asked: bool,
    failed: Option<Refused>,
    /// What the store holds, values and all, once somebody had to read it.
    stored: Option<Vec<Version>>,
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
/// [`WriteOutcome::Held`] is said only after the commit, at the strongest durability that any job of the group asks
/// for. A failing store refuses every job of the group; nothing of it was written then (but see [`StoreError::Fatal`]).
pub fn absorb(ports: Ports<'_>, jobs: &[WriteJob]) -> (Vec<WriteOutcome>, Figures) {
    let (outcomes, figures, _) = absorb_shadowed(ports, jobs, &Shadows::new());
    (outcomes, figures)
}

/// The same, and what was settled and committed where a candidate shall be asked about it too.
pub fn absorb_shadowed(
    ports: Ports<'_>,
    jobs: &[WriteJob],
    shadows: &Shadows,
) -> (Vec<WriteOutcome>, Figures, Vec<Trial>) {
    let mut outcomes = Vec::with_capacity(jobs.len());
    let mut slots: BTreeMap<Vec<u8>, Slot> = BTreeMap::new();
    for (i, job) in jobs.iter().enumerate() {
        let key = job.key.engine_key(ports.partition_bits);
        let slot = slots.entry(key).or_insert_with_key(|key| Slot::open(ports, key, i, job));
        outcomes.push(match &job.apply {
            Some(apply) => slot.apply(i, job, apply, ports),
            None => slot.admit(i, job, ports.mints),
        });
    }
    let mut gathering = Gathering::new(shadows);
    let mut figures = settle(ports.resolve, jobs, &mut slots, &mut gathering);
    let mut batch = Vec::new();
    let mut outlines = Vec::new();
    let mut deltas = Vec::new();
    for (key, slot) in &mut slots {
        match slot.record(ports, key) {
            Ok(None) => {}
            Ok(Some(record)) => {
                let value = record.encode();
                batch.push(Change::Put { table: Table::Records, key: Bytes::copy_from_slice(key), value });
                figures.written += 1;
                let outline = slot.outline(key, &record, &mut deltas);
                batch.extend(slot.note(key, &outline));
                outlines.push((key, outline));
            }
            Err(refused) => {
                for &i in &slot.jobs {
                    outcomes[i] = WriteOutcome::Refused(refused);
                }
            }
        }
    }
    batch.extend(ports.digests.stage(deltas));
    let committed = commit(ports.store, jobs, batch, &mut outcomes);
    ports.digests.settle(committed);
    for (key, outline) in outlines {
        // After a failed commit nobody knows what the store holds: the next job on the key looks.
        if committed { ports.outlines.put(key, outline) } else { ports.outlines.forget(key) }
    }
    let trials = if committed { gathering.trials() } else { Vec::new() };
    (outcomes, figures, trials)
}

/// Commits, and turns promises that the store did not keep into refusals. False when nothing was committed.
fn commit(store: &dyn Store, jobs: &[WriteJob], batch: Batch, outcomes: &mut [WriteOutcome]) -> bool {
    let held = |outcomes: &[WriteOutcome], i: usize| outcomes[i].is_held();
    let durability = (0..jobs.len()).filter(|&i| held(outcomes, i)).map(|i| jobs[i].durability).max();
    let durability = durability.unwrap_or(Durability::Os);
    // A version that lost, or came twice, needs no write. But its ack promises that what superseded it is as durable
    // as asked, and that may have been written at a weaker level: an empty synced batch makes sure.
    if batch.is_empty() && durability == Durability::Os {
        return true;
    }
    let Err(error) = store.apply(batch, durability) else { return true };
    let refused = refusal(&error);
    for outcome in outcomes.iter_mut().filter(|o| o.is_held()) {
        *outcome = WriteOutcome::Refused(refused);
    }
    false
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
    fn open(ports: Ports<'_>, key: &[u8], first: usize, job: &WriteJob) -> Self {
        let copies = ports.digests.copies(job.key.keyspace);
        let (outline, mut failed) = match ports.outlines.get(key) {
            Some(outline) => (outline, None),
            None => match read(ports.store, key) {
                Ok(record) => {
                    let outline = Outline::of(&record);
                    ports.outlines.put(key, outline.clone());
                    (outline, None)
                }
                // Nobody else holds what was damaged, so nothing better will come than what a client writes now.
                Err(Refused::DamagedRecord) if job.fresh && copies == Some(1) => (Outline::default(), None),
                Err(refused) => (Outline::default(), Some(refused)),
            },
        };
        if copies.is_none() {
            // No record without its part of a sum.
            failed = Some(Refused::UnknownKeyspace);
        }
        let candidates = outline.rows.iter().map(|&row| Candidate { row, fresh: None }).collect();
        let Outline { rows: before, past, .. } = outline;
        let (policy, keyspace, jobs) = (job.policy, job.key.keyspace, Vec::new());
        let (grown, changed, asked, stored) = (false, false, false, None);
        Self { policy, keyspace, first, before, candidates, past, grown, changed, jobs, asked, failed, stored }
    }

    /// The latest clock of any version but this one.
    fn latest_beside(&self, dot: Dot) -> Option<Hlc> {
        self.candidates.iter().filter(|c| c.row.dot != dot).map(|c| c.row.written).max()
    }

    /// Puts the job's version beside what is there, in the place of what it has seen, unless there is a reason not to.
    fn admit(&mut self, i: usize, job: &WriteJob, mints: &Mints) -> WriteOutcome {
        if !job.version.is_intact() {
            return WriteOutcome::Refused(Refused::Damaged);
        }
        let is_here = |dot: &Dot| self.past.covers(*dot) || self.candidates.iter().any(|c| c.row.dot == *dot);
        if !job.beside.iter().all(is_here) {
            return WriteOutcome::Refused(Refused::Busy);
        }
        // Somebody saw it elsewhere and wrote over it: nothing of it is new, whatever its stamp.
        if job.mint.is_none() && self.past.covers(job.version.dot) {
            self.grow(&job.past);
            self.jobs.push(i);
            return WriteOutcome::Held;
        }
        // Also where the version itself is here already: a hint or a late copy may have brought it, below what is here.
        // Between states of a data type stamps decide nothing.
        let stands = |at: &Hlc| job.fresh && !self.policy.typed() && *at >= job.version.written;
        if let Some(latest) = self.latest_beside(job.version.dot).filter(stands) {
            return WriteOutcome::StaleStamp { latest };
        }
        let mut version = job.version.clone();
        if let Some(clock) = job.mint {
            let Some(counter) = mints.next(self.highest(job), clock) else {
                return WriteOutcome::Refused(Refused::Damaged);
            };
            version.dot.counter = counter;
        }
        let dot = version.dot;
        self.grow(&job.past);
        if !self.past.covers(dot) {
            self.put(version, job.replaces);
        }
        self.jobs.push(i);
        self.asked |= job.fresh;
        if job.mint.is_some() { WriteOutcome::Minted { counter: dot.counter } } else { WriteOutcome::Held }
    }

    /// The highest counter that is known of the job's actor.
    fn highest(&self, job: &WriteJob) -> Option<u64> {
        let Dot { node, incarnation, .. } = job.version.dot;
        let ours = |c: &&Candidate| (c.row.dot.node, c.row.dot.incarnation) == (node, incarnation);
        let living = self.candidates.iter().filter(ours).map(|c| c.row.dot.counter).max();
        living.max(self.past.highest(node, incarnation)).max(job.past.highest(node, incarnation))
    }

    /// What these dots name is past.
    fn grow(&mut self, past: &Context) {
        if self.past.unite(past) {
            self.candidates.retain(|c| !self.past.covers(c.row.dot));
            self.grown = true;
            self.changed = true;
        }
    }

    /// `replaces`: a namesake that is another version is known to be a lie of the disk.
    fn put(&mut self, version: Version, replaces: bool) {
        let candidate = Candidate { row: Row::of(&version), fresh: Some(version) };
        match self.candidates.binary_search_by_key(&candidate.row.dot, |c| c.row.dot) {
            Err(at) => self.candidates.insert(at, candidate),
            // Stamped anew by its coordinator, under the dot that it has.
            Ok(at) if self.candidates[at].row.written < candidate.row.written => self.candidates[at] = candidate,
            Ok(at) if replaces && Row { past: 0, ..self.candidates[at].row } != candidate.row => {
                self.candidates[at] = candidate;
            }
            Ok(_) => return,
        }
        self.changed = true;
    }

    /// Keeps the version at `row` alone.
    fn keep(&mut self, row: usize) {
        let only = self.candidates.swap_remove(row);
        if self.policy.causal {
            // What lost must not come back with an owner that has not heard of what won.
            self.candidates.drain(..).for_each(|c| self.past.add(c.row.dot));
            self.grown = true;
        }
        // All but one version were there before, or this one was: either way something may have gone.
        self.changed = self.grown || only.fresh.is_some() || self.candidates.iter().any(|c| c.fresh.is_none());
        self.candidates.clear();
        self.candidates.push(only);
    }

    /// No client adds to more siblings than there may be.
    fn bound(&mut self) {
        if self.asked && self.candidates.len() > SIBLINGS_MAX {
            self.failed = Some(Refused::TooManySiblings);
        }
    }

    /// The record to be written, if it changed. Values that only the store has are read now.
    fn record(&mut self, ports: Ports<'_>, key: &[u8]) -> Result<Option<Record>, Refused> {
        if let Some(refused) = self.failed {
            return Err(refused);
        }
        if !self.changed {
            return Ok(None);
        }
        if self.past.is_too_large() {
            return Err(Refused::ContextTooLarge);
        }
        let mut record = Record::default();
        self.versions(ports, key)?.into_iter().for_each(|version| record.insert(version));
        self.candidates.clear();
        Ok(Some(record.with_past(&self.past)))
    }

    /// The candidates with their values. Those that only the store has are read now.
    fn versions(&mut self, ports: Ports<'_>, key: &[u8]) -> Result<Vec<Version>, Refused> {
        if self.stored.is_none() && self.candidates.iter().any(|c| c.fresh.is_none()) {
            self.stored = Some(read(ports.store, key)?.into_versions());
        }
        let stored = self.stored.as_deref().unwrap_or_default();
        let of = |candidate: &Candidate| {
            let stored = || stored.iter().find(|v| v.dot == candidate.row.dot).cloned();
            candidate.fresh.clone().or_else(stored).ok_or(Refused::Store)
        };
        self.candidates.iter().map(of).collect()
    }

    /// The outline of what the record becomes, and how the sums change with it.
    fn outline(&self, key: &[u8], record: &Record, deltas: &mut Vec<Delta>) -> Outline {
        let outline = Outline::of(record);
        digest::difference(key, self.keyspace, &self.before, &outline.rows, deltas);
        outline
    }

    /// How the tombstone that the record amounts to, if it does, is found again once a seal covers it. Where writers
    /// say what they have seen, tombstones stay.
    fn note(&self, key: &[u8], outline: &Outline) -> Option<Change> {
        let tombstone = note::tombstone(&outline.rows).filter(|_| !self.policy.causal)?;
        Place::of_engine_key(key).map(|place| note::note(place.partition, tombstone.epoch, key))
    }
}

/// The digest of what this owner holds of `key`, where that takes no disk.
#[must_use]
pub fn remembered(outlines: &dyn Outlines, key: &Key, partition_bits: u8) -> Option<ReadOutcome> {
    outlines.get(&key.engine_key(partition_bits)).map(|outline| ReadOutcome::Digest(outline.digest))
}

/// What this owner holds of `key`. A digest that is remembered costs no disk.
#[must_use]
pub fn find(ports: Ports<'_>, key: &Key, want: Want) -> ReadOutcome {
    if let Some(digest) =
        (want == Want::Digest).then(|| remembered(ports.outlines, key, ports.partition_bits)).flatten()
    {
        return digest;
    }
    let key = key.engine_key(ports.partition_bits);
    match (read(ports.store, &key), want) {
        (Ok(record), Want::Record) => ReadOutcome::Record(record),
        (Ok(record), Want::Digest) => ReadOutcome::Digest(record.digest()),
        (Err(refused), _) => ReadOutcome::Refused(refused),
    }
}

fn read(store: &dyn Store, key: &[u8]) -> Result<Record, Refused> {
    let bytes = store.get(Table::Records, key).map_err(|error| refusal(&error))?;
    Record::decode(&bytes.unwrap_or_default()).map_err(|error| match error {
        DecodeError::FutureFormat(_) => Refused::Store,
        DecodeError::Malformed | DecodeError::Damaged => Refused::DamagedRecord,
    })
}

/// Asks each resolver once for all conflicts of the group that are its business.
fn settle(
    resolve: &dyn Resolve,
    jobs: &[WriteJob],
    slots: &mut BTreeMap<Vec<u8>, Slot>,
    gathering: &mut Gathering<'_>,
) -> Figures {
    let mut figures = Figures::default();
    let mut by_resolver: BTreeMap<ResolverHash, (Columns, Vec<&mut Slot>)> = BTreeMap::new();
    for slot in slots.values_mut().filter(|slot| slot.failed.is_none() && slot.candidates.len() > 1) {
        if slot.policy.role != Role::Resolver {
            slot.bound();
            continue;
        }
        let (columns, conflicts) = by_resolver.entry(slot.policy.resolver).or_default();
        describe(slot.candidates.iter().map(|c| c.row), columns);
        conflicts.push(slot);
    }
    for (resolver, (columns, conflicts)) in by_resolver {
        figures.conflicts += conflicts.len() as u64;
        let verdicts = verdicts(resolve, resolver, &columns);
        for (i, slot) in conflicts.into_iter().enumerate() {
            let verdict = verdicts.as_ref().map(|v| v[i]);
            if let Some(verdict) = verdict {
                let rows = slot.candidates.iter().map(|c| c.row);
                gathering.settled(&jobs[slot.first].key, resolver, verdict, |columns| describe(rows, columns));
            }
            match verdict {
                Some(Verdict::Keep(row)) => slot.keep(row as usize),
                Some(Verdict::KeepAll) => {}
                None => figures.unsettled += 1,
            }
            slot.bound();
        }
    }
    figures
}

/// The resolver's verdicts, if they are an answer to the question: a failure never decides.
fn verdicts(resolve: &dyn Resolve, resolver: ResolverHash, columns: &Columns) -> Option<Vec<Verdict>> {
    if resolver == ResolverHash::NOBODY {
        return None;
    }
    let verdicts = resolve.settle(resolver, columns).ok()?;
    columns.fits(&verdicts).then_some(verdicts)
}

fn describe(rows: impl Iterator<Item = Row>, columns: &mut Columns) {
    for row in rows {
        columns.row(row.dot, row.written.0, row.size, row.tombstone, row.digest);
    }
    columns.close();
}

/// Merges what several owners hold of one key, for a reader: what none of them knows to be past, settled.
#[must_use]
pub fn merge(resolve: &dyn Resolve, policy: Policy, records: impl IntoIterator<Item = Record>) -> Record {
    let mut merged = Record::default();
    records.into_iter().for_each(|record| merged.merge(record));
    if merged.versions().len() > 1 && policy.role == Role::Resolver {
        let mut columns = Columns::default();
        describe(merged.versions().iter().map(Row::of), &mut columns);
        if let Some([Verdict::Keep(row)]) = verdicts(resolve, policy.resolver, &columns).as_deref() {
            merged.keep(*row as usize, policy.causal);
        }
    }
    merged
}

/// Versions of one key, for a resolver that looks at values.
#[must_use]
pub fn siblings(key: &Key, versions: &[Version]) -> Siblings {
    let mut columns = Columns::default();
    describe(versions.iter().map(Row::of), &mut columns);
    let key = [&key.partition_key[..], &key.sort_key[..]].concat().into();
    let values = versions.iter().map(|version| version.value.clone().unwrap_or_default()).collect();
    Siblings { key, versions: columns, values }
}

#[cfg(test)]
mod tests;
