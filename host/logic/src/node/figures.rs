//! What a node tells of its work in numbers.

use super::{Cause, HintDropped};
use crate::member::Dropped;

/// Figures since the start, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Writes sent again above a later stamp.
    pub restamps: u64,
    /// Requests handed to an owner.
    pub forwards: u64,
    /// Whole records asked for because digests differed, or because an owner did not give its own.
    pub records_fetched: u64,
    /// Reads whose answers were late, so that everybody was asked.
    pub hedges: u64,
    /// Records that owners lacked and were sent, by [`Cause`]: of a read, one for each owner.
    pub repairs: [u64; Cause::ALL.len()],
    /// The same, but left as they are, because as many repairs as are allowed were under way.
    pub repairs_dropped: u64,
    /// Hints kept for owners that did not take a write.
    pub hints_kept: u64,
    /// Those of them that counted towards the quorum of a write.
    pub hints_counted: u64,
    /// Nodes that were asked to stand in for an owner.
    pub stand_ins: u64,
    /// Hints that their owner holds now.
    pub hints_replayed: u64,
    /// Hints that nobody will get, by [`HintDropped`] reason.
    pub hints_dropped: [u64; HintDropped::ALL.len()],
    /// Messages that made no sense here: unknown nodes, keys out of bounds.
    pub nonsense: u64,
    /// Gossip datagrams that were dropped although their seal was right, by [`Dropped`] reason.
    pub gossip_dropped: [u64; Dropped::ALL.len()],
}

/// What a node holds of work under way: see [`Node::load`]. All zero once nobody waits for anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Operations that it coordinates and that somebody waits for.
    pub operations: usize,
    /// Operations that stay for the answers of late owners.
    pub lingering: usize,
    /// Bytes of keys and values that these hold.
    pub operations_bytes: usize,
    /// Deadlines that are set.
    pub deadlines: usize,
    /// Jobs that its disk has not answered, but for comparisons and scrubbing, which go on for ever.
    pub jobs: usize,
    /// Messages from an epoch that it has not reached.
    pub early: usize,
    /// Writes that wait for an epoch that other owners have reached.
    pub awaiting_epoch: usize,
    /// Reads that may still ask everybody, and sloppy writes that may still take owners for absent.
    pub hedges: usize,
    /// Repairs without an answer.
    pub repairs: usize,
    /// Work on the hints that the store has not answered.
    pub hint_jobs: usize,
}
