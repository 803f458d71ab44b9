//! Adapters in front of an engine: each makes something else of the values on their way to it, and the same again on
//! their way back.
//!
//! What passes through them is what users wrote: records, hints, and damaged records that are kept for people. The log,
//! the small facts and the sums have nothing of users in them, and are written too often to pay for it.
//!
//! Guests have little memory, so no call takes more than [`CALL_BYTES`], and a long value goes in parts. How a value
//! lies in the engine:
//!
//! ```text
//! 1, length, packed                      up to PART_BYTES
//! 2, length, lengths of the packed parts, packed parts
//! ```
//!
//! All lengths are varints. The first is the value's own: a call is bounded by what will come out of it, and what
//! comes out is checked.

use crate::engine::KEYS_END;
use bytes::{BufMut, Bytes};
use mks_logic::port::{
    Adapt, AdaptError, Batch, Change, Durability, Read, Rows, Store, StoreError, StoreStats, Table, UNREADABLE,
    Unpacked, Visit,
};
use mks_logic::scrub::QUARANTINE;
use std::mem;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Longest part of a value, bytes.
const PART_BYTES: usize = 1 << 20;

/// Values of one call, bytes, before they are packed. Only the last one goes beyond.
const CALL_BYTES: usize = 1 << 20;

/// Rows of a scan's first page, and of its later ones: each is twice as long as the one before.
const PAGE_ROWS_MIN: usize = 16;
const PAGE_ROWS_MAX: usize = 512;

/// First byte of a value in one part, and of one in several.
const WHOLE: u8 = 1;
const PARTS: u8 = 2;

/// The adapters of a store, the one nearest to the node first.
#[derive(Clone, Default)]
pub(crate) struct Chain(Vec<Arc<dyn Adapt>>);

/// One value that is to be packed or unpacked: its key, and what there is of it.
type Entry<'a> = (&'a [u8], &'a [u8]);

