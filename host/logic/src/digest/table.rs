//! The sums of one node: in memory, and how they reach the disk and come back.

use super::codec;
use super::part::Part;
use super::{Age, Buckets, Contributions, Delta, Range, Sums, difference, nothing};
use crate::id::{BUCKETS, Epoch, Key, KeyspaceId, PartitionId};
use crate::outline::Outline;
use crate::port::{Batch, Change, Durability, Read, Store, StoreError, Table};
use crate::record::Record;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::ControlFlow;

/// Deltas for which one full page is written, the oldest: a page is at most 48 KiB, so about 24 bytes per delta. One
/// with fewer sums is written for fewer deltas.
pub const FLUSH_EVERY: usize = 2_048;

/// Sums of a full page: those of the base and of two epochs.
const PAGE_SUMS_MAX: usize = 3 * BUCKETS as usize;

/// What a page costs beside its sums, in sums.
const PAGE_COST: usize = 32;

/// What a log entry costs beside its deltas, in deltas: so that many small commits are bounded like few large ones.
const ENTRY_COST: usize = 3;

/// Log entries that are dropped together.
const TRIM_EVERY: u64 = 1_024;

/// Records after which whoever watches a recomputation hears of it.
const WATCH_EVERY: u64 = 1_024;

/// Pages of one batch while all of them are written anew, so that the batch stays small.
const REBUILD_PAGES_MAX: usize = 64;

/// The sums of one keyspace in one partition.
pub(super) type PageId = (PartitionId, KeyspaceId);

/// Sums of one [`PageId`] by epoch: the two latest epochs on their own, all before them as one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Page {
    base: Part,
    /// At most two, the latest last: never with a gap of more than one between them.
    epochs: Vec<(Epoch, Part)>,
    /// The first commit that the stored form lacks.
    dirty: Option<u64>,
}

impl Page {
    fn newest(&self) -> Epoch {
        self.epochs.last().map_or(Epoch(0), |(epoch, _)| *epoch)
    }

    fn add(&mut self, delta: &Delta) {
        if self.epochs.is_empty() || delta.epoch > self.newest() {
            self.epochs.push((delta.epoch, Part::default()));
            self.fold();
        }
        let previous = self.newest().0.saturating_sub(1);
        if delta.epoch.0 == previous && self.epochs.iter().all(|(epoch, _)| *epoch != delta.epoch) {
            self.epochs.insert(0, (delta.epoch, Part::default()));
        }
        let own = self.epochs.iter_mut().find(|(epoch, _)| *epoch == delta.epoch);
        own.map_or(&mut self.base, |(_, sums)| sums).add(delta.bucket, delta.sum);
    }

    /// Epochs before the two latest become one.
    fn fold(&mut self) {
        let kept = self.newest().0.saturating_sub(1);
        while let Some((epoch, _)) = self.epochs.first().filter(|(epoch, _)| epoch.0 < kept) {
            debug_assert!(epoch.0 < kept);
            let (_, sums) = self.epochs.remove(0);
            sums.iter().for_each(|(bucket, sum)| self.base.add(bucket, sum));
        }
    }

    /// The epoch as which [`Self::add`] counts `epoch`: all that are folded are one.
    fn part_of(&self, epoch: Epoch) -> Epoch {
        if epoch.0.saturating_add(1) < self.newest().0 { Epoch(0) } else { epoch }
    }

    /// Adds the sums of `age`, seen from `current`, to `into`. False when they are folded together with others.
    fn add_to(&self, current: Epoch, age: Age, into: &mut Sums) -> bool {
        if self.newest() > current && age != Age::Any {
            return false;
        }
        let base = matches!(age, Age::Closed | Age::Any).then_some(&self.base);
        let own = self.epochs.iter().filter(|(epoch, _)| age.spans(*epoch, current));
        for sums in base.into_iter().chain(own.map(|(_, sums)| sums)) {
            for (bucket, sum) in sums.iter() {
                let all = &mut into[usize::from(bucket)];
                *all = all.wrapping_add(sum);
            }
        }
        true
    }

    /// The base (as of epoch 0) and the epochs, for the stored form.
    pub(super) fn parts(&self) -> Vec<(Epoch, &Part)> {
        let base = [(Epoch(0), &self.base)];
        base.into_iter().chain(self.epochs.iter().map(|(epoch, sums)| (*epoch, sums))).collect()
    }

    /// What it costs to write it, in deltas.
    fn cost(&self) -> usize {
        let sums = self.base.weight() + self.epochs.iter().map(|(_, sums)| sums.weight()).sum::<usize>();
        (FLUSH_EVERY * (PAGE_COST + sums)).div_ceil(PAGE_SUMS_MAX).min(FLUSH_EVERY)
    }

