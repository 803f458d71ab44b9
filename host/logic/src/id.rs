//! Names of things: newtypes, so that a partition is never taken for a node.

use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// A process with a data directory. Chosen by the operator, never reused for another directory.
    NodeId(u64), "n"
);
id!(
    /// A named set of keys with its own N, R, W, resolver, durability and TTL.
    KeyspaceId(u32), "k"
);
id!(
    /// One of Q fixed ranges of the key hash.
    PartitionId(u16), "p"
);
id!(
    /// The number of the cluster's configuration, and of the slice of time that writes are stamped with.
    Epoch(u64), "e"
);
id!(
    /// Issued by the epoch log at each opening of a data directory. Zero means: not granted yet.
    Incarnation(u64), "i"
);

/// The unique name of one write: which opening of which node made it, and its number there.
///
/// A node that lost its disk gets a new incarnation before it may write, so a dot is never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Dot {
    /// The coordinator of the write.
    pub node: NodeId,
    /// The opening of its data directory.
    pub incarnation: Incarnation,
    /// Counts from 1 within the incarnation.
    pub counter: u64,
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.node, self.incarnation, self.counter)
    }
}

/// Where a record lives: the keyspace, the part that is hashed, and the part that sorts within it.
///
/// Items that share a partition key live together, ordered by sort key. Plain key-value users leave the sort key empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// The keyspace.
    pub keyspace: KeyspaceId,
    /// The hashed part.
    pub partition_key: Bytes,
    /// The ordered part.
    pub sort_key: Bytes,
}

/// Where a key falls on the ring: see [`Key::place`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The top bits of the hash.
    pub partition: PartitionId,
    /// The bits after them: one of [`BUCKETS`] slices of the partition.
    pub bucket: u16,
}

impl Place {
    /// The place that an engine key begins with: see [`Key::engine_key`]. `None` when it is too short for one.
    #[must_use]
    pub fn of_engine_key(key: &[u8]) -> Option<Self> {
        let partition = PartitionId(u16::from_be_bytes(key.get(..2)?.try_into().ok()?));
        let bucket = u16::from_be_bytes(key.get(2..4)?.try_into().ok()?);
        Some(Self { partition, bucket })
    }
}

/// Hash slices of one partition (DESIGN's B): one bucket is one contiguous scan.
pub const BUCKETS: u32 = 1024;

impl Key {
    /// Hashes keyspace and partition key, and cuts the hash into partition (top `partition_bits`) and bucket.
    ///
    /// The hash is part of the stored format: it never changes.
    #[must_use]
    pub fn place(&self, partition_bits: u8) -> Place {
        debug_assert!((1..=16).contains(&partition_bits));
        let hash = xxh3_64_with_seed(&self.partition_key, u64::from(self.keyspace.0));
        let partition = (hash >> (64 - u32::from(partition_bits))) as u16;
        let bucket = ((hash << partition_bits) >> (64 - BUCKETS.trailing_zeros())) as u16;
        Place { partition: PartitionId(partition), bucket }
    }

    /// The key under which engines store the record: partition, bucket, keyspace, escaped partition key, sort key.
    ///
    /// Ordered so that a partition, a bucket, and the sort keys of one partition key are each one contiguous range.
    #[must_use]
    pub fn engine_key(&self, partition_bits: u8) -> Vec<u8> {
        let place = self.place(partition_bits);
        let mut out = Vec::with_capacity(10 + self.partition_key.len() + self.sort_key.len());
        out.extend_from_slice(&place.partition.0.to_be_bytes());
        out.extend_from_slice(&place.bucket.to_be_bytes());
        out.extend_from_slice(&self.keyspace.0.to_be_bytes());
        escape(&self.partition_key, &mut out);
        out.extend_from_slice(&self.sort_key);
        out
    }

    /// Reads an engine key back. `None` when the bytes are not one.
    #[must_use]
    pub fn from_engine_key(bytes: &[u8]) -> Option<Self> {
        let keyspace = KeyspaceId(u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?));
        let (partition_key, rest) = unescape(&bytes[8..])?;
        Some(Self { keyspace, partition_key: partition_key.into(), sort_key: Bytes::copy_from_slice(rest) })
    }
}

/// Writes `key` so that byte order is kept and the end is unambiguous: 00 becomes 00 FF, and 00 01 ends it.
fn escape(key: &[u8], out: &mut Vec<u8>) {
    for &byte in key {
        out.push(byte);
        if byte == 0 {
            out.push(0xFF);
        }
    }
    out.extend_from_slice(&[0, 1]);
}

fn unescape(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        match rest {
            [0, 1, tail @ ..] => return Some((out, tail)),
            [0, 0xFF, tail @ ..] => {
                out.push(0);
                rest = tail;
            }
            [0, ..] | [] => return None,
            [byte, tail @ ..] => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(keyspace: u32, partition_key: Vec<u8>, sort_key: Vec<u8>) -> Key {
        Key { keyspace: KeyspaceId(keyspace), partition_key: partition_key.into(), sort_key: sort_key.into() }
    }

    proptest! {
        #[test]
        fn an_engine_key_reads_back(k: u32, p: Vec<u8>, s: Vec<u8>, bits in 1u8..=16) {
            let key = key(k, p, s);
            prop_assert_eq!(Place::of_engine_key(&key.engine_key(bits)), Some(key.place(bits)));
            prop_assert_eq!(Key::from_engine_key(&key.engine_key(bits)), Some(key));
        }

        #[test]
        fn sort_keys_of_one_partition_key_are_in_order(p: Vec<u8>, a: Vec<u8>, b: Vec<u8>) {
            let (x, y) = (key(1, p.clone(), a.clone()), key(1, p, b.clone()));
            prop_assert_eq!(x.engine_key(8).cmp(&y.engine_key(8)), a.cmp(&b));
        }

        #[test]
        fn garbage_is_no_engine_key_and_no_panic(bytes: Vec<u8>) {
            let _ = Key::from_engine_key(&bytes);
        }
    }

    #[test]
    fn the_place_of_a_key_never_changes() {
        let place = key(7, b"user:42".to_vec(), Vec::new()).place(8);
        assert_eq!((place.partition.0, place.bucket), (PLACE_FIXTURE.0, PLACE_FIXTURE.1));
    }

    /// Stored data depends on this pair: a change here loses every key of every cluster.
    const PLACE_FIXTURE: (u16, u16) = (189, 774);
}