impl Chain {
    pub(crate) fn new(adapters: Vec<Arc<dyn Adapt>>) -> Self {
        Self(adapters)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Packs what passes through the adapters.
    ///
    /// # Errors
    /// When an adapter fails: nothing of the batch may be written then.
    pub(crate) fn pack(&self, mut batch: Batch) -> Result<Batch, StoreError> {
        if self.is_empty() {
            return Ok(batch);
        }
        let mut calls = Calls::default();
        for change in &batch {
            if let Change::Put { table, key, value } = change
                && covers(*table, key)
            {
                calls.add_parts(*table, key, split(value), value.len());
            }
        }
        for rows in &mut calls.calls {
            self.0.iter().try_for_each(|adapter| adapter.pack(rows)).map_err(failed)?;
        }
        let mut packed = calls.calls.iter().flat_map(Rows::iter);
        for change in &mut batch {
            if let Change::Put { table, key, value } = change
                && covers(*table, key)
            {
                let parts: Vec<&[u8]> = packed.by_ref().take(parts_of(value.len())).collect();
                *value = join(value.len(), &parts);
            }
        }
        Ok(batch)
    }

    pub(crate) fn get(&self, from: &dyn Read, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let Some(stored) = from.get(table, key)? else { return Ok(None) };
        if self.is_empty() || !covers(table, key) {
            return Ok(Some(stored));
        }
        let values = self.unpack(table, &[(key, &stored)])?;
        Ok(values.into_iter().next().map(Bytes::from))
    }

    pub(crate) fn scan(
        &self,
        from: &dyn Read,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), StoreError> {
        if self.is_empty() || !covers_some(table, end) {
            return from.scan(table, start, end, visit);
        }
        let mut page = Page { rows_max: PAGE_ROWS_MIN, ..Page::default() };
        let mut failed = None;
        let scanned = from.scan(table, start, end, &mut |key, value| {
            if page.add(key, value) {
                return ControlFlow::Continue(());
            }
            self.show(table, page.turn(), visit).unwrap_or_else(|error| {
                failed = Some(error);
                ControlFlow::Break(())
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
        match self.show(table, page.turn(), visit)? {
            ControlFlow::Continue(()) => scanned,
            ControlFlow::Break(()) => Ok(()),
        }
    }

    /// Shows a page of stored entries to a visitor, and says whether he wants more.
    fn show(
        &self,
        table: Table,
        page: Vec<(Vec<u8>, Vec<u8>)>,
        visit: Visit<'_>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let covered = page.iter().filter(|(key, _)| covers(table, key));
        let covered: Vec<Entry<'_>> = covered.map(|(key, value)| (&key[..], &value[..])).collect();
        let mut values = self.unpack(table, &covered)?.into_iter();
        for (key, stored) in &page {
            let value = if covers(table, key) { values.next() } else { None };
            if visit(key, value.as_deref().unwrap_or(stored)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The value of each entry, or its bytes behind [`UNREADABLE`].
    fn unpack(&self, table: Table, entries: &[Entry<'_>]) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut calls = Calls::default();
        let stored: Vec<Option<Stored<'_>>> = entries.iter().map(|(_, stored)| Stored::read(stored)).collect();
        for ((key, _), stored) in entries.iter().zip(&stored) {
            if let Some(stored) = stored {
                calls.add_parts(table, key, stored.parts.iter().copied(), stored.bytes);
            }
        }
        let mut outcomes = Vec::new();
        for rows in &mut calls.calls {
            outcomes.extend(self.unpack_call(rows)?);
        }
        let mut parts = calls.calls.iter().flat_map(Rows::iter).zip(outcomes);
        let mut values = Vec::with_capacity(entries.len());
        for ((_, bytes), stored) in entries.iter().zip(&stored) {
            let value = stored.as_ref().and_then(|stored| stored.join(&mut parts));
            values.push(value.unwrap_or_else(|| [&[UNREADABLE][..], *bytes].concat()));
        }
        Ok(values)
    }

    fn unpack_call(&self, rows: &mut Rows) -> Result<Vec<Unpacked>, StoreError> {
        let mut outcomes = vec![Unpacked::Whole; rows.len()];
        for adapter in self.0.iter().rev() {
            let found = adapter.unpack(rows).map_err(failed)?;
            // What one of them could not read makes no sense to the next.
            for (outcome, found) in outcomes.iter_mut().zip(found) {
                *outcome = if *outcome == Unpacked::Whole { found } else { *outcome };
            }
        }
        Ok(outcomes)
    }
}

fn failed(error: AdaptError) -> StoreError {
    StoreError::Io(error.to_string())
}

/// Whether the value of a key passes through the adapters.
fn covers(table: Table, key: &[u8]) -> bool {
    let is_users = match table {
        Table::Records | Table::Hints => true,
        Table::Digests => key.starts_with(QUARANTINE),
        Table::Log | Table::Meta => false,
    };
    is_users && key < KEYS_END
}

/// Whether a scan that ends there may meet values that pass through the adapters.
fn covers_some(table: Table, end: Option<&[u8]>) -> bool {
    match table {
        Table::Records | Table::Hints => true,
        Table::Digests => end.is_none_or(|end| end > QUARANTINE),
        Table::Log | Table::Meta => false,
    }
}

/// Parts of a value of so many bytes. An empty value is one.
fn parts_of(bytes: usize) -> usize {
    bytes.div_ceil(PART_BYTES).max(1)
}

fn split(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    (0..parts_of(value.len())).map(|i| &value[i * PART_BYTES..value.len().min((i + 1) * PART_BYTES)])
}

/// Rows, split into calls.
#[derive(Default)]
struct Calls {
    calls: Vec<Rows>,
    /// Bytes of the values in the last one, when they are not packed.
    bytes: usize,
}

impl Calls {
    /// Adds the parts of a value that has `bytes` in all when it is not packed.
    fn add_parts<'a>(&mut self, table: Table, key: &[u8], parts: impl Iterator<Item = &'a [u8]>, bytes: usize) {
        let count = parts_of(bytes);
        for (i, part) in parts.enumerate() {
            let rest = bytes - i * PART_BYTES;
            if count == 1 {
                self.add(&[table.name().as_bytes(), &[WHOLE], key], part, rest);
            } else {
                let place = [(i as u32).to_be_bytes(), (count as u32).to_be_bytes()].concat();
                self.add(&[table.name().as_bytes(), &[PARTS], &place, key], part, rest.min(PART_BYTES));
            }
        }
    }

    fn add(&mut self, name: &[&[u8]], part: &[u8], bytes: usize) {
        if self.calls.is_empty() || self.bytes + bytes > CALL_BYTES {
            self.calls.push(Rows::default());
            self.bytes = 0;
        }
        self.bytes += bytes;
        if let Some(rows) = self.calls.last_mut() {
            rows.push(name, part);
        }
    }
}

/// What an engine keeps for a value of so many bytes.
fn join(bytes: usize, parts: &[&[u8]]) -> Bytes {
    const HEAD_BYTES: usize = 16;
    let all: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(HEAD_BYTES * parts.len() + all);
    out.put_u8(if parts.len() == 1 { WHOLE } else { PARTS });
    put_varint(&mut out, bytes);
    if parts.len() > 1 {
        parts.iter().for_each(|part| put_varint(&mut out, part.len()));
    }
    parts.iter().for_each(|part| out.put_slice(part));
    out.into()
}

/// What an engine gave back, in parts that are still packed.
struct Stored<'a> {
    bytes: usize,
    parts: Vec<&'a [u8]>,
}

impl<'a> Stored<'a> {
    /// None when no value lies so.
    fn read(stored: &'a [u8]) -> Option<Self> {
        let (kind, mut at) = stored.split_first()?;
        let bytes = get_varint(&mut at)?;
        let count = parts_of(bytes);
        match (*kind, count) {
            (WHOLE, 1) => Some(Self { bytes, parts: vec![at] }),
            // Each part has a length of its own.
            (PARTS, 2..) if count <= at.len() => {
                let lengths: Vec<usize> = (0..count).map(|_| get_varint(&mut at)).collect::<Option<_>>()?;
                let mut parts = Vec::with_capacity(count);
                for length in lengths {
                    let (part, rest) = at.split_at_checked(length)?;
                    parts.push(part);
                    at = rest;
                }
                at.is_empty().then_some(Self { bytes, parts })
            }
            _ => None,
        }
    }

    /// The value, from what became of its parts. None where they are not whole.
    ///
    /// A foreign part is damage as well: who has another key, or another form, does not open the directory.
    fn join<'p>(&self, unpacked: &mut impl Iterator<Item = (&'p [u8], Unpacked)>) -> Option<Vec<u8>> {
        let mut value = Vec::with_capacity(self.bytes.min(CALL_BYTES));
        let mut whole = true;
        for (part, outcome) in unpacked.take(self.parts.len()) {
            value.extend_from_slice(part);
            whole &= outcome == Unpacked::Whole;
        }
        (whole && value.len() == self.bytes).then_some(value)
    }
}

/// Bytes of the value that lies so.
fn unpacked_bytes(stored: &[u8]) -> Option<usize> {
    let (_, mut at) = stored.split_first()?;
    get_varint(&mut at)
}

fn put_varint(out: &mut Vec<u8>, value: usize) {
    let mut rest = value as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn get_varint(at: &mut &[u8]) -> Option<usize> {
    let mut value = 0_u64;
    for shift in (0..=56).step_by(7) {
        let (byte, rest) = at.split_first()?;
        *at = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(value).ok();
        }
    }
    None
}

/// Entries of a scan that are unpacked together.
#[derive(Default)]
struct Page {
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of the values, when they are unpacked.
    bytes: usize,
    rows_max: usize,
}

impl Page {
    /// Takes an entry; false when the page is full.
    fn add(&mut self, key: &[u8], value: &[u8]) -> bool {
        self.bytes = self.bytes.saturating_add(value.len().max(unpacked_bytes(value).unwrap_or(0)));
        self.entries.push((key.to_vec(), value.to_vec()));
        self.entries.len() < self.rows_max && self.bytes < CALL_BYTES
    }

    fn turn(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.bytes = 0;
        self.rows_max = (self.rows_max * 2).min(PAGE_ROWS_MAX);
        mem::take(&mut self.entries)
    }
}

/// A store behind adapters.
pub(crate) struct Adapted<S> {
    store: S,
    chain: Chain,
}

impl<S> Adapted<S> {
    pub(crate) fn new(store: S, chain: Chain) -> Self {
        Self { store, chain }
    }
}

impl<S: Read> Read for Adapted<S> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.chain.get(&self.store, table, key)
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        self.chain.scan(&self.store, table, start, end, visit)
    }
}

impl<S: Store> Store for Adapted<S> {
    fn apply(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        self.store.apply(self.chain.pack(batch)?, durability)
    }

    fn snapshot(&self) -> Box<dyn Read + Send + '_> {
        Box::new(View { view: self.store.snapshot(), chain: &self.chain })
    }

    fn stats(&self) -> StoreStats {
        self.store.stats()
    }
}

/// A frozen view behind adapters.
struct View<'a> {
    view: Box<dyn Read + Send + 'a>,
    chain: &'a Chain,
}

impl Read for View<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.chain.get(&*self.view, table, key)
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        self.chain.scan(&*self.view, table, start, end, visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_of_an_engine_make_it_panic(bytes in vec(any::<u8>(), 0..60), kind in 0..4_u8) {
            let bytes = [&[kind][..], &bytes].concat();
            if let Some(stored) = Stored::read(&bytes) {
                prop_assert_eq!(stored.parts.len(), parts_of(stored.bytes));
                prop_assert!(stored.parts.iter().map(|part| part.len()).sum::<usize>() <= bytes.len());
            }
        }

        #[test]
        fn what_is_joined_is_read_in_the_same_parts(
            rest in 0..PART_BYTES, parts in vec(vec(any::<u8>(), 0..30), 1..9),
        ) {
            let bytes = (parts.len() - 1) * PART_BYTES + rest.max(1);
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let joined = join(bytes, &parts);
            let stored = Stored::read(&joined).expect("it was joined here");
            prop_assert_eq!((stored.bytes, stored.parts), (bytes, parts));
        }

        #[test]
        fn a_length_is_read_as_it_was_put(length in any::<u32>(), shift in 0..32) {
            let length = length as usize >> shift;
            let mut bytes = Vec::new();
            put_varint(&mut bytes, length);
            let mut at = &bytes[..];
            prop_assert_eq!((get_varint(&mut at), at.len()), (Some(length), 0));
        }
    }
}