    /// The reverse of [`Self::parts`]; `None` when the parts can't be those of a page.
    pub(super) fn of_parts(mut parts: Vec<(Epoch, Part)>) -> Option<Self> {
        if parts.is_empty() || parts.len() > 3 {
            return None;
        }
        let (_, base) = parts.remove(0);
        Some(Self { base, epochs: parts, dirty: None })
    }
}

/// What waits for the engine's commit.
#[derive(Debug)]
struct Staged {
    deltas: Vec<Delta>,
    flushed: Vec<PageId>,
    credit: usize,
    trimmed: u64,
}

/// All sums of one node, and what of them lies on the disk.
#[derive(Debug, Default)]
pub struct DigestTable {
    copies: BTreeMap<KeyspaceId, u8>,
    pages: BTreeMap<PageId, Page>,
    /// Pages whose stored form lacks commits, by the first of them.
    dirty: BTreeSet<(u64, PageId)>,
    /// The mark is on the disk.
    marked: bool,
    /// Number of the next commit, from 1.
    next: u64,
    /// Deltas since a page was written last.
    credit: usize,
    /// Log entries before this one were dropped.
    trimmed: u64,
    staged: Option<Staged>,
}

impl DigestTable {
    /// The sums that lie in `store`. Where there are none, or damaged ones, they are recomputed from the records and
    /// written. `keyspaces` says how many copies each keyspace has, as in [`Self::learn`].
    ///
    /// # Errors
    /// When the store can't read or write. A rebuild that was cut short begins anew at the next opening.
    pub fn open(store: &dyn Store, keyspaces: impl IntoIterator<Item = (KeyspaceId, u8)>) -> Result<Self, StoreError> {
        let table = Self::open_watched(store, keyspaces, &mut |_| true)?;
        // Nobody stops it.
        Ok(table.unwrap_or_default())
    }

    /// The same, which may take minutes where sums are recomputed: `watch` hears now and then how many records were
    /// read, and ends it by `false`. `None`: it did.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_watched(
        store: &dyn Store,
        keyspaces: impl IntoIterator<Item = (KeyspaceId, u8)>,
        watch: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Self>, StoreError> {
        let copies: BTreeMap<_, _> = keyspaces.into_iter().collect();
        if let Some(mut table) = Self::load(store)? {
            table.copies = copies;
            return Ok(Some(table));
        }
        let Some(mut table) = recompute_watched(store, copies, watch)? else { return Ok(None) };
        (table.next, table.trimmed) = (1, 1);
        // Where there are no records, what was not believed must go all the same: later commits would stand beside it.
        if !table.pages.is_empty() || store.get(Table::Digests, codec::MARK)?.is_some() {
            table.rewrite(store)?;
        }
        Ok(Some(table))
    }

    /// The stored sums; `None` when they are not there or damaged.
    fn load(store: &dyn Store) -> Result<Option<Self>, StoreError> {
        if store.get(Table::Digests, codec::MARK)?.is_none_or(|mark| mark != codec::FORMAT) {
            return Ok(None);
        }
        let mut table = Self { marked: true, next: 1, ..Self::default() };
        let mut intact = true;
        let mut last: BTreeMap<PageId, u64> = BTreeMap::new();
        store.scan(Table::Digests, codec::PAGES, Some(codec::LOG), &mut |key, value| {
            let page = codec::read_page_key(key).zip(codec::decode_page(value));
            intact = page.is_some();
            page.map_or(ControlFlow::Break(()), |(id, (page, commit))| {
                table.pages.insert(id, page);
                table.next = table.next.max(commit.saturating_add(1));
                last.insert(id, commit);
                ControlFlow::Continue(())
            })
        })?;
        if !intact {
            return Ok(None);
        }
        store.scan(Table::Digests, codec::LOG, Some(codec::LOG_END), &mut |key, value| {
            let entry = codec::read_log_key(key).zip(codec::decode_deltas(value));
            intact = entry.is_some();
            entry.map_or(ControlFlow::Break(()), |(commit, deltas)| {
                let missing =
                    |delta: &&Delta| last.get(&(delta.partition, delta.keyspace)).is_none_or(|last| *last < commit);
                table.apply(commit, deltas.iter().filter(missing));
                table.trimmed = if table.trimmed == 0 { commit } else { table.trimmed };
                table.next = table.next.max(commit.saturating_add(1));
                ControlFlow::Continue(())
            })
        })?;
        if table.trimmed == 0 {
            table.trimmed = table.next;
        }
        Ok(intact.then_some(table))
    }

