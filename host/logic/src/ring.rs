//! The explicit table partition -> owners, and the solver that fills it.
//!
//! # What a good table is
//!
//! 1. **Spread.** The owners of a partition lie in different zones. Where there are fewer zones than owners, the
//!    zones' counts differ by at most one (as far as small zones have the nodes). The same holds for every prefix of
//!    the list, because a keyspace of `n` owners uses the first `n` of them.
//! 2. **Balanced.** A node owns a share in proportion to its weight, rounded up or down; every prefix is balanced as
//!    well as the owner sets allow, so that the first owners are. Spread is stronger: a small zone that every
//!    partition needs carries all of them, and only what is left over follows the weights.
//! 3. **Still.** What can stay where it was does. Adding a node moves what that node shall own, and no more.
//! 4. **Scattered.** A node shares its partitions with as many others as it can, so that a lost node is rebuilt
//!    from many and no two lost nodes hurt much (Cidon et al., "Copysets", 2013, for what the opposite would buy).
//!
//! # How
//!
//! The exact answer is a minimum-cost flow (partition -> zone -> node), as in Garage, but 16,384 partitions and 1,000
//! nodes make 16 million edges. This problem has more structure than a general flow, and that is enough:
//!
//! - `share`: how much each zone and node shall own is a water level: raise one level, let every zone and node stop
//!   at its cap, until the slots are used up. Integers by largest remainder, where what a node already holds decides
//!   first: rounding alone never moves data.
//! - `place`: without a previous table, partitions are dealt one by one to whoever has the largest part of its share
//!   left; a zone or node that must be in every remaining partition goes first. That rule alone keeps the rest
//!   solvable (the Gale-Ryser theorem for degrees that differ by one). With a previous table, whoever has too
//!   much hands slots to whoever has too little; the few that find no direct taker go along a shortest chain of takers
//!   (an augmenting path of that flow), first along slots that move anyway, then along any.
//! - `order`: who comes first. Positions only change within a partition, along the same kind of chain.
//!
//! Nothing here depends on the order of the candidates, on a clock, or on a random number: ties fall by hash.

mod order;
mod place;
mod share;
#[cfg(test)]
mod tests;

use crate::id::{NodeId, PartitionId};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use share::Layout;

/// The widest table. Five owners outlive two lost ones with majority quorums, and nobody runs more copies of data in
/// one cluster; every further position would cost each node a fifth more of the table for no keyspace.
pub const RING_WIDTH_MAX: u8 = 5;

/// Partitions are at most 2^14: with them each of 1,000 nodes owns about 80 slots, and the table stays under 1 MiB.
pub const PARTITION_BITS_MAX: u8 = 14;

/// Most nodes that one table is made for.
pub const CANDIDATES_MAX: usize = 1_024;

/// Highest weight of a node, so that sums stay far from overflow.
pub const WEIGHT_MAX: u32 = 10_000;

/// A node that may own partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate<'a> {
    /// Who.
    pub node: NodeId,
    /// Nodes of one zone fail together. Empty: a zone of its own.
    pub zone: &'a str,
    /// Share of the data relative to the others: 1 to [`WEIGHT_MAX`].
    pub weight: u32,
}

/// Who owns what: for each partition an ordered list of distinct owners, as many as the ring is wide.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Ring {
    width: u8,
    owners: Vec<NodeId>,
}

/// What changes for one partition between two tables: see [`Ring::diff`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// Which.
    pub partition: PartitionId,
    /// Nodes that own it only in the next table.
    pub gains: Vec<NodeId>,
    /// Nodes that own it only in this one.
    pub loses: Vec<NodeId>,
}

/// Why there is no table, or why one is refused. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RingError {
    /// The number of partitions makes no sense.
    #[error("a ring has 2^1 to 2^{PARTITION_BITS_MAX} partitions, not 2^{0}")]
    Partitions(u8),
    /// Wider than there are nodes, or than is supported.
    #[error("a ring of {members} nodes is 1 to {} owners wide, not {width}", (*.members).min(usize::from(RING_WIDTH_MAX)))]
    Width {
        /// What was asked for.
        width: u8,
        /// How many nodes there are.
        members: usize,
    },
    /// Too many nodes.
    #[error("a ring has at most {CANDIDATES_MAX} nodes, not {0}")]
    Members(usize),
    /// A weight out of bounds.
    #[error("the weight of {node} is {weight}; it must be 1 to {WEIGHT_MAX} (100 is usual)")]
    Weight {
        /// Whose.
        node: NodeId,
        /// What it is.
        weight: u32,
    },
    /// A node is listed twice.
    #[error("{0} is listed twice")]
    Twice(NodeId),
    /// The previous table has another number of partitions, which is fixed at the birth of a cluster.
    #[error("the previous ring has {previous} partitions, the next one shall have {next}; that number never changes")]
    Resized {
        /// Partitions of the previous table.
        previous: usize,
        /// Partitions asked for.
        next: usize,
    },
    /// The table has another shape than it says.
    #[error("the ring has {slots} slots where {expected} were expected")]
    Shape {
        /// Slots found.
        slots: usize,
        /// Partitions times width.
        expected: usize,
    },
    /// An owner is no member.
    #[error("{partition} is given to {node}, which is no member")]
    Stranger {
        /// Of which partition.
        partition: PartitionId,
        /// Who.
        node: NodeId,
    },
    /// A partition has one owner twice.
    #[error("{partition} is given to {node} twice")]
    Repeated {
        /// Which partition.
        partition: PartitionId,
        /// Who.
        node: NodeId,
    },
    /// The owners of a partition crowd in too few zones.
    #[error("the owners of {0} lie in fewer zones than they could")]
    Crowded(PartitionId),
    /// A node owns more than its weight allows.
    #[error("{node} owns {slots} slots, its weight allows {allowed}")]
    Unbalanced {
        /// Who.
        node: NodeId,
        /// What it owns.
        slots: u64,
        /// What it may own.
        allowed: u64,
    },
}

