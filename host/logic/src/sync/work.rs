//! What a comparison reads: pure functions over the store, for whoever has it.

use crate::digest::{Age, Range};
use crate::exchange::{Found, List, Prints, SLICE_BITS_MAX, Sketch, Work, record_bytes};
use crate::id::Key;
use crate::message::{ReadOutcome, Want};
use crate::port::{StoreError, Table};
use crate::record::Record;
use crate::replica::{Ports, find};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::{ControlFlow, RangeInclusive};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Keys that a slice of a bucket holds, about: what one differing key costs to find is the sums of its bucket's slices
/// and the prints of its slice.
pub const SLICE_KEYS: usize = 32;

/// Prints that one slice lists at most, so that memory is bounded. A bucket of more than 16 million keys reaches it:
/// keys beyond it count as not listed, and are sent without need.
const SLICE_PRINTS_MAX: usize = 4_096;

/// Does the work. `bytes_max` bounds what is found, except that one record or one bucket's sketch is always in it.
#[must_use]
pub fn found(ports: Ports<'_>, work: &Work, bytes_max: usize) -> Found {
    let look = |range, nonce, whole| Look { ports, range, nonce, whole };
    // Who fetches a partition that moves must not take a damaged record for an absent one.
    let moves = |range: &Range| range.age == Age::Any;
    let done = match work {
        Work::Sums(range) => Ok(Found::Sums(ports.digests.sums(*range))),
        Work::Sketch { range, nonce, buckets } => sketch(look(range, *nonce, false), buckets, bytes_max),
        Work::List { range, nonce, sketches } => list(look(range, *nonce, moves(range)), sketches, bytes_max),
        Work::Differ { range, nonce, lists } => differ(look(range, *nonce, false), lists, bytes_max),
        Work::Fetch { range, nonce, sent, wants } => fetch(look(range, *nonce, moves(range)), sent, wants, bytes_max),
        Work::Page { range, buckets, after, whole } => page(look(range, 0, *whole), buckets, after, bytes_max),
    };
    done.unwrap_or(Found::Failed)
}

/// What is looked at, and through which hash.
#[derive(Clone, Copy)]
struct Look<'a> {
    ports: Ports<'a>,
    range: &'a Range,
    nonce: u64,
    /// A damaged record is an error, and not as good as absent.
    whole: bool,
}

/// A record as a comparison sees it.
struct Seen<'a> {
    engine_key: &'a [u8],
    /// Which slice, in its high bits.
    slice: u64,
    print: u32,
    record: Record,
}

impl Seen<'_> {
    fn slice(&self, bits: u8) -> u16 {
        (self.slice >> (64 - u32::from(SLICE_BITS_MAX)) >> (SLICE_BITS_MAX - bits)) as u16
    }
}

