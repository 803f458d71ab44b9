//! What a node remembers of its records without their values, so that a write need not read what it replaces and a
//! digest read need not touch the disk.
//!
//! The memory is a cache in front of [`crate::port::Table::Records`]: direct-mapped, of a fixed size, and never wrong,
//! because every change of a record passes through [`crate::replica::absorb`], which keeps it.

use crate::context::Context;
use crate::id::{Dot, Epoch};
use crate::record::Record;
use crate::time::Hlc;
use crate::version::Version;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::Bytes;
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

/// The key that took the slot, and its outline.
type Slot = Option<Box<(Box<[u8]>, Outline)>>;

/// The memory itself: a slot for each of 2^bits hash values, the latest record in it wins.
#[derive(Debug)]
pub struct OutlineTable {
    slots: Vec<Slot>,
}

impl OutlineTable {
    /// A memory of at most 2^bits outlines (about 200 bytes each, 8 for an empty slot).
    #[must_use]
    pub fn new(bits: u8) -> Self {
        let mut slots = Vec::new();
        slots.resize_with(1 << bits, || None);
        Self { slots }
    }

    fn slot(&self, key: &[u8]) -> usize {
        xxh3_64(key) as usize & (self.slots.len() - 1)
    }

    /// See [`Outlines::get`].
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Outline> {
        self.slots[self.slot(key)].as_deref().filter(|(known, _)| **known == *key).map(|(_, outline)| outline)
    }

    /// See [`Outlines::put`].
    pub fn put(&mut self, key: &[u8], outline: Outline) {
        let slot = self.slot(key);
        match &mut self.slots[slot] {
            Some(entry) if *entry.0 == *key => entry.1 = outline,
            other => *other = Some(Box::new((key.into(), outline))),
        }
    }

    /// See [`Outlines::forget`].
    pub fn forget(&mut self, key: &[u8]) {
        let slot = self.slot(key);
        if self.get(key).is_some() {
            self.slots[slot] = None;
        }
    }

    /// See [`Outlines::forget_under`].
    pub fn forget_under(&mut self, prefix: &[u8]) {
        for slot in &mut self.slots {
            if slot.as_deref().is_some_and(|(key, _)| key.starts_with(prefix)) {
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
}
