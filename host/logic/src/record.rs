//! The stored form of a key: its versions, self-checking, the first byte naming the format.
//!
//! ```text
//! 1 | varint meta length | meta | xxh3-32 of meta | value of version 0 | value of version 1 | ...
//! meta = varint count, then per version, ordered by dot:
//!        varint node, incarnation, counter | u64 written | varint epoch, expires_ms | u8 flags | u64 digest |
//!        varint size
//! ```
//!
//! The checksum covers the meta part; the digests in it cover the values. A usual record (one version) costs about 45
//! bytes beyond its value.

use crate::id::{Dot, Epoch, Incarnation, NodeId};
use crate::time::Hlc;
use crate::version::Version;
use alloc::vec::Vec;
use bytes::{Buf, BufMut, Bytes};
use xxhash_rust::xxh3::xxh3_64;

/// The format that this code writes, and the only one there has been.
pub const FORMAT: u8 = 1;

const FLAG_TOMBSTONE: u8 = 1;

/// All versions of one key that no other supersedes: usually one, none when the key was never written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Ordered by dot, each dot once.
    versions: Vec<Version>,
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
        Self { versions: alloc::vec![version] }
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

    /// True when the key was never written (or all trace of it was purged).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// True when a version with this dot is here.
    #[must_use]
    pub fn holds(&self, dot: Dot) -> bool {
        self.versions.iter().any(|v| v.dot == dot)
    }

    /// The latest clock of any version here.
    #[must_use]
    pub fn latest(&self) -> Option<Hlc> {
        self.versions.iter().map(|v| v.written).max()
    }

    /// Adds a version as a sibling; one whose dot is here already changes nothing.
    pub fn insert(&mut self, version: Version) {
        if let Err(at) = self.versions.binary_search_by_key(&version.dot, |v| v.dot) {
            self.versions.insert(at, version);
        }
    }

    /// Keeps the version at `row` alone.
    pub fn keep(&mut self, row: usize) {
        self.versions.swap(0, row);
        self.versions.truncate(1);
    }

    /// Hash of everything but the bytes of the values, which enter by their digests. Equal records, equal hashes.
    #[must_use]
    pub fn digest(&self) -> u64 {
        if self.versions.is_empty() { 0 } else { xxh3_64(&self.encode_meta()) }
    }

    fn encode_meta(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + 56 * self.versions.len());
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
        out
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let meta = self.encode_meta();
        let values: usize = self.versions.iter().filter_map(|v| v.value.as_ref()).map(Bytes::len).sum();
        let mut out = Vec::with_capacity(16 + meta.len() + values);
        out.put_u8(FORMAT);
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
        if format != FORMAT {
            return Err(if format > FORMAT { DecodeError::FutureFormat(format) } else { DecodeError::Malformed });
        }
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
        if meta.has_remaining() || at.has_remaining() {
            return Err(DecodeError::Malformed);
        }
        Ok(Self { versions })
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

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn get_varint(bytes: &mut Bytes) -> Result<u64, DecodeError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().map_err(|_| DecodeError::Malformed)?;
        let part = u64::from(byte & 0x7F);
        if shift == 63 && part > 1 {
            return Err(DecodeError::Malformed);
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeError::Malformed)
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
        prop::collection::vec(version(), 0..5).prop_map(|versions| {
            let mut record = Record::default();
            for version in versions {
                record.insert(version);
            }
            record
        })
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

    #[test]
    fn a_future_format_says_so() {
        assert_eq!(Record::decode(&Bytes::from_static(&[2, 0])), Err(DecodeError::FutureFormat(2)));
    }
}