    /// Writes all pages, and last the mark: until then the next opening begins anew.
    fn rewrite(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let (start, end) = (Bytes::from_static(codec::MARK), Bytes::from_static(codec::LOG_END));
        store.apply(alloc::vec![Change::DeleteRange { table: Table::Digests, start, end }], Durability::Sync)?;
        let pages: Vec<_> = self.pages.iter().collect();
        for pages in pages.chunks(REBUILD_PAGES_MAX) {
            let put = |(id, page): &(&PageId, &Page)| codec::put(codec::page_key(**id), codec::encode_page(page, 0));
            store.apply(pages.iter().map(put).collect(), Durability::Os)?;
        }
        store.apply(alloc::vec![codec::put(codec::MARK, codec::FORMAT)], Durability::Sync)?;
        self.pages.values_mut().for_each(|page| page.dirty = None);
        self.dirty.clear();
        self.marked = true;
        Ok(())
    }

    /// Takes in how many owners keyspaces have, the most in any table in force.
    pub fn learn(&mut self, keyspaces: impl IntoIterator<Item = (KeyspaceId, u8)>) {
        self.copies.extend(keyspaces);
    }

    /// See [`super::Digests::copies`].
    #[must_use]
    pub fn copies(&self, keyspace: KeyspaceId) -> Option<u8> {
        self.copies.get(&keyspace).copied()
    }

    /// See [`super::Digests::stage`].
    pub fn stage(&mut self, deltas: Vec<Delta>) -> Batch {
        debug_assert!(self.staged.is_none(), "each stage is settled before the next one");
        let mut batch = Vec::new();
        if deltas.is_empty() {
            return batch;
        }
        if !self.marked {
            batch.push(codec::put(codec::MARK, codec::FORMAT));
        }
        batch.push(codec::put(codec::log_key(self.next), codec::encode_deltas(&deltas)));
        let mut credit = self.credit + deltas.len() + ENTRY_COST;
        let mut flushed = Vec::new();
        for (_, id) in &self.dirty {
            let Some(left) = credit.checked_sub(self.pages[id].cost()) else { break };
            // As of the commit before this one: whether this one succeeds is not known yet.
            batch.push(codec::put(codec::page_key(*id), codec::encode_page(&self.pages[id], self.next - 1)));
            flushed.push(*id);
            credit = left;
        }
        let needed = self.dirty.first().map_or(self.next, |(commit, _)| *commit);
        let mut trimmed = self.trimmed;
        if needed >= trimmed + TRIM_EVERY {
            let (start, end) = (codec::log_key(trimmed).into(), codec::log_key(needed).into());
            batch.push(Change::DeleteRange { table: Table::Digests, start, end });
            trimmed = needed;
        }
        // Nothing to flush is nothing to save up for.
        let credit = credit.min(FLUSH_EVERY);
        self.staged = Some(Staged { deltas, flushed, credit, trimmed });
        batch
    }

    /// See [`super::Digests::settle`].
    pub fn settle(&mut self, committed: bool) {
        let Some(staged) = self.staged.take().filter(|_| committed) else { return };
        for id in staged.flushed {
            let dirty = self.pages.get_mut(&id).and_then(|page| page.dirty.take());
            if let Some(commit) = dirty {
                self.dirty.remove(&(commit, id));
            }
        }
        self.apply(self.next, staged.deltas.iter());
        self.next += 1;
        self.marked = true;
        self.credit = staged.credit;
        self.trimmed = staged.trimmed;
    }

