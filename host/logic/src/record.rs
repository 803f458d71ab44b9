//! The stored form of a key: its versions and its past, self-checking, the first byte naming the format.
//!
//! ```text
//! format | varint meta length | meta | xxh3-32 of meta | value of version 0 | value of version 1 | ...
//! meta = varint count, then per version, ordered by dot:
//!        varint node, incarnation, counter | u64 written | varint epoch, expires_ms | u8 flags | u64 digest |
//!        varint size
//!        and in format 2, the past: see `context`
//! ```
//!
//! The checksum covers the meta part; the digests in it cover the values. A usual record (one version, no past) has
//! format 1 and costs about 45 bytes beyond its value.
//!
//! # The past
//!
//! A causal record remembers the dots of versions that were superseded, here or on another owner: its *past*. Its
//! causal context, what a reader of it has seen, is the past and the dots of its versions. Two records merge into the
//! union of their versions and the union of their pasts, less the versions whose dot is in that past. That is the rule
//! of observed-remove sets (a version is dropped if one side's context covers its dot and that side does not hold it),
//! written so that order, grouping and repetition plainly don't matter; and unlike a whole context, a past may travel
//! with one version of the record alone and still say nothing wrong about its siblings.

use crate::context::{Context, MalformedContext, get_varint, put_varint};
use crate::id::{Dot, Epoch, Incarnation, NodeId};
use crate::time::Hlc;
use crate::version::Version;
use alloc::vec::Vec;
use bytes::{Buf, BufMut, Bytes};
use xxhash_rust::xxh3::xxh3_64;

/// The format of records without a past.
pub const FORMAT: u8 = 1;
/// The format of records with one.
pub const FORMAT_WITH_PAST: u8 = 2;

const FLAG_TOMBSTONE: u8 = 1;

/// All versions of one key that no other supersedes: usually one, none when the key was never written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Ordered by dot, each dot once.
    versions: Vec<Version>,
    /// Dots of versions that were superseded: none of those above. Empty outside of causal keyspaces.
    past: Context,
}

impl From<MalformedContext> for DecodeError {
    fn from(_: MalformedContext) -> Self {
        Self::Malformed
    }
}

/// Bytes that are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a later release.
    #[error("record format {0} is newer than this release understands; upgrade the node")]
    FutureFormat(u8),
    /// Cut short, or a field is out of range.
    #[error("the record is cut short or malformed")]
    Malformed,
    /// A checksum does not match.
    #[error("the record's checksum does not match: the bytes are damaged")]
    Damaged,
}

impl Record {
    /// The record of a key with this one version.
    #[must_use]
    pub fn of(version: Version) -> Self {
        Self { versions: alloc::vec![version], past: Context::default() }
    }

    /// The same with this past: versions in it are gone.
    #[must_use]
    pub fn with_past(mut self, past: &Context) -> Self {
        if self.past.unite(past) {
            self.versions.retain(|version| !self.past.covers(version.dot));
        }
        self
    }

    /// Dots of versions that were superseded.
    #[must_use]
    pub fn past(&self) -> &Context {
        &self.past
    }

    /// What a reader of this record has seen: its past, and the dots of its versions.
    #[must_use]
    pub fn context(&self) -> Context {
        let mut context: Context = self.versions.iter().map(|version| version.dot).collect();
        context.unite(&self.past);
        context
    }

    /// Merges another record of the same key into this one: see the module's own words.
    pub fn merge(&mut self, other: Self) {
        other.versions.into_iter().for_each(|version| self.insert(version));
        self.past.unite(&other.past);
        self.versions.retain(|version| !self.past.covers(version.dot));
    }

    /// The versions, ordered by dot.
    #[must_use]
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The versions, by value.
    #[must_use]
    pub fn into_versions(self) -> Vec<Version> {
        self.versions
    }

