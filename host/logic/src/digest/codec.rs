//! How sums lie in [`Table::Digests`].
//!
//! ```text
//! 0                          the mark: the sums here are those of the records
//! 1 | partition u16 | keyspace u32  a page: varint last commit | varint epochs + 1, then per part (base first)
//!                            varint epoch | bitmap of buckets that are not zero | their sums
//! 2 | commit u64             deltas: u16 partition | varint keyspace | u16 bucket | varint epoch | u128
//! ```
//!
//! Values end in an xxh3-64 of what is before it. Keys are big-endian, values little-endian.

use super::Delta;
use super::part::Part;
use super::table::{Page, PageId};
use crate::id::{BUCKETS, Epoch, KeyspaceId, PartitionId};
use crate::port::{Change, Table};
use alloc::vec::Vec;
use bytes::{Buf, BufMut, Bytes};
use xxhash_rust::xxh3::xxh3_64;

/// The key of the mark.
pub(super) const MARK: &[u8] = &[0];
/// The value of the mark: the format.
pub(super) const FORMAT: &[u8] = &[2];
/// Where pages begin.
pub(super) const PAGES: &[u8] = &[1];
/// Where deltas begin.
pub(super) const LOG: &[u8] = &[2];
/// Where deltas end.
pub(super) const LOG_END: &[u8] = &[3];

const BITMAP_BYTES: usize = BUCKETS as usize / 8;

pub(super) fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Change {
    Change::Put { table: Table::Digests, key: key.into(), value: value.into() }
}

pub(super) fn page_key(id: PageId) -> Vec<u8> {
    let mut key = PAGES.to_vec();
    key.put_u16(id.0.0);
    key.put_u32(id.1.0);
    key
}

pub(super) fn read_page_key(mut key: &[u8]) -> Option<PageId> {
    (key.len() == 7 && key.get_u8() == PAGES[0]).then(|| (PartitionId(key.get_u16()), KeyspaceId(key.get_u32())))
}

pub(super) fn log_key(commit: u64) -> Vec<u8> {
    let mut key = LOG.to_vec();
    key.put_u64(commit);
    key
}

pub(super) fn read_log_key(mut key: &[u8]) -> Option<u64> {
    (key.len() == 9 && key.get_u8() == LOG[0]).then(|| key.get_u64())
}

pub(super) fn encode_deltas(deltas: &[Delta]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + 26 * deltas.len());
    for delta in deltas {
        out.put_u16_le(delta.partition.0);
        put_varint(&mut out, delta.keyspace.0.into());
        out.put_u16_le(delta.bucket);
        put_varint(&mut out, delta.epoch.0);
        out.put_u128_le(delta.sum);
    }
    sealed(out)
}

/// `None` when the bytes are damaged.
pub(super) fn decode_deltas(bytes: &[u8]) -> Option<Vec<Delta>> {
    let mut at = opened(bytes)?;
    let mut deltas = Vec::new();
    while at.has_remaining() {
        let partition = PartitionId(at.try_get_u16_le().ok()?);
        let keyspace = KeyspaceId(get_varint(&mut at)?.try_into().ok()?);
        let bucket = at.try_get_u16_le().ok().filter(|bucket| u32::from(*bucket) < BUCKETS)?;
        let epoch = Epoch(get_varint(&mut at)?);
        let sum = at.try_get_u128_le().ok()?;
        deltas.push(Delta { partition, keyspace, bucket, epoch, sum });
    }
    Some(deltas)
}

pub(super) fn encode_page(page: &Page, last_commit: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, last_commit);
    let parts = page.parts();
    put_varint(&mut out, parts.len() as u64);
    for (epoch, sums) in parts {
        put_varint(&mut out, epoch.0);
        let mut bitmap = [0u8; BITMAP_BYTES];
        sums.iter().for_each(|(bucket, _)| bitmap[usize::from(bucket) / 8] |= 1 << (bucket % 8));
        out.put_slice(&bitmap);
        sums.iter().for_each(|(_, sum)| out.put_u128_le(sum));
    }
    sealed(out)
}

/// The page and the last commit in it; `None` when the bytes are damaged.
pub(super) fn decode_page(bytes: &[u8]) -> Option<(Page, u64)> {
    let mut at = opened(bytes)?;
    let last_commit = get_varint(&mut at)?;
    let mut parts = Vec::new();
    for _ in 0..get_varint(&mut at)? {
        let epoch = Epoch(get_varint(&mut at)?);
        let bitmap = at.split_at_checked(BITMAP_BYTES)?;
        at = bitmap.1;
        let mut sums = Part::default();
        for bucket in 0..BUCKETS as u16 {
            if bitmap.0[usize::from(bucket) / 8] >> (bucket % 8) & 1 == 1 {
                sums.add(bucket, at.try_get_u128_le().ok()?);
            }
        }
        parts.push((epoch, sums));
    }
    (!at.has_remaining()).then_some((Page::of_parts(parts)?, last_commit))
}

fn sealed(mut out: Vec<u8>) -> Vec<u8> {
    let checksum = xxh3_64(&out);
    out.put_u64_le(checksum);
    out
}

fn opened(bytes: &[u8]) -> Option<&[u8]> {
    let (body, checksum) = bytes.split_last_chunk()?;
    (u64::from_le_bytes(*checksum) == xxh3_64(body)).then_some(body)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn get_varint(at: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = at.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
