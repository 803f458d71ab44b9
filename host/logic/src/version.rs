//! One write, and the total order that last-write-wins needs.

use crate::id::{Dot, Epoch, NodeId};
use crate::time::Hlc;
use bytes::Bytes;
use core::cmp::Ordering;
use xxhash_rust::xxh3::xxh3_64;

/// One value or tombstone of one key, with its stamp and dot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// The unique name of the write.
    pub dot: Dot,
    /// When it was written, by the coordinator's hybrid clock.
    pub written: Hlc,
    /// The epoch its coordinator was in.
    pub epoch: Epoch,
    /// After this Unix time in milliseconds the version reads as absent. Zero: never.
    pub expires_ms: u64,
    /// Hash of the value, made by the coordinator and checked by every owner: the end-to-end checksum.
    pub digest: u64,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
}

/// Position of a version in the strict total order of stamps: see [`Version::stamp`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Hybrid logical clock.
    pub written: Hlc,
    /// At equal clocks the higher node wins ...
    pub node: NodeId,
    /// ... but a delete wins before the node is asked ...
    pub tombstone: bool,
    /// ... and the value's hash decides what is left.
    pub digest: u64,
}

impl Ord for Stamp {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |s: &Self| (s.written, s.tombstone, s.node, s.digest);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Stamp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The hash of a value, as it stands in [`Version::digest`]. Part of the stored format.
#[must_use]
pub fn value_digest(value: Option<&[u8]>) -> u64 {
    value.map_or(0, xxh3_64)
}

impl Version {
    /// Where this version stands in the strict total order of all writes of its key.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp { written: self.written, node: self.dot.node, tombstone: self.is_tombstone(), digest: self.digest }
    }

    /// True for a delete.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }

    /// True when a reader at `wall_ms` must not see the value: deleted or expired.
    #[must_use]
    pub fn is_absent(&self, wall_ms: u64) -> bool {
        self.is_tombstone() || self.is_expired(wall_ms)
    }

    /// True when its lifetime is over.
    #[must_use]
    pub fn is_expired(&self, wall_ms: u64) -> bool {
        self.expires_ms != 0 && self.expires_ms <= wall_ms
    }

    /// True when the value is what the coordinator hashed.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.digest == value_digest(self.value.as_deref())
    }
}
