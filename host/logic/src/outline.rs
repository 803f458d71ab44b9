//! What a node remembers of its records without their values, so that a write need not read what it replaces and a
//! digest read need not touch the disk.
//!
//! The memory is a cache in front of [`crate::port::Table::Records`]: of a fixed size, and never wrong, because every
//! change of a record passes through [`crate::replica::absorb`], which keeps it.

use crate::context::Context;
use crate::id::{Dot, Epoch};
use crate::record::Record;
use crate::time::Hlc;
use crate::version::Version;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// One version without its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// See [`Version::dot`].
    pub dot: Dot,
    /// See [`Version::written`].
    pub written: Hlc,
    /// See [`Version::epoch`].
    pub epoch: Epoch,
    /// Hash of the value.
    pub digest: u64,
    /// Bytes of the value.
    pub size: u32,
    /// True for a delete.
    pub tombstone: bool,
    /// Hash of the record's past; zero where that is empty. What owners compare must differ where pasts differ.
    pub past: u64,
}

impl Row {
    /// The row of a version in a record without a past.
    #[must_use]
    pub fn of(version: &Version) -> Self {
        Self {
            dot: version.dot,
            written: version.written,
            epoch: version.epoch,
            digest: version.digest,
            size: version.value.as_ref().map_or(0, Bytes::len) as u32,
            tombstone: version.is_tombstone(),
            past: 0,
        }
    }
}

/// A record without its values.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outline {
    /// Ordered by dot.
    pub rows: Vec<Row>,
    /// [`Record::past`].
    pub past: Context,
    /// [`Record::digest`].
    pub digest: u64,
}

impl Outline {
    /// The outline of a record.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let past = record.past();
        let hash = if past.is_empty() { 0 } else { xxh3_64(&past.to_bytes()) };
        let rows = record.versions().iter().map(|version| Row { past: hash, ..Row::of(version) }).collect();
        Self { rows, past: past.clone(), digest: record.digest() }
    }
}

/// Where outlines are kept. Shared between the writer, which changes it, and whoever answers digest reads.
pub trait Outlines: Send + Sync {
    /// The outline of the record under this engine key, if remembered.
    fn get(&self, key: &[u8]) -> Option<Outline>;

    /// Remembers an outline, perhaps in the place of another one.
    fn put(&self, key: &[u8], outline: Outline);

    /// Forgets the record under this engine key.
    fn forget(&self, key: &[u8]);

    /// Forgets all records whose engine keys begin so. Rare, and as slow as the memory is large.
    fn forget_under(&self, prefix: &[u8]);
}

/// The hash of the key that took the slot, so that other keys need not be looked at; the key; its outline.
type Slot = Option<(u64, Box<(Box<[u8]>, Outline)>)>;

/// Slots that one key may take. With a single one, keys of the same hash drive each other out long before the memory is
/// full.
const WAYS: usize = 8;

/// The memory itself: each key has [`WAYS`] slots of 2^bits, by its hash; among those, what was put last comes first
/// and drives out what was put longest ago.
#[derive(Debug)]
pub struct OutlineTable {
    slots: Vec<Slot>,
}

impl OutlineTable {
    /// A memory of at most 2^bits outlines (about 200 bytes each, 16 for an empty slot).
    #[must_use]
    pub fn new(bits: u8) -> Self {
        let mut slots = Vec::new();
        slots.resize_with(1 << bits, || None);
        Self { slots }
    }

    /// The slots that a key of this hash may take.
    fn set(&self, hash: u64) -> Range<usize> {
        let ways = WAYS.min(self.slots.len());
        let first = (hash as usize & (self.slots.len() / ways - 1)) * ways;
        first..first + ways
    }

    /// The slot that the key has.
    fn slot(&self, hash: u64, key: &[u8]) -> Option<usize> {
        let is_its = |slot: &Slot| slot.as_ref().is_some_and(|(taken, entry)| *taken == hash && *entry.0 == *key);
        self.set(hash).find(|&slot| is_its(&self.slots[slot]))
    }

    /// See [`Outlines::get`].
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Outline> {
        let slot = self.slot(xxh3_64(key), key)?;
        self.slots[slot].as_ref().map(|(_, entry)| &entry.1)
    }

    /// See [`Outlines::put`].
    pub fn put(&mut self, key: &[u8], outline: Outline) {
        let hash = xxh3_64(key);
        let (set, its) = (self.set(hash), self.slot(hash, key));
        let (first, last) = (set.start, set.end - 1);
        let taken = its.or_else(|| set.into_iter().find(|&slot| self.slots[slot].is_none())).unwrap_or(last);
        self.slots[first..=taken].rotate_right(1);
        match &mut self.slots[first] {
            Some((_, entry)) if its.is_some() => entry.1 = outline,
            other => *other = Some((hash, Box::new((key.into(), outline)))),
        }
    }

    /// See [`Outlines::forget`].
    pub fn forget(&mut self, key: &[u8]) {
        if let Some(slot) = self.slot(xxh3_64(key), key) {
            self.slots[slot] = None;
        }
    }

    /// See [`Outlines::forget_under`].
    pub fn forget_under(&mut self, prefix: &[u8]) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|(_, entry)| entry.0.starts_with(prefix)) {
                *slot = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// It may forget, but what it says is what was last put.
        #[test]
        fn it_is_never_wrong(ops in prop::collection::vec((0u8..40, prop::option::of(any::<u64>())), 0..200)) {
            let mut table = OutlineTable::new(4);
            let mut model = BTreeMap::new();
            for (key, digest) in ops {
                match digest {
                    Some(digest) => {
                        table.put(&[key], Outline { digest, ..Outline::default() });
                        prop_assert_eq!(table.get(&[key]).map(|o| o.digest), Some(digest));
                        model.insert(key, digest);
                    }
                    None => {
                        table.forget(&[key]);
                        model.remove(&key);
                    }
                }
                for key in 0..40 {
                    if let Some(outline) = table.get(&[key]) {
                        prop_assert_eq!(Some(&outline.digest), model.get(&key));
                    }
                }
            }
        }
    }

    #[test]
    fn as_many_as_three_quarters_of_its_slots_are_remembered_nearly_all() {
        let (mut table, keys) = (OutlineTable::new(12), 3u64 << 10);
        for digest in 0..keys {
            table.put(&digest.to_be_bytes(), Outline { digest, ..Outline::default() });
        }
        let there = (0..keys).filter(|digest| table.get(&digest.to_be_bytes()).is_some()).count();
        assert!(there as u64 * 100 >= keys * 93, "{there} of {keys}");
    }

    #[test]
    fn what_was_put_last_stays() {
        let mut table = OutlineTable::new(3);
        for digest in 0..100u64 {
            table.put(&digest.to_be_bytes(), Outline { digest, ..Outline::default() });
        }
        for digest in 0..100u64 {
            assert_eq!(table.get(&digest.to_be_bytes()).is_some(), digest >= 92, "{digest}");
        }
    }
}
