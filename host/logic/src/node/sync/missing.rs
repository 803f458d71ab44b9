//! Where writes are missing that no hint stands for: compared before all others, until that has ended well.

use super::{Pair, UNDER_WAY};
use crate::id::{NodeId, PartitionId};
use crate::node::{NeedsSync, Node};
use crate::time::MonoUs;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

impl Node {
    /// Partitions that this node shares with each other owner and that need a comparison, because writes are missing
    /// there that no hint stands for.
    #[must_use]
    pub fn needs_comparison(&self) -> BTreeMap<NodeId, u32> {
        let mut counts = BTreeMap::new();
        for (_, owner) in self.sync.missing.keys() {
            *counts.entry(*owner).or_default() += 1;
        }
        counts
    }

    /// Where writes are missing that no hint stands for: compared as soon as the other owner can be reached.
    ///
    /// Only places that this node owns a copy of; for others, the owners find the difference in their own period.
    pub(super) fn sync_missing(&mut self, now: MonoUs) {
        let NeedsSync { places, everything } = self.take_needs_sync();
        if everything {
            self.sync.missing.extend(self.sync.pairs.keys().map(|pair| (*pair, now)));
        }
        for (owner, partition, _) in places {
            // What our own disk refused, any other owner may have.
            let is_there = |pair: &&Pair| pair.0 == partition && (pair.1 == owner || owner == self.me);
            self.sync.missing.extend(self.sync.pairs.keys().filter(is_there).map(|pair| (*pair, now)));
        }
    }

    /// The place where writes are missing that comes next, and from when on.
    pub(super) fn sync_missing_next(&self) -> Option<(MonoUs, Pair)> {
        let running = |pair: &Pair| self.sync.running.values().any(|running| running.pair == *pair);
        let waits = self.sync.missing.iter().filter(|(pair, at)| **at != UNDER_WAY && self.is_linked(pair.1));
        waits.filter(|(pair, _)| !running(pair)).map(|(pair, at)| (*at, *pair)).min()
    }

    /// A comparison has ended: what was missing is there, or it is looked at again after a pause.
    pub(super) fn sync_missing_ended(&mut self, now: MonoUs, pair: Pair, well: bool) {
        let again = now + self.limits.hint_retry_ms * 1_000;
        if let Some(at) = self.sync.missing.get_mut(&pair).filter(|at| **at == UNDER_WAY) {
            *at = again;
            if well {
                self.sync.missing.remove(&pair);
            }
        }
    }

    /// The other owners of a partition that this node's disk lied about; they are compared with as soon as each of them
    /// can be reached.
    pub(in crate::node) fn sync_all_of(&mut self, partition: PartitionId) -> BTreeSet<NodeId> {
        let pairs = self.sync.pairs.keys().filter(|pair| pair.0 == partition);
        let pairs: Vec<Pair> = pairs.copied().collect();
        self.sync.missing.extend(pairs.iter().map(|pair| (*pair, 0)));
        pairs.into_iter().map(|(_, owner)| owner).collect()
    }
}