    /// Versions and past, by value.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Version>, Context) {
        (self.versions, self.past)
    }

    /// True when the key was never written (or all trace of it was purged).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty() && self.past.is_empty()
    }

    /// True when this version is here, under this dot and with this stamp.
    #[must_use]
    pub fn holds(&self, version: &Version) -> bool {
        self.versions.iter().any(|v| v.dot == version.dot && v.written == version.written)
    }

    /// The latest clock of any version here.
    #[must_use]
    pub fn latest(&self) -> Option<Hlc> {
        self.versions.iter().map(|v| v.written).max()
    }

    /// Adds a version as a sibling. One whose dot is here already changes nothing, unless its stamp is later: a
    /// coordinator may stamp a write anew under the dot that it has.
    pub fn insert(&mut self, version: Version) {
        match self.versions.binary_search_by_key(&version.dot, |v| v.dot) {
            Err(at) => self.versions.insert(at, version),
            Ok(at) if self.versions[at].written < version.written => self.versions[at] = version,
            Ok(_) => {}
        }
    }

    /// Keeps the version at `row` alone. Where `causal`, the others are the past.
    pub fn keep(&mut self, row: usize, causal: bool) {
        self.versions.swap(0, row);
        let dropped = self.versions.drain(1..);
        if causal {
            dropped.for_each(|version| self.past.add(version.dot));
        }
    }

    /// Hash of everything but the bytes of the values, which enter by their digests. Equal records, equal hashes.
    #[must_use]
    pub fn digest(&self) -> u64 {
        if self.is_empty() { 0 } else { xxh3_64(&self.encode_meta()) }
    }

    fn encode_meta(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + 56 * self.versions.len() + self.past.bytes());
        put_varint(&mut out, self.versions.len() as u64);
        for v in &self.versions {
            put_varint(&mut out, v.dot.node.0);
            put_varint(&mut out, v.dot.incarnation.0);
            put_varint(&mut out, v.dot.counter);
            out.put_u64_le(v.written.0);
            put_varint(&mut out, v.epoch.0);
            put_varint(&mut out, v.expires_ms);
            out.put_u8(if v.is_tombstone() { FLAG_TOMBSTONE } else { 0 });
            out.put_u64_le(v.digest);
            put_varint(&mut out, v.value.as_ref().map_or(0, Bytes::len) as u64);
        }
        if !self.past.is_empty() {
            self.past.encode(&mut out);
        }
        out
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let meta = self.encode_meta();
        let values: usize = self.versions.iter().filter_map(|v| v.value.as_ref()).map(Bytes::len).sum();
        let mut out = Vec::with_capacity(16 + meta.len() + values);
        out.put_u8(if self.past.is_empty() { FORMAT } else { FORMAT_WITH_PAST });
        put_varint(&mut out, meta.len() as u64);
        out.put_slice(&meta);
        out.put_u32_le(checksum(&meta));
        for value in self.versions.iter().filter_map(|v| v.value.as_ref()) {
            out.put_slice(value);
        }
        out.into()
    }

    /// Reads the stored form back, sharing the bytes of the values. Empty bytes are the empty record.
    ///
    /// # Errors
    /// [`DecodeError`]; whatever the bytes are, there is no panic and no allocation beyond their own size.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut at = bytes.clone();
        let format = at.get_u8();
        let body = |format| Self::decode_body(at.clone(), format);
        match format {
            FORMAT | FORMAT_WITH_PAST => body(format),
            // All but the format's own byte is in order.
            _ if body(FORMAT).or_else(|_| body(FORMAT_WITH_PAST)).is_ok() => Err(DecodeError::Damaged),
            0 => Err(DecodeError::Malformed),
            later => Err(DecodeError::FutureFormat(later)),
        }
    }

    fn decode_body(mut at: Bytes, format: u8) -> Result<Self, DecodeError> {
        let meta_len = usize::try_from(get_varint(&mut at)?).map_err(|_| DecodeError::Malformed)?;
        if at.remaining() < meta_len.saturating_add(4) {
            return Err(DecodeError::Malformed);
        }
        let mut meta = at.split_to(meta_len);
        if at.get_u32_le() != checksum(&meta) {
            return Err(DecodeError::Damaged);
        }
        let count = get_varint(&mut meta)?;
        let mut versions: Vec<Version> = Vec::new();
        for _ in 0..count {
            let version = decode_version(&mut meta, &mut at)?;
            if versions.last().is_some_and(|last| last.dot >= version.dot) {
                return Err(DecodeError::Malformed);
            }
            versions.push(version);
        }
        let past = if format == FORMAT_WITH_PAST { Context::decode(&mut meta)? } else { Context::default() };
        let contradicts =
            past.is_empty() == (format == FORMAT_WITH_PAST) || versions.iter().any(|v| past.covers(v.dot));
        if contradicts || meta.has_remaining() || at.has_remaining() {
            return Err(DecodeError::Malformed);
        }
        Ok(Self { versions, past })
    }
}

