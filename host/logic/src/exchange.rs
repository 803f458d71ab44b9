//! What two owners of a partition say to each other when they compare what they hold: the words of the module `sync`.

use crate::digest::{Range, Sums};
use crate::id::{Epoch, Key};
use crate::record::Record;
use crate::version::Version;
use alloc::vec::Vec;
use bytes::Bytes;

/// From the owner that compares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SyncAsk {
    /// Are our sums equal?
    Root {
        /// Which sums.
        range: Range,
        /// Hash of the code that settles the keyspaces in it.
        code: u64,
        /// Their root.
        root: u128,
    },
    /// Which keys of these buckets differ?
    Sketches {
        /// Of which records.
        range: Range,
        /// Enters every hash of this session: two keys that look alike in one do not in the next.
        nonce: u64,
        /// One per bucket.
        sketches: Vec<Sketch>,
    },
    /// Take these records, and give me those.
    Mend {
        /// Of which records.
        range: Range,
        /// As before.
        nonce: u64,
        /// What the other one may lack.
        records: Vec<(Key, Record)>,
        /// What the asker lacks.
        wants: Vec<Prints>,
    },
    /// Give me what you hold of buckets of which I hold nothing.
    Pull {
        /// Of which records.
        range: Range,
        /// Which buckets, in order.
        buckets: Vec<u16>,
        /// Only engine keys after this one; empty: from the start.
        after: Bytes,
    },
}

/// From the other owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SyncAnswer {
    /// The roots are equal.
    Same,
    /// It settles keyspaces of this partition with other code: nothing is compared.
    Drift,
    /// The roots differ: the low halves of all sums, by bucket.
    Sums(Vec<u64>),
    /// The keys that differ.
    Lists {
        /// One per bucket that differs; others hold the same.
        lists: Vec<List>,
        /// How many of the sketches were looked at: the rest must be asked for again.
        covered: u32,
    },
    /// Records that the asker may lack.
    Records {
        /// Not all of them, if `more`.
        records: Vec<(Key, Record)>,
        /// There is more, but not in one message.
        more: bool,
        /// Where a [`SyncAsk::Pull`] goes on.
        next: Bytes,
        /// So many versions that the asker sent were not taken.
        refused: u32,
    },
    /// It can't now.
    Refused(SyncRefused),
}

/// Why an owner does not compare now. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SyncRefused {
    /// It is in another epoch: whoever is behind catches up first.
    #[error("it is in epoch {0}")]
    OtherEpoch(Epoch),
    /// It compares as much as it can already.
    #[error("it is busy comparing")]
    Busy,
    /// Its sums of that range can't be told apart: it holds records of a later epoch.
    #[error("it can't tell the sums of that epoch apart")]
    Unready,
    /// It is no owner, or the asker is none, as far as it knows.
    #[error("they do not own that partition both")]
    NotOwner,
    /// Its store failed.
    #[error("its store failed")]
    Store,
}

/// What one owner holds in a bucket, in few bytes: the keys are dealt to 2^bits slices by hash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sketch {
    /// Which bucket.
    pub bucket: u16,
    /// How many slices: 0 to [`SLICE_BITS_MAX`].
    pub bits: u8,
    /// One sum per slice.
    pub sums: Vec<u32>,
}

/// Most slices of a bucket, as a power of two: 16 KiB of sums.
pub const SLICE_BITS_MAX: u8 = 12;

/// What one owner holds in the slices of a bucket that differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    /// Which bucket.
    pub bucket: u16,
    /// As in the sketch.
    pub bits: u8,
    /// The slices that differ, in order.
    pub slices: Vec<u16>,
    /// One print per record in those slices, in order.
    pub prints: Vec<u32>,
    /// Not all slices that differ are here.
    pub more: bool,
}

/// Some records of a bucket, by their prints: 32 bits of hash(nonce, key, record digest).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prints {
    /// Which bucket.
    pub bucket: u16,
    /// In order.
    pub prints: Vec<u32>,
}

/// Something to be read for a comparison: `sync::found` does it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// The sums of a range, from memory.
    Sums(Range),
    /// Sketches of these buckets, as many as fit.
    Sketch { range: Range, nonce: u64, buckets: Vec<u16> },
    /// What we hold where these sketches differ from ours.
    List { range: Range, nonce: u64, sketches: Vec<Sketch> },
    /// What we hold and these lists do not, and the other way round.
    Differ { range: Range, nonce: u64, lists: Vec<List> },
    /// The records that the asker wants, and those that are not what it sent.
    Fetch { range: Range, nonce: u64, sent: Vec<(Key, u64)>, wants: Vec<Prints> },
    /// Records of these buckets, in order, after an engine key; `whole`: or nothing, if one of them is damaged.
    Page { range: Range, buckets: Vec<u16>, after: Bytes, whole: bool },
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// See [`crate::digest::Digests::sums`].
    Sums(Option<Sums>),
    /// Of as many buckets as fit, in order; at least one.
    Sketches(Vec<Sketch>),
    /// See [`SyncAnswer::Lists`].
    Lists { lists: Vec<List>, covered: u32 },
    /// For [`SyncAsk::Mend`]; not all of it, if `more`.
    Differences { records: Vec<(Key, Record)>, wants: Vec<Prints>, more: bool },
    /// See [`SyncAnswer::Records`].
    Records { records: Vec<(Key, Record)>, more: bool, next: Bytes },
    /// The store can't read.
    Failed,
}

/// Bytes that a record costs on the wire, about.
#[must_use]
pub fn record_bytes(key: &Key, record: &Record) -> usize {
    let value = |v: &Version| 48 + v.value.as_ref().map_or(0, Bytes::len);
    let values = record.versions().iter().map(value).sum::<usize>();
    12 + key.partition_key.len() + key.sort_key.len() + record.past().bytes() + values
}

fn records_bytes(records: &[(Key, Record)]) -> usize {
    records.iter().map(|(key, record)| record_bytes(key, record)).sum()
}

impl SyncAsk {
    /// Which records it is about.
    #[must_use]
    pub fn range(&self) -> Range {
        match self {
            Self::Root { range, .. }
            | Self::Sketches { range, .. }
            | Self::Mend { range, .. }
            | Self::Pull { range, .. } => *range,
        }
    }

    /// Bytes on the wire, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        24 + match self {
            Self::Root { .. } => 24,
            Self::Sketches { sketches, .. } => sketches.iter().map(|sketch| 4 + 4 * sketch.sums.len()).sum(),
            Self::Mend { records, wants, .. } => {
                records_bytes(records) + wants.iter().map(|want| 4 + 4 * want.prints.len()).sum::<usize>()
            }
            Self::Pull { buckets, after, .. } => 2 * buckets.len() + after.len(),
        }
    }
}

impl SyncAnswer {
    /// Bytes on the wire, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        24 + match self {
            Self::Same | Self::Drift | Self::Refused(_) => 0,
            Self::Sums(sums) => 8 * sums.len(),
            Self::Lists { lists, .. } => {
                lists.iter().map(|list| 6 + 2 * list.slices.len() + 4 * list.prints.len()).sum()
            }
            Self::Records { records, next, .. } => records_bytes(records) + next.len(),
        }
    }
}
