//! Work on a node's own store for partitions that move, and what people see of a move.
//!
//! Who owns what is agreed on in [`crate::cluster`]; when a partition is fetched, handed over and dropped is decided in
//! [`crate::node`]. Here is what its disk does for that.

use crate::digest::{self, Delta};
use crate::event::{MoveOutcome, MoveWork};
use crate::id::{BUCKETS, Key, KeyspaceId, NodeId, PartitionId, Place};
use crate::note;
use crate::outline::Outline;
use crate::port::{Change, Durability, StoreError, Table};
use crate::record::Record;
use crate::replica::Ports;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::ControlFlow;

/// Records that one part of a drop looks at, so that writes need not wait long for it.
const DROP_RECORDS_MAX: usize = 1_024;

/// A partition on its way in or out of this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moving {
    /// Which.
    pub partition: PartitionId,
    /// To this node, or away from it.
    pub way: Way,
    /// How far it is.
    pub phase: Phase,
    /// Owners that it was compared with, ...
    pub compared: u8,
    /// ... and how many it must be.
    pub needed: u8,
    /// Records that were sent or received.
    pub records: u64,
    /// Bytes sent and received, about.
    pub bytes: u64,
    /// Why it did not go on, the last time that it did not.
    pub error: Option<MoveError>,
}

/// See [`Moving::way`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// This node gains it.
    In,
    /// This node owned it, and hands it over.
    Out,
}

/// See [`Moving::phase`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// For its turn, or for an owner that can't be reached.
    Waiting,
    /// With that owner.
    Comparing(NodeId),
    /// It makes what it fetched survive a power cut.
    Flushing,
    /// It holds everything; the epoch log is yet to say so.
    Held,
    /// It removes what the owners hold by now.
    Dropping,
}

impl Phase {
    /// For people and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Comparing(_) => "comparing",
            Self::Flushing => "flushing",
            Self::Held => "held",
            Self::Dropping => "dropping",
        }
    }
}

/// Why a move does not go on. It is tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MoveError {
    /// An owner can't be reached.
    #[error("{0} can't be reached; if it will never come back, let it leave as dead")]
    Unreachable(NodeId),
    /// The comparison did not end well.
    #[error("the comparison with {0} was cut short, refused or lost")]
    Failed(NodeId),
    /// Some of it was not taken.
    #[error("between {0} and this node some records were not taken: a disk is full or fails, or a clock is off")]
    Partial(NodeId),
    /// The other node settles siblings with other code.
    #[error("{0} settles siblings with other code: check its plugins")]
    PluginDrift(NodeId),
    /// Our own store failed.
    #[error("this node's store failed")]
    Store,
}

/// Does the work.
#[must_use]
pub fn work(ports: Ports<'_>, work: &MoveWork) -> MoveOutcome {
    let done = match work {
        MoveWork::Flush => ports.store.apply(Vec::new(), Durability::Sync).map(|()| MoveOutcome::Flushed),
        MoveWork::Survey => survey(ports),
        MoveWork::Drop { partition, below: None, .. } => drop_all(ports, *partition),
        MoveWork::Drop { partition, below: Some(below), after } => drop_below(ports, *partition, *below, after),
    };
    done.unwrap_or(MoveOutcome::Failed)
}

/// What the sums know, and the first record of each partition besides: a damaged one is in no sum.
fn survey(ports: Ports<'_>) -> Result<MoveOutcome, StoreError> {
    let mut held: BTreeSet<(PartitionId, u8)> = ports.digests.held().into_iter().collect();
    let mut start = Some(Bytes::new());
    while let Some(from) = start.take() {
        let mut first = None;
        ports.store.scan(Table::Records, &from, None, &mut |key, _| {
            first = Some(Bytes::copy_from_slice(key));
            ControlFlow::Break(())
        })?;
        let Some((key, place)) = first.and_then(|key| Place::of_engine_key(&key).map(|place| (key, place))) else {
            break;
        };
        let copies = Key::from_engine_key(&key).and_then(|key| ports.digests.copies(key.keyspace));
        held.extend(copies.map(|copies| (place.partition, copies)));
        start = place.partition.0.checked_add(1).map(|next| Bytes::copy_from_slice(&next.to_be_bytes()));
    }
    Ok(MoveOutcome::Surveyed(held.into_iter().collect()))
}