    fn apply<'a>(&mut self, commit: u64, deltas: impl Iterator<Item = &'a Delta>) {
        for delta in deltas {
            let id = (delta.partition, delta.keyspace);
            let page = self.pages.entry(id).or_default();
            page.add(delta);
            if page.dirty.is_none() {
                page.dirty = Some(commit);
                self.dirty.insert((commit, id));
            }
        }
    }

    /// See [`super::Digests::sums`].
    #[must_use]
    pub fn sums(&self, range: Range) -> Option<Sums> {
        let mut sums = nothing();
        let shared = |keyspace| self.copies(keyspace).is_some_and(|copies| copies >= range.copies_min);
        for (_, page) in self.of(range.partition).filter(|(keyspace, _)| shared(*keyspace)) {
            if !page.add_to(range.epoch, range.age, &mut sums) {
                return None;
            }
        }
        Some(sums)
    }

    /// See [`super::Digests::correct`].
    #[must_use]
    pub fn correct(
        &self,
        partition: PartitionId,
        bucket: u16,
        records: &BTreeMap<(KeyspaceId, Epoch), u128>,
    ) -> Vec<Delta> {
        let mut deltas: BTreeMap<(KeyspaceId, Epoch), u128> = BTreeMap::new();
        for (&(keyspace, epoch), &sum) in records {
            let kept = self.pages.get(&(partition, keyspace)).map_or(epoch, |page| page.part_of(epoch));
            let delta = deltas.entry((keyspace, kept)).or_default();
            *delta = delta.wrapping_add(sum);
        }
        for (keyspace, page) in self.of(partition) {
            for (epoch, sums) in page.parts() {
                let delta = deltas.entry((keyspace, page.part_of(epoch))).or_default();
                *delta = delta.wrapping_sub(sums.get(bucket));
            }
        }
        let changed = deltas.into_iter().filter(|(_, sum)| *sum != 0);
        changed.map(|((keyspace, epoch), sum)| Delta { partition, keyspace, bucket, epoch, sum }).collect()
    }

    /// See [`super::Digests::held`].
    #[must_use]
    pub fn held(&self) -> Vec<(PartitionId, u8)> {
        let some = |page: &Page| page.parts().iter().any(|(_, sums)| sums.iter().next().is_some());
        let held = self.pages.iter().filter(|(_, page)| some(page)).map(|(id, _)| *id);
        let held = held.filter_map(|(partition, keyspace)| Some((partition, self.copies(keyspace)?)));
        held.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// See [`super::Digests::differing`].
    #[must_use]
    pub fn differing(&self, partition: PartitionId, buckets: Buckets, records: &Contributions) -> Vec<u16> {
        let mut found: Contributions = BTreeMap::new();
        for (&(keyspace, bucket, epoch), &sum) in records {
            let part = self.pages.get(&(partition, keyspace)).map_or(epoch, |page| page.part_of(epoch));
            let all = found.entry((keyspace, bucket, part)).or_default();
            *all = all.wrapping_add(sum);
        }
        for (keyspace, page) in self.of(partition) {
            for (epoch, sums) in page.parts() {
                let part = page.part_of(epoch);
                // Most buckets of a small partition are empty: those cost no look-up.
                for (bucket, kept) in sums.iter().filter(|(bucket, _)| buckets.contains(bucket)) {
                    let left = found.entry((keyspace, bucket, part)).or_default();
                    *left = left.wrapping_sub(kept);
                }
            }
        }
        let differ: BTreeSet<u16> = found.into_iter().filter(|(_, left)| *left != 0).map(|((_, b, _), _)| b).collect();
        differ.into_iter().collect()
    }

    /// Partitions that have sums, each with its keyspaces.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, KeyspaceId)> + '_ {
        self.pages.keys().copied()
    }

    /// The pages of a partition.
    fn of(&self, partition: PartitionId) -> impl Iterator<Item = (KeyspaceId, &Page)> {
        let all = (partition, KeyspaceId(0))..=(partition, KeyspaceId(u32::MAX));
        self.pages.range(all).map(|((_, keyspace), page)| (*keyspace, page))
    }

    /// Log entries that an opening would read now.
    #[must_use]
    pub fn log_entries(&self) -> u64 {
        self.next.saturating_sub(self.trimmed)
    }
}

/// The sums as the records say, whatever is kept of them. Reads every record; damaged ones, and those of unknown
/// keyspaces, count for nothing.
///
/// # Errors
/// When the store can't read.
pub fn recompute(store: &dyn Read, copies: BTreeMap<KeyspaceId, u8>) -> Result<DigestTable, StoreError> {
    recompute_watched(store, copies, &mut |_| true).map(Option::unwrap_or_default)
}

fn recompute_watched(
    store: &dyn Read,
    copies: BTreeMap<KeyspaceId, u8>,
    watch: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<DigestTable>, StoreError> {
    let mut table = DigestTable { copies, ..DigestTable::default() };
    let mut deltas = Vec::new();
    let (mut records, mut goes_on) = (0u64, true);
    store.scan(Table::Records, &[], None, &mut |key, value| {
        records += 1;
        if records.is_multiple_of(WATCH_EVERY) {
            goes_on = watch(records);
            if !goes_on {
                return ControlFlow::Break(());
            }
        }
        let record = Record::decode(&Bytes::copy_from_slice(value)).ok();
        let keyspace = Key::from_engine_key(key).map(|key| key.keyspace);
        let keyspace = keyspace.filter(|keyspace| table.copies(*keyspace).is_some());
        if let Some((record, keyspace)) = record.zip(keyspace) {
            difference(key, keyspace, &[], &Outline::of(&record).rows, &mut deltas);
            table.apply(0, deltas.iter());
            deltas.clear();
        }
        ControlFlow::Continue(())
    })?;
    Ok(goes_on.then_some(table))
}