impl Look<'_> {
    /// Visits the records of a bucket that have a version of the range's age. Damaged ones are as good as absent.
    fn bucket(self, bucket: u16, visit: impl FnMut(Seen<'_>) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.span(bucket..=bucket, &[], visit)
    }

    /// The same for neighbours, and only for engine keys after one.
    fn span(
        self,
        buckets: RangeInclusive<u16>,
        after: &[u8],
        mut visit: impl FnMut(Seen<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let first_key = |bucket: u16| (u32::from(self.range.partition.0) << 16) | u32::from(bucket);
        let start = first_key(*buckets.start()).to_be_bytes();
        let start = if after < &start[..] { start.to_vec() } else { [after, &[0]].concat() };
        let end = first_key(*buckets.end()).checked_add(1).map(u32::to_be_bytes);
        let end = end.as_ref().map(|end| &end[..]);
        let mut damaged = false;
        self.ports.store.scan(Table::Records, &start, end, &mut |engine_key, value| {
            let Ok(record) = Record::decode(&Bytes::copy_from_slice(value)) else {
                damaged = true;
                return ControlFlow::Continue(());
            };
            if !self.is_of_age(&record) || !self.is_shared(engine_key) {
                return ControlFlow::Continue(());
            }
            let slice = xxh3_64_with_seed(engine_key, self.nonce);
            let print = xxh3_64_with_seed(&record.digest().to_le_bytes(), slice) as u32;
            visit(Seen { engine_key, slice, print, record })
        })?;
        if damaged && self.whole { Err(StoreError::Corrupt("a record is damaged".into())) } else { Ok(()) }
    }

    fn is_of_age(self, record: &Record) -> bool {
        let Range { epoch, age, .. } = *self.range;
        record.versions().iter().any(|version| age.spans(version.epoch, epoch))
    }

    /// Whether both owners hold the keyspace.
    fn is_shared(self, engine_key: &[u8]) -> bool {
        let copies = Key::from_engine_key(engine_key).and_then(|key| self.ports.digests.copies(key.keyspace));
        copies.is_some_and(|copies| copies >= self.range.copies_min)
    }

    /// The sums of a bucket's slices: of 2^bits of them, or of as many as suit its size.
    fn sketch(self, bucket: u16, bits: Option<u8>) -> Result<Sketch, StoreError> {
        let mut keys = 0usize;
        let mut sums = alloc::vec![0u32; 1 << SLICE_BITS_MAX];
        self.bucket(bucket, |seen| {
            keys += 1;
            let sum = &mut sums[usize::from(seen.slice(SLICE_BITS_MAX))];
            *sum = sum.wrapping_add(seen.print);
            ControlFlow::Continue(())
        })?;
        let suits = (keys / SLICE_KEYS).max(1).next_power_of_two().trailing_zeros() as u8;
        let bits = bits.unwrap_or(suits).min(SLICE_BITS_MAX);
        let each = 1 << (SLICE_BITS_MAX - bits);
        let sums = sums.chunks(each).map(|part| part.iter().fold(0u32, |all, sum| all.wrapping_add(*sum))).collect();
        Ok(Sketch { bucket, bits, sums })
    }
}

fn sketch(look: Look<'_>, buckets: &[u16], bytes_max: usize) -> Result<Found, StoreError> {
    let (mut sketches, mut bytes) = (Vec::new(), 0);
    for &bucket in buckets {
        let sketch = look.sketch(bucket, None)?;
        bytes += 4 + 4 * sketch.sums.len();
        if bytes > bytes_max && !sketches.is_empty() {
            break;
        }
        sketches.push(sketch);
    }
    Ok(Found::Sketches(sketches))
}

fn list(look: Look<'_>, sketches: &[Sketch], bytes_max: usize) -> Result<Found, StoreError> {
    let (mut lists, mut bytes, mut covered) = (Vec::new(), 0, 0);
    for theirs in sketches {
        if theirs.bits > SLICE_BITS_MAX || theirs.sums.len() != 1 << theirs.bits {
            return Ok(Found::Failed);
        }
        if bytes >= bytes_max {
            break;
        }
        covered += 1;
        let mine = look.sketch(theirs.bucket, Some(theirs.bits))?;
        let differ = (0u16..).zip(mine.sums.iter().zip(&theirs.sums)).filter(|(_, (mine, theirs))| mine != theirs);
        let mut differ: Vec<u16> = differ.map(|(slice, _)| slice).collect();
        let fit = (bytes_max / (8 * SLICE_KEYS)).max(1);
        let cut = differ.len() > fit;
        differ.truncate(fit);
        if differ.is_empty() {
            continue;
        }
        let mut by_slice: BTreeMap<u16, Vec<u32>> = differ.iter().map(|slice| (*slice, Vec::new())).collect();
        look.bucket(theirs.bucket, |seen| {
            if let Some(prints) = by_slice.get_mut(&seen.slice(theirs.bits))
                && prints.len() < SLICE_PRINTS_MAX
            {
                prints.push(seen.print);
            }
            ControlFlow::Continue(())
        })?;
        let mut list =
            List { bucket: theirs.bucket, bits: theirs.bits, slices: Vec::new(), prints: Vec::new(), more: cut };
        for (slice, prints) in by_slice {
            if bytes >= bytes_max {
                list.more = true;
                break;
            }
            bytes += 2 + 4 * prints.len();
            list.slices.push(slice);
            list.prints.extend(prints);
        }
        list.prints.sort_unstable();
        lists.push(list);
    }
    Ok(Found::Lists { lists, covered })
}

fn differ(look: Look<'_>, lists: &[List], bytes_max: usize) -> Result<Found, StoreError> {
    let (mut records, mut wants, mut bytes, mut more) = (Vec::new(), Vec::new(), 0, false);
    for list in lists {
        let mut theirs: BTreeSet<u32> = list.prints.iter().copied().collect();
        let listed = theirs.clone();
        look.bucket(list.bucket, |seen| {
            if list.slices.binary_search(&seen.slice(list.bits)).is_err() {
                return ControlFlow::Continue(());
            }
            theirs.remove(&seen.print);
            if listed.contains(&seen.print) {
                return ControlFlow::Continue(());
            }
            if bytes >= bytes_max {
                more = true;
                return ControlFlow::Continue(());
            }
            let Some(key) = Key::from_engine_key(seen.engine_key) else { return ControlFlow::Continue(()) };
            bytes += record_bytes(&key, &seen.record);
            records.push((key, seen.record));
            ControlFlow::Continue(())
        })?;
        if !theirs.is_empty() {
            wants.push(Prints { bucket: list.bucket, prints: theirs.into_iter().collect() });
        }
    }
    Ok(Found::Differences { records, wants, more })
}

fn fetch(look: Look<'_>, sent: &[(Key, u64)], wants: &[Prints], bytes_max: usize) -> Result<Found, StoreError> {
    let (mut records, mut bytes, mut more) = (Vec::new(), 0, false);
    let mut take = |key: Key, record: Record| {
        if bytes >= bytes_max {
            more = true;
            return;
        }
        bytes += record_bytes(&key, &record);
        records.push((key, record));
    };
    for (key, digest) in sent {
        if let ReadOutcome::Record(record) = find(look.ports, key, Want::Record)
            && record.digest() != *digest
        {
            take(key.clone(), record);
        }
    }
    let sent: BTreeSet<&Key> = sent.iter().map(|(key, _)| key).collect();
    let mut gone = false;
    for want in wants {
        let mut left: BTreeSet<u32> = want.prints.iter().copied().collect();
        look.bucket(want.bucket, |seen| {
            if want.prints.binary_search(&seen.print).is_ok()
                && let Some(key) = Key::from_engine_key(seen.engine_key).filter(|key| !sent.contains(key))
            {
                left.remove(&seen.print);
                take(key, seen.record);
            }
            ControlFlow::Continue(())
        })?;
        gone |= !left.is_empty();
    }
    // Something was replaced since it was listed. Whoever must have all of it asks again for what there is now.
    more |= gone && look.whole;
    Ok(Found::Records { records, more, next: Bytes::new() })
}

fn page(look: Look<'_>, buckets: &[u16], after: &[u8], bytes_max: usize) -> Result<Found, StoreError> {
    let (mut records, mut bytes, mut more, mut next) = (Vec::new(), 0, false, Bytes::new());
    // Neighbours are one scan: a bucket holds few records, and to begin one costs as much as to read many.
    for neighbours in buckets.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
        let (Some(first), Some(last)) = (neighbours.first(), neighbours.last()) else { continue };
        look.span(*first..=*last, after, |seen| {
            if bytes >= bytes_max {
                more = true;
                return ControlFlow::Break(());
            }
            if let Some(key) = Key::from_engine_key(seen.engine_key) {
                bytes += record_bytes(&key, &seen.record);
                records.push((key, seen.record));
                next = Bytes::copy_from_slice(seen.engine_key);
            }
            ControlFlow::Continue(())
        })?;
        if more {
            break;
        }
    }
    Ok(Found::Records { records, more, next })
}