/// The range of a partition's engine keys. The last one has no end.
pub(crate) fn range(partition: PartitionId) -> (Bytes, Bytes) {
    let start = partition.0.to_be_bytes();
    let end = partition.0.checked_add(1).map_or_else(|| alloc::vec![0xFF; 5], |next| next.to_be_bytes().to_vec());
    (Bytes::copy_from_slice(&start), end.into())
}

/// What must be added to the sums so that nothing of keyspaces of fewer copies is in them.
fn without(ports: Ports<'_>, partition: PartitionId, below: u8) -> Vec<Delta> {
    let nothing = BTreeMap::new();
    let of = |bucket: u32| ports.digests.correct(partition, bucket as u16, &nothing);
    let goes = |delta: &Delta| ports.digests.copies(delta.keyspace).map_or(below == u8::MAX, |copies| copies < below);
    (0..BUCKETS).flat_map(of).filter(goes).collect()
}

/// Removes the whole range, and the sums over it in the same batch.
fn drop_all(ports: Ports<'_>, partition: PartitionId) -> Result<MoveOutcome, StoreError> {
    let deltas = without(ports, partition, u8::MAX);
    let (start, end) = range(partition);
    let mut batch = alloc::vec![Change::DeleteRange { table: Table::Records, start, end }];
    batch.extend(note::forget(partition));
    remove(ports, partition, batch, deltas)?;
    Ok(MoveOutcome::Dropped { records: 0, next: None })
}

/// Removes records of keyspaces of fewer than `below` copies, from `after` on.
fn drop_below(ports: Ports<'_>, partition: PartitionId, below: u8, after: &[u8]) -> Result<MoveOutcome, StoreError> {
    let (start, end) = range(partition);
    let start = if after.is_empty() { start } else { [after, &[0]].concat().into() };
    let (mut batch, mut deltas, mut seen, mut next) = (Vec::new(), Vec::new(), 0, None);
    ports.store.scan(Table::Records, &start, Some(&end), &mut |key, value| {
        if seen == DROP_RECORDS_MAX {
            return ControlFlow::Break(());
        }
        seen += 1;
        next = Some(Bytes::copy_from_slice(key));
        let keyspace = Key::from_engine_key(key).map(|key| key.keyspace);
        let goes = |keyspace: &KeyspaceId| ports.digests.copies(*keyspace).is_some_and(|copies| copies < below);
        if let Some(keyspace) = keyspace.filter(goes) {
            let record = Record::decode(&Bytes::copy_from_slice(value)).unwrap_or_default();
            digest::difference(key, keyspace, &Outline::of(&record).rows, &[], &mut deltas);
            batch.push(Change::Delete { table: Table::Records, key: Bytes::copy_from_slice(key) });
        }
        ControlFlow::Continue(())
    })?;
    let records = batch.len() as u64;
    if records > 0 {
        remove(ports, partition, batch, deltas)?;
    }
    let next = next.filter(|_| seen == DROP_RECORDS_MAX);
    if next.is_none() {
        // Damaged records did not say what they had added.
        let left = without(ports, partition, below);
        if !left.is_empty() {
            remove(ports, partition, Vec::new(), left)?;
        }
    }
    Ok(MoveOutcome::Dropped { records, next })
}

fn remove(
    ports: Ports<'_>,
    partition: PartitionId,
    mut batch: Vec<Change>,
    deltas: Vec<Delta>,
) -> Result<(), StoreError> {
    // Should a key come back, its record may not know all the dots that were minted here.
    ports.mints.lost();
    batch.extend(ports.digests.stage(deltas));
    let done = ports.store.apply(batch, Durability::Sync);
    ports.digests.settle(done.is_ok());
    ports.outlines.forget_under(&partition.0.to_be_bytes());
    done
}