impl Ring {
    /// Makes a table of 2^`partition_bits` partitions with `width` owners each.
    ///
    /// `previous` is the table in force, if any: what can stay where it is does. The result depends on the arguments
    /// alone, and not on the order of `members`. It passes [`Ring::verify`].
    ///
    /// # Errors
    /// [`RingError`] when the arguments contradict themselves or a bound.
    pub fn solve(
        partition_bits: u8,
        width: u8,
        members: &[Candidate<'_>],
        previous: Option<&Self>,
    ) -> Result<Self, RingError> {
        let layout = Layout::new(partition_bits, width, members)?;
        if let Some(previous) = previous.filter(|ring| ring.partitions() != layout.partitions) {
            return Err(RingError::Resized { previous: previous.partitions(), next: layout.partitions });
        }
        let mut table = place::place(&layout, previous);
        order::order(&layout, previous, &mut table);
        let owners = table.iter().map(|&index| layout.nodes[index as usize]).collect();
        Ok(Self { width, owners })
    }

    /// Checks a table that somebody else made: its shape, that all owners are members, spread and balance.
    ///
    /// # Errors
    /// The first [`RingError`] found.
    pub fn verify(&self, partition_bits: u8, members: &[Candidate<'_>]) -> Result<(), RingError> {
        let layout = Layout::new(partition_bits, self.width, members)?;
        let expected = layout.partitions * layout.width;
        if self.owners.len() != expected {
            return Err(RingError::Shape { slots: self.owners.len(), expected });
        }
        let index: BTreeMap<NodeId, u32> = layout.nodes.iter().zip(0..).map(|(&node, i)| (node, i)).collect();
        let spread = layout.spread(layout.width);
        let mut slots = alloc::vec![0u64; layout.nodes.len()];
        for (p, owners) in self.iter() {
            let mut row = Vec::with_capacity(layout.width);
            for &node in owners {
                let &i = index.get(&node).ok_or(RingError::Stranger { partition: p, node })?;
                if row.contains(&i) {
                    return Err(RingError::Repeated { partition: p, node });
                }
                slots[i as usize] += 1;
                row.push(i);
            }
            if !layout.is_spread(&row, &spread) {
                return Err(RingError::Crowded(p));
            }
        }
        for ((&node, &slots), allowed) in layout.nodes.iter().zip(&slots).zip(layout.allowed()) {
            if slots > allowed {
                return Err(RingError::Unbalanced { node, slots, allowed });
            }
        }
        Ok(())
    }

    /// The first `n` owners of a partition (fewer where the ring is narrower; none where there is no such partition).
    #[must_use]
    pub fn owners(&self, partition: PartitionId, n: u8) -> &[NodeId] {
        let width = usize::from(self.width);
        let start = usize::from(partition.0) * width;
        self.owners.get(start..start + width.min(usize::from(n))).unwrap_or(&[])
    }

    /// Owners per partition: the most that a keyspace can have.
    #[must_use]
    pub const fn width(&self) -> u8 {
        self.width
    }

    /// Number of partitions.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.owners.len().checked_div(usize::from(self.width)).unwrap_or(0)
    }

    /// Each partition with all its owners.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, &[NodeId])> {
        self.owners.chunks(usize::from(self.width).max(1)).zip(0..).map(|(owners, p)| (PartitionId(p), owners))
    }

    /// Partitions that `node` owns for a keyspace of `n` owners (use [`RING_WIDTH_MAX`] for: in any position).
    #[must_use]
    pub fn owned_by(&self, node: NodeId, n: u8) -> usize {
        self.iter().filter(|(_, owners)| owners.iter().take(usize::from(n)).any(|&owner| owner == node)).count()
    }

    /// This table where `stays` says so, and `next` elsewhere; as wide as the narrower one.
    #[must_use]
    pub fn blend(&self, next: &Self, stays: impl Fn(PartitionId) -> bool) -> Self {
        let width = self.width.min(next.width);
        let row = |(p, _)| if stays(p) { self.owners(p, width) } else { next.owners(p, width) };
        Self { width, owners: self.iter().flat_map(row).copied().collect() }
    }

    /// What changes from this table to `next`: partitions whose set of owners differs, in order.
    ///
    /// A change of order alone is none. Tables of different size have no diff: partitions that only one of them has
    /// count as owned by nobody in the other.
    pub fn diff<'a>(&'a self, next: &'a Self) -> impl Iterator<Item = Move> + 'a {
        self.diff_of(next, u8::MAX)
    }

    /// The same for keyspaces of `n` owners: what a change of order takes out of the first `n`, or into them, moves.
    pub fn diff_of<'a>(&'a self, next: &'a Self, n: u8) -> impl Iterator<Item = Move> + 'a {
        let partitions = self.partitions().max(next.partitions());
        (0..partitions).filter_map(move |p| {
            let partition = PartitionId(u16::try_from(p).ok()?);
            let (old, new) = (self.owners(partition, n), next.owners(partition, n));
            let only = |a: &[NodeId], b: &[NodeId]| a.iter().filter(|n| !b.contains(n)).copied().collect::<Vec<_>>();
            let (gains, loses) = (only(new, old), only(old, new));
            (!gains.is_empty() || !loses.is_empty()).then_some(Move { partition, gains, loses })
        })
    }
}
