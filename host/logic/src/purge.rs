//! What a node's disk does for seals: it looks what is kept for others, and removes tombstones that a seal covers.
//!
//! What may be removed, and when, is decided in [`crate::node`]; why it never comes back, in `docs/seals.md`. A purge
//! goes by notes ([`crate::note`]), a part at a time, without an fsync: what a power cut brings back is removed once
//! more, as the mark that says so is gone with it. A partition without a mark is read as a whole.

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
    /// It is removed: a tombstone of that epoch.
    Goes(Epoch),
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
                Verdict::Goes(_) | Verdict::Stays => true,
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
            match self.look(key, value) {
                Verdict::Waits(epoch) => self.batch.push(note::note(*partition, epoch, key)),
                Verdict::Goes(epoch) => {
                    let key = note::note_key(*partition, epoch, key);
                    self.batch.push(Change::Delete { table: Table::Digests, key });
                }
                Verdict::Stays | Verdict::Unknown => {}
            }
        }
        Ok(rows.pop().map(|(key, _)| key).filter(|_| rows.len() + 1 == PART_MAX))
    }

    fn look(&mut self, engine_key: &Bytes, value: &Bytes) -> Verdict {
        let Some(keyspace) = Key::from_engine_key(engine_key).map(|key| key.keyspace) else { return Verdict::Stays };
        if !self.purge.keyspaces.contains(&keyspace) {
            return Verdict::Stays;
        }
        let known = self.ports.digests.copies(keyspace);
        let (Ok(record), Some(_)) = (Record::decode(value), known) else { return Verdict::Unknown };
        let rows = Outline::of(&record).rows;
        let Some(tombstone) = note::tombstone(&rows) else { return Verdict::Stays };
        if !self.purge.seal.covers(tombstone.epoch, tombstone.written) {
            return Verdict::Waits(tombstone.epoch);
        }
        if self.gone.insert(engine_key.clone()) {
            digest::difference(engine_key, keyspace, &rows, &[], &mut self.deltas);
            self.batch.push(Change::Delete { table: Table::Records, key: engine_key.clone() });
        }
        Verdict::Goes(tombstone.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Mark;
    use crate::event::{Hint, HintJob, HintWork, JobId, WriteJob};
    use crate::hint;
    use crate::id::{NodeId, PartitionId};
    use crate::port::{Read, Store};
    use crate::replica::absorb;
    use crate::testing::{CARTS, Disk, FIRST, LWW, PARTITION_BITS, Rules, job, key, version};
    use crate::version::Version;

    fn mark(epoch: u64, clock: u64) -> Mark {
        Mark { epoch: Epoch(epoch), clock: Hlc(clock) }
    }

    fn write(disk: &Disk, name: &str, (epoch, stamp): (u64, u64), value: Option<&str>) {
        let version = Version { epoch: Epoch(epoch), ..version(1, stamp, Hlc(stamp), value) };
        let jobs = [WriteJob { fresh: false, durability: Durability::Os, ..job(&key(name), version) }];
        assert!(absorb(disk.ports(&Rules::Work), &jobs).0[0].is_held());
    }

    /// Purges all partitions: how many records went.
    fn purge(disk: &Disk, seal: Mark, whole: bool) -> u64 {
        let all = (0..1 << PARTITION_BITS).map(PartitionId);
        all.map(|partition| {
            let (mut after, mut all) = (Bytes::new(), 0);
            loop {
                let purge = Purge { partition, seal, keyspaces: alloc::vec![LWW], whole, after };
                match work(disk.ports(&Rules::Work), &SealWork::Purge(purge)) {
                    SealOutcome::Purged { removed, next: None } => return all + removed,
                    SealOutcome::Purged { removed, next: Some(next) } => (all, after) = (all + removed, next),
                    other => panic!("{other:?}"),
                }
            }
        })
        .sum()
    }

    fn notes(disk: &Disk) -> usize {
        let mut notes = 0;
        let scanned = disk.scan(Table::Digests, note::MARKS_SPAN.1, None, &mut |key, _| {
            notes += usize::from(note::read_note_key(key).is_some());
            ControlFlow::Continue(())
        });
        scanned.unwrap();
        notes
    }

    fn assert_sums(disk: &Disk) {
        let kept: Vec<_> = disk.digests(|digests| digests.held());
        assert_eq!(kept, disk.recomputed().held());
    }

    #[test]
    fn what_a_seal_covers_goes_and_nothing_else() {
        let disk = Disk::default();
        write(&disk, "value", (3, 10), Some("v"));
        write(&disk, "covered", (3, 11), None);
        write(&disk, "later epoch", (5, 12), None);
        write(&disk, "later clock", (4, 90), None);
        write(&disk, "written again", (3, 13), None);
        write(&disk, "written again", (4, 20), Some("v"));
        assert_eq!(purge(&disk, mark(4, 50), false), 1);
        let there = |name: &str| !disk.record(&key(name)).is_empty();
        assert!(!there("covered") && ["value", "later epoch", "later clock", "written again"].into_iter().all(there));
        assert_eq!(notes(&disk), 2, "of those that wait for a later seal");
        assert_sums(&disk);
        assert_eq!((purge(&disk, mark(6, 100), false), notes(&disk)), (2, 0));
        assert_sums(&disk);
    }

    #[test]
    fn a_key_that_was_deleted_in_several_epochs_is_removed_once() {
        let disk = Disk::default();
        for (epoch, stamp) in [(3, 10), (4, 20), (5, 30)] {
            write(&disk, "k", (epoch, stamp), None);
        }
        assert_eq!(notes(&disk), 3);
        assert_eq!((purge(&disk, mark(9, 90), false), notes(&disk)), (1, 0));
        assert_sums(&disk);
    }

    #[test]
    fn many_go_in_parts() {
        let disk = Disk::default();
        for i in 0..3_000 {
            write(&disk, &format!("k{i}"), (3, 10 + i), None);
        }
        assert_eq!((purge(&disk, mark(9, 9_000), false), notes(&disk)), (3_000, 0));
        assert!(disk.digests(|digests| digests.held()).is_empty());
    }

    #[test]
    fn a_partition_without_a_mark_is_read_as_a_whole() {
        let disk = Disk::default();
        write(&disk, "old", (3, 10), None);
        write(&disk, "new", (8, 80), None);
        for partition in (0..1 << PARTITION_BITS).map(PartitionId) {
            disk.apply(note::forget(partition).into(), Durability::Os).unwrap();
        }
        assert_eq!((notes(&disk), purge(&disk, mark(4, 50), false)), (0, 0), "nobody told");
        assert_eq!((purge(&disk, mark(4, 50), true), notes(&disk)), (1, 1), "what waits is noted now");
        assert_eq!(purge(&disk, mark(9, 90), false), 1);
    }

    #[test]
    fn a_partition_that_is_read_as_a_whole_keeps_no_note_of_what_went() {
        let disk = Disk::default();
        write(&disk, "old", (3, 10), None);
        write(&disk, "new", (8, 80), None);
        assert_eq!((purge(&disk, mark(4, 50), true), notes(&disk)), (1, 1));
    }

    #[test]
    fn where_another_rule_than_the_last_write_decides_tombstones_stay() {
        let disk = Disk::default();
        for keyspace in [FIRST, CARTS] {
            let version = Version { epoch: Epoch(3), ..version(1, 10, Hlc(10), None) };
            let mut write = job(&crate::id::Key { keyspace, ..key("k") }, version);
            write.policy.causal = keyspace == CARTS;
            assert!(absorb(disk.ports(&Rules::Fail), &[write]).0[0].is_held());
        }
        assert_eq!(notes(&disk), 1, "none in the causal one");
        assert_eq!((purge(&disk, mark(9, 90), true), purge(&disk, mark(9, 90), false)), (0, 0));
    }

    #[test]
    fn what_a_power_cut_brings_back_comes_back_with_its_mark() {
        let disk = Disk::default();
        let marks = || match work(disk.ports(&Rules::Work), &SealWork::Marks) {
            SealOutcome::Marks(marks) => marks,
            other => panic!("{other:?}"),
        };
        write(&disk, "k", (3, 10), None);
        purge(&disk, mark(2, 5), false);
        assert_eq!(work(disk.ports(&Rules::Work), &SealWork::Flush), SealOutcome::Flushed);
        assert_eq!(purge(&disk, mark(4, 50), false), 1);
        assert!(marks().iter().all(|(_, marked)| *marked == mark(4, 50)) && marks().len() == 1 << PARTITION_BITS);
        disk.lose_power();
        assert!(!disk.record(&key("k")).is_empty() && marks().iter().all(|(_, marked)| *marked == mark(2, 5)));
        assert_eq!(purge(&disk, mark(4, 50), false), 1);
        assert_sums(&disk);
    }

    #[test]
    fn a_damaged_record_keeps_its_note() {
        let disk = Disk::default();
        write(&disk, "k", (3, 10), None);
        disk.damage(&key("k"));
        assert_eq!((purge(&disk, mark(9, 90), false), notes(&disk)), (0, 1));
    }

    #[test]
    fn a_disk_is_drained_when_it_keeps_no_hint_of_that_epoch_or_before_durably() {
        let disk = Disk::default();
        let drain = |epoch| work(disk.ports(&Rules::Work), &SealWork::Drain { epoch: Epoch(epoch) });
        assert_eq!(drain(3), SealOutcome::Drained { least: None });
        let kept = |epoch: u64, stamp: u64| {
            let version = Version { epoch: Epoch(epoch), ..version(1, stamp, Hlc(stamp), Some("v")) };
            let Version { dot, written, epoch, .. } = version;
            let id = HintId { owner: NodeId(3), partition: PartitionId(1), epoch, written, dot };
            let hint = Hint { id, key: key("k"), version, past: crate::context::Context::default(), counted: false };
            let work = HintWork::Keep(hint, Durability::Os);
            hint::work(&disk, &[HintJob { job: JobId(1), work }]);
            id
        };
        let (old, _) = (kept(3, 70), kept(5, 60));
        assert_eq!(
            (drain(3), drain(2)),
            (SealOutcome::Keeps(NodeId(3)), SealOutcome::Drained { least: Some(Hlc(60)) })
        );
        hint::work(&disk, &[HintJob { job: JobId(1), work: HintWork::Drop(alloc::vec![old]) }]);
        assert_eq!(drain(3), SealOutcome::Drained { least: Some(Hlc(60)) });
        disk.lose_power();
        assert_eq!(drain(3), SealOutcome::Drained { least: Some(Hlc(60)) }, "it stays so");
        disk.fail(Some(StoreError::Io("it was told to".into())));
        assert_eq!(drain(3), SealOutcome::Failed);
    }
}