fn decode_version(meta: &mut Bytes, values: &mut Bytes) -> Result<Version, DecodeError> {
    let dot = Dot {
        node: NodeId(get_varint(meta)?),
        incarnation: Incarnation(get_varint(meta)?),
        counter: get_varint(meta)?,
    };
    let written = Hlc(get_u64(meta)?);
    let epoch = Epoch(get_varint(meta)?);
    let expires_ms = get_varint(meta)?;
    let flags = meta.try_get_u8().map_err(|_| DecodeError::Malformed)?;
    let digest = get_u64(meta)?;
    let size = usize::try_from(get_varint(meta)?).map_err(|_| DecodeError::Malformed)?;
    let value = match flags {
        0 if size <= values.remaining() => Some(values.split_to(size)),
        FLAG_TOMBSTONE if size == 0 => None,
        _ => return Err(DecodeError::Malformed),
    };
    let version = Version { dot, written, epoch, expires_ms, digest, value };
    if version.is_intact() { Ok(version) } else { Err(DecodeError::Damaged) }
}

/// The low half of XXH3: enough to notice damage.
fn checksum(meta: &[u8]) -> u32 {
    xxh3_64(meta) as u32
}

fn get_u64(bytes: &mut Bytes) -> Result<u64, DecodeError> {
    bytes.try_get_u64_le().map_err(|_| DecodeError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::value_digest;
    use proptest::prelude::*;

    pub(crate) fn version() -> impl Strategy<Value = Version> {
        let dot = (any::<u64>(), any::<u64>(), any::<u64>());
        let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..300));
        (dot, any::<u64>(), any::<u64>(), any::<u64>(), value).prop_map(|(d, written, epoch, expires_ms, value)| {
            Version {
                dot: Dot { node: NodeId(d.0), incarnation: Incarnation(d.1), counter: d.2 },
                written: Hlc(written),
                epoch: Epoch(epoch),
                expires_ms,
                digest: value_digest(value.as_deref()),
                value: value.map(Bytes::from),
            }
        })
    }

    fn record() -> impl Strategy<Value = Record> {
        let past = prop::option::of(prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 1..5));
        (prop::collection::vec(version(), 0..5), past).prop_map(|(versions, past)| {
            let mut record = Record::default();
            for version in versions {
                record.insert(version);
            }
            let dot = |(n, i, counter)| Dot { node: NodeId(n), incarnation: Incarnation(i), counter };
            record.with_past(&past.unwrap_or_default().into_iter().map(dot).collect())
        })
    }

    /// Of the few writes of one key that there are: write `i` saw some of those before it.
    fn causal(seen: &[Vec<prop::sample::Index>]) -> Vec<Record> {
        let version = |i: u64| Version {
            dot: Dot { node: NodeId(1 + i % 3), incarnation: Incarnation(1), counter: 10 + i },
            written: Hlc(i),
            epoch: Epoch(1),
            expires_ms: 0,
            digest: value_digest(None),
            value: None,
        };
        let mut contexts: Vec<Context> = Vec::new();
        let mut records = Vec::new();
        for (i, seen) in seen.iter().enumerate() {
            let mut past = Context::default();
            seen.iter().filter(|_| i > 0).for_each(|at| _ = past.unite(&contexts[at.index(i)]));
            let record = Record::of(version(i as u64)).with_past(&past);
            contexts.push(record.context());
            records.push(record);
        }
        records
    }

    proptest! {
        #[test]
        fn a_record_reads_back(record in record()) {
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn a_flipped_bit_is_never_a_record(record in record(), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = record.encode().to_vec();
            let i = at.index(bytes.len());
            bytes[i] ^= 1 << bit;
            prop_assert!(Record::decode(&bytes.into()).is_err());
        }

        #[test]
        fn a_damaged_format_byte_is_damage_and_not_the_future(record in record(), format: u8) {
            prop_assume!(format != FORMAT && format != FORMAT_WITH_PAST);
            let mut bytes = record.encode().to_vec();
            bytes[0] = format;
            prop_assert_eq!(Record::decode(&bytes.into()), Err(DecodeError::Damaged));
        }

        #[test]
        fn a_cut_record_is_never_a_record(record in record(), at: prop::sample::Index) {
            let bytes = record.encode();
            let cut = 1 + at.index(bytes.len() - 1);
            prop_assume!(cut < bytes.len());
            prop_assert!(Record::decode(&bytes.slice(..cut)).is_err());
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes: Vec<u8>) {
            let _ = Record::decode(&bytes.into());
        }

        /// Writes of one key that saw one another, merged in any order, grouping and repetition, and one version at a
        /// time or all at once: what is left is the same, and is exactly what nobody who saw it has written over.
        #[test]
        fn merging_is_a_join_and_keeps_what_nobody_superseded(
            seen in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..3), 1..10),
            order in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..30),
        ) {
            let writes = causal(&seen);
            let mut whole = Record::default();
            writes.iter().for_each(|write| whole.merge(write.clone()));
            let lives = |v: &&Version| !writes.iter().any(|write| write.past().covers(v.dot));
            let expected: Vec<Version> = writes.iter().flat_map(Record::versions).filter(lives).cloned().collect();
            let mut left = whole.versions().to_vec();
            left.sort_by_key(|v| v.written);
            prop_assert_eq!(left, expected);
            let mut places = writes.clone();
            for (from, to) in order {
                let (from, to) = (from.index(places.len()), to.index(places.len()));
                let given = places[from].clone();
                // As repair and anti-entropy send it: each version by itself, with the past of all.
                for version in given.versions() {
                    places[to].merge(Record::of(version.clone()).with_past(given.past()));
                }
            }
            for place in places.into_iter().rev() {
                whole.merge(place.clone());
                prop_assert!(whole.context().includes(&place.context()));
            }
            let mut again = Record::default();
            writes.iter().rev().for_each(|write| again.merge(write.clone()));
            prop_assert_eq!(again.encode(), whole.encode());
        }

        #[test]
        fn equal_digests_mean_equal_records(a in record(), b in record()) {
            prop_assert_eq!(a.digest() == b.digest(), a == b);
        }
    }

    /// Written by the first release; every later one must read it.
    const V1: &[u8] = include_bytes!("../fixtures/record_v1.bin");

    fn v1() -> Record {
        let version = |counter, value: Option<&'static [u8]>| Version {
            dot: Dot { node: NodeId(3), incarnation: Incarnation(2), counter },
            written: Hlc(0x0192_5D3A_7F00_0001),
            epoch: Epoch(7),
            expires_ms: 1_800_000_000_000,
            digest: value_digest(value),
            value: value.map(Bytes::from_static),
        };
        let mut record = Record::of(version(300, Some(b"a value")));
        record.insert(version(301, None));
        record
    }

    #[test]
    fn format_1_opens_forever() {
        assert_eq!(Record::decode(&Bytes::from_static(V1)), Ok(v1()));
        assert_eq!(v1().encode(), V1);
    }

    /// Written by the first release that knew a past.
    const V2: &[u8] = include_bytes!("../fixtures/record_v2.bin");

    #[test]
    fn format_2_opens_forever() {
        let dots = [(3, 2, 280), (3, 2, 281), (3, 2, 299), (4, 1, 7)];
        let dot = |(n, i, counter)| Dot { node: NodeId(n), incarnation: Incarnation(i), counter };
        let record = v1().with_past(&dots.map(dot).into_iter().collect());
        assert_eq!(record.encode(), V2);
        assert_eq!(Record::decode(&Bytes::from_static(V2)), Ok(record));
    }

    #[test]
    fn a_version_that_its_own_past_covers_is_malformed() {
        let mut record = v1();
        record.past.add(record.versions[0].dot);
        assert_eq!(Record::decode(&record.encode()), Err(DecodeError::Malformed));
    }

    #[test]
    fn the_later_stamp_of_one_dot_stands() {
        let (old, new) = (v1().versions[0].clone(), Version { written: Hlc(u64::MAX), ..v1().versions[0].clone() });
        let mut record = Record::of(old.clone());
        record.insert(new.clone());
        record.insert(old.clone());
        assert!(record.holds(&new) && !record.holds(&old) && record.versions().len() == 1);
    }

    #[test]
    fn a_future_format_says_so() {
        assert_eq!(Record::decode(&Bytes::from_static(&[3, 0])), Err(DecodeError::FutureFormat(3)));
    }
}
