//! What a node's disk does for seals: it looks what is kept for others, and removes tombstones that a seal covers.
//!
//! What may be removed, and when, is decided in [`crate::node`]; why it never comes back, in `docs/seals.md`. A purge goes
//! by notes ([`crate::note`]), a part at a time, without an fsync: what a power cut brings back is removed once more, as
//! the mark that says so is gone with it. A partition without a mark is read as a whole.

use crate::digest::{self, Delta};
use crate::event::{HintId, Purge, SealOutcome, SealWork};
use crate::id::{Epoch, Key};
use crate::moves::range;
use crate::note;
use crate::outline::Outline;
use crate::port::{Batch, Change, Durability, StoreError, Table};
use crate::record::Record;
use crate::replica::Ports;
use crate::time::Hlc;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::ControlFlow;

/// Notes, or records, that one part of a purge looks at, so that writes need not wait long for it.
const PART_MAX: usize = 1_000;

/// Does the work.
#[must_use]
pub fn work(ports: Ports<'_>, work: &SealWork) -> SealOutcome {
    let done = match work {
        SealWork::Marks => marks(ports),
        SealWork::Drain { epoch } => drain(ports, *epoch),
        SealWork::Flush => flush(ports).map(|()| SealOutcome::Flushed),
        SealWork::Purge(purge) => part(ports, purge),
    };
    done.unwrap_or(SealOutcome::Failed)
}

fn flush(ports: Ports<'_>) -> Result<(), StoreError> {
    ports.store.apply(Vec::new(), Durability::Sync)
}

fn marks(ports: Ports<'_>) -> Result<SealOutcome, StoreError> {
    let (mut found, (start, end)) = (Vec::new(), note::MARKS_SPAN);
    ports.store.scan(Table::Digests, start, Some(end), &mut |key, value| {
        found.extend(note::read_mark(key, value));
        ControlFlow::Continue(())
    })?;
    Ok(SealOutcome::Marks(found))
}

/// Looks whether a hint of that epoch, or of one before, is kept. If not, it stays so after a power cut.
fn drain(ports: Ports<'_>, epoch: Epoch) -> Result<SealOutcome, StoreError> {
    let (mut keeps, mut least): (_, Option<Hlc>) = (None, None);
    ports.store.scan(Table::Hints, &[], None, &mut |key, _| {
        let Some(id) = HintId::from_engine_key(key) else { return ControlFlow::Continue(()) };
        if id.epoch <= epoch {
            keeps = Some(id.owner);
            return ControlFlow::Break(());
        }
        least = Some(least.map_or(id.written, |least| least.min(id.written)));
        ControlFlow::Continue(())
    })?;
    if let Some(owner) = keeps {
        return Ok(SealOutcome::Keeps(owner));
    }
    flush(ports)?;
    Ok(SealOutcome::Drained { least })
}

/// What a part comes to.
struct Part<'a> {
    ports: Ports<'a>,
    purge: &'a Purge,
    batch: Batch,
    deltas: Vec<Delta>,
    /// A record may have several notes.
    gone: BTreeSet<Bytes>,
}

/// What is to be done about a record.
enum Verdict {
    /// It is removed.
    Goes,
    /// It is a tombstone that a later seal may cover, of that epoch.
    Waits(Epoch),
    /// Something else.
    Stays,
    /// It can't be read: nobody knows.
    Unknown,
}

fn part(ports: Ports<'_>, purge: &Purge) -> Result<SealOutcome, StoreError> {
    let mut part = Part { ports, purge, batch: Vec::new(), deltas: Vec::new(), gone: BTreeSet::new() };
    let next = if purge.whole { part.records()? } else { part.notes()? };
    let Part { mut batch, deltas, gone, .. } = part;
    if next.is_none() {
        batch.push(note::mark(purge.partition, purge.seal));
    }
    if !batch.is_empty() {
        batch.extend(ports.digests.stage(deltas));
        let done = ports.store.apply(batch, Durability::Os);
        ports.digests.settle(done.is_ok());
        gone.iter().for_each(|key| ports.outlines.forget(key));
        done?;
    }
    Ok(SealOutcome::Purged { removed: gone.len() as u64, next })
}

impl Part<'_> {
    /// Goes by the notes; where the next part goes on.
    fn notes(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Purge { partition, seal, after, .. } = self.purge;
        let (start, end) = note::notes_span(*partition, seal.epoch);
        let start = if after.is_empty() { start } else { [&after[..], &[0]].concat().into() };
        let mut keys: Vec<Bytes> = Vec::new();
        self.ports.store.scan(Table::Digests, &start, Some(&end), &mut |key, _| {
            keys.push(Bytes::copy_from_slice(key));
            if keys.len() == PART_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        for key in &keys {
            let Some((epoch, engine_key)) = note::read_note_key(key) else { continue };
            let value = self.ports.store.get(Table::Records, engine_key)?.unwrap_or_default();
            let engine_key = key.slice_ref(engine_key);
            // One that waits has a note of its own epoch.
            let done = match self.look(&engine_key, &value) {
                Verdict::Goes | Verdict::Stays => true,
                Verdict::Waits(noted) => noted != epoch,
                Verdict::Unknown => false,
            };
            if done {
                self.batch.push(Change::Delete { table: Table::Digests, key: key.clone() });
            }
        }
        Ok(keys.pop().filter(|_| keys.len() + 1 == PART_MAX))
    }

    /// Looks at all records; where the next part goes on.
    fn records(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Purge { partition, after, .. } = self.purge;
        let (start, end) = range(*partition);
        let start = if after.is_empty() { start } else { [&after[..], &[0]].concat().into() };
        let mut rows: Vec<(Bytes, Bytes)> = Vec::new();
        self.ports.store.scan(Table::Records, &start, Some(&end), &mut |key, value| {
            rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            if rows.len() == PART_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        for (key, value) in &rows {
            if let Verdict::Waits(epoch) = self.look(key, value) {
                self.batch.push(note::note(*partition, epoch, key));
            }
        }
        Ok(rows.pop().map(|(key, _)| key).filter(|_| rows.len() + 1 == PART_MAX))
    }

    fn look(&mut self, engine_key: &Bytes, value: &Bytes) -> Verdict {
        let Some(keyspace) = Key::from_engine_key(engine_key).map(|key| key.keyspace) else { return Verdict::Stays };
        if !self.purge.keyspaces.contains(&keyspace) {
            return Verdict::Stays;
        }
        let copies = self.ports.digests.copies(keyspace);
        let (Ok(record), Some(copies)) = (Record::decode(value), copies) else { return Verdict::Unknown };
        let rows = Outline::of(&record).rows;
        let Some(tombstone) = note::tombstone(&rows) else { return Verdict::Stays };
        if !self.purge.seal.covers(tombstone.epoch, tombstone.written) {
            return Verdict::Waits(tombstone.epoch);
        }
        if self.gone.insert(engine_key.clone()) {
            digest::difference(engine_key, copies, &rows, &[], &mut self.deltas);
            self.batch.push(Change::Delete { table: Table::Records, key: engine_key.clone() });
        }
        Verdict::Goes
    }
}
