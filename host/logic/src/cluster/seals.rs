//! Up to where everything is over: what members and owners have said of it, and what follows (`docs/seals.md`).
//!
//! An epoch is *closed* when every member has said that it is *drained* of it: from then on owners take no late
//! copies. A partition is *sealed* up to an epoch when all its owners have *confirmed* that they hold what each of them
//! held when it was closed. Nodes that owned a partition before a change, or were to own it, are *leftovers* of it
//! until they are rid of what they held.

use super::{Change, Refusal, Standing, State};
use crate::id::{Epoch, Incarnation, NodeId, PartitionId};
use crate::ring::RING_WIDTH_MAX;
use crate::time::Hlc;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What one member said last, so many times: the least of the epochs may be one that others have left behind.
const DRAINED_KEPT: usize = 4;
/// Closings whose clock is remembered although nobody goes by them yet: an owner may still confirm an earlier one.
const CLOSINGS_KEPT: usize = 16;
/// Partitions that one entry may confirm.
pub const CONFIRM_MAX: usize = 4_096;

/// Up to where something is over: an epoch, and a clock below all stamps of later epochs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Mark {
    /// The last epoch that is over.
    pub epoch: Epoch,
    /// Whatever is stamped in a later epoch lies above it.
    pub clock: Hlc,
}

impl Mark {
    /// Whether a tombstone of this epoch and stamp holds back nothing any more: whatever lies below it is over too.
    #[must_use]
    pub fn covers(self, epoch: Epoch, written: Hlc) -> bool {
        epoch <= self.epoch && written <= self.clock
    }
}

/// See the module's own words.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Seals {
    /// The latest words of each member, the last one last.
    drained: BTreeMap<NodeId, Vec<Mark>>,
    closed: Mark,
    /// The clock of each closing that somebody goes by, or may.
    clocks: BTreeMap<Epoch, Hlc>,
    /// Up to where each partition is sealed; it is not, where it is not here.
    sealed: BTreeMap<PartitionId, Epoch>,
    /// Owners that are ahead of the seal: up to which closing they have confirmed.
    confirmed: BTreeMap<PartitionId, BTreeMap<NodeId, Epoch>>,
    /// Who may hold something of a partition without owning it.
    leftovers: BTreeMap<PartitionId, BTreeSet<NodeId>>,
}

/// What the next seal of a partition waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Awaited {
    /// Members that have not said that they are drained of any later epoch than the one that is closed.
    Drained(Vec<NodeId>),
    /// The change that moves it.
    Change,
    /// Nodes that have not handed over what they had of it.
    Leftovers(Vec<NodeId>),
    /// Owners that have not confirmed what is closed.
    Owners(Vec<NodeId>),
}

impl State {
    /// What is closed: owners take no late copies of it.
    #[must_use]
    pub fn closed(&self) -> Mark {
        self.seals.closed
    }

    /// Up to where a partition is sealed.
    #[must_use]
    pub fn sealed(&self, partition: PartitionId) -> Mark {
        let epoch = self.seals.sealed.get(&partition).copied().unwrap_or_default();
        Mark { epoch, clock: self.seals.clocks.get(&epoch).copied().unwrap_or_default() }
    }

    /// The last thing that a member said of itself.
    #[must_use]
    pub fn drained(&self, node: NodeId) -> Mark {
        self.seals.drained.get(&node).and_then(|words| words.last()).copied().unwrap_or_default()
    }

    /// The closing up to which an owner has confirmed a partition.
    #[must_use]
    pub fn confirmed(&self, partition: PartitionId, node: NodeId) -> Epoch {
        let ahead = self.seals.confirmed.get(&partition).and_then(|owners| owners.get(&node)).copied();
        ahead.unwrap_or_else(|| self.sealed(partition).epoch)
    }

    /// Whether an owner may still confirm this closing.
    #[must_use]
    pub fn knows_closing(&self, epoch: Epoch) -> bool {
        self.seals.clocks.contains_key(&epoch)
    }

    /// Who may hold something of a partition without owning it.
    pub fn leftovers(&self, partition: PartitionId) -> impl Iterator<Item = NodeId> + '_ {
        self.seals.leftovers.get(&partition).into_iter().flatten().copied()
    }

    /// Whether a node is waited for to be rid of what it does not own.
    #[must_use]
    pub fn is_leftover(&self, node: NodeId) -> bool {
        self.seals.leftovers.values().any(|nodes| nodes.contains(&node))
    }

    /// Everybody who owns records of a partition.
    #[must_use]
    pub fn sealers(&self, partition: PartitionId) -> &[NodeId] {
        self.owners(partition, self.widest())
    }

    /// Whether the change under way gives the partition other owners, in some keyspace, or gives them other places:
    /// those say who owns it in keyspaces that are still to come.
    #[must_use]
    pub fn is_moving(&self, partition: PartitionId) -> bool {
        let moves = |change: &Change| {
            let next = change.next.owners(partition, RING_WIDTH_MAX);
            !change.copies.is_empty() || next != self.owners(partition, RING_WIDTH_MAX)
        };
        self.change.as_ref().is_some_and(moves)
    }

    /// What the next seal of a partition waits for.
    #[must_use]
    pub fn awaits(&self, partition: PartitionId) -> Awaited {
        let closed = self.closed().epoch;
        if self.is_moving(partition) {
            return Awaited::Change;
        }
        let leftovers: Vec<NodeId> = self.leftovers(partition).collect();
        if !leftovers.is_empty() {
            return Awaited::Leftovers(leftovers);
        }
        let lacks = |node: &NodeId| self.confirmed(partition, *node) < closed;
        let owners: Vec<NodeId> = self.sealers(partition).iter().copied().filter(lacks).collect();
        if !owners.is_empty() {
            return Awaited::Owners(owners);
        }
        Awaited::Drained(self.undrained().collect())
    }

    /// Members that must say that they are drained before anything more is closed.
    pub fn undrained(&self) -> impl Iterator<Item = NodeId> + '_ {
        let living = self.members.iter().filter(|(_, member)| member.standing != Standing::Dead);
        living.map(|(node, _)| *node).filter(|node| self.drained(*node).epoch <= self.seals.closed.epoch)
    }

    pub(super) fn drain(&mut self, node: NodeId, incarnation: Incarnation, mark: Mark) -> Result<(), Refusal> {
        let last = self.drained(node).epoch;
        let member = self.members.get(&node).ok_or(Refusal::NodeUnknown { node })?;
        // What its process stamps now may lie below the clock of the one before.
        if member.standing == Standing::Dead || member.incarnation != incarnation {
            return Err(Refusal::Order(format!("{node} said that as a process that is over")));
        }
        if mark.epoch <= last {
            return Err(Refusal::Order(format!("{node} has said so of epoch {last} already")));
        }
        if mark.epoch.0.saturating_add(2) > self.epoch.0 {
            return Err(Refusal::Invalid(format!("{node} may still stamp writes in epoch {}", mark.epoch)));
        }
        let words = self.seals.drained.entry(node).or_default();
        if words.len() == DRAINED_KEPT {
            words.remove(0);
        }
        words.push(mark);
        Ok(())
    }

    pub(super) fn confirm(
        &mut self,
        node: NodeId,
        closed: Epoch,
        changes: u64,
        partitions: &[PartitionId],
    ) -> Result<(), Refusal> {
        if !self.has_living(node) {
            return Err(Refusal::NodeUnknown { node });
        }
        if changes != self.changes {
            return Err(Refusal::Order(format!(
                "{node} looked when {changes} changes had begun; now it is {}",
                self.changes
            )));
        }
        if !self.knows_closing(closed) {
            return Err(Refusal::Order(format!("epoch {closed} is not closed, or others were closed since")));
        }
        let may = |partition: &&PartitionId| {
            let waits = self.is_moving(**partition) || self.seals.leftovers.contains_key(*partition);
            let new = self.confirmed(**partition, node) < closed;
            new && !waits && self.sealers(**partition).contains(&node)
        };
        let confirmed: Vec<PartitionId> = partitions.iter().take(CONFIRM_MAX).filter(may).copied().collect();
        if confirmed.is_empty() {
            return Err(Refusal::Order(format!("{node} can confirm none of these partitions, or did so already")));
        }
        for partition in confirmed {
            self.seals.confirmed.entry(partition).or_default().insert(node, closed);
            self.seal(partition);
        }
        Ok(())
    }

    /// Seals a partition as far as all its owners have confirmed it.
    fn seal(&mut self, partition: PartitionId) {
        let owners = self.sealers(partition);
        let Some(epoch) = owners.iter().map(|owner| self.confirmed(partition, *owner)).min() else { return };
        if epoch <= self.sealed(partition).epoch {
            return;
        }
        let owners = owners.to_vec();
        self.seals.sealed.insert(partition, epoch);
        if let Some(ahead) = self.seals.confirmed.get_mut(&partition) {
            ahead.retain(|owner, confirmed| *confirmed > epoch && owners.contains(owner));
            if ahead.is_empty() {
                self.seals.confirmed.remove(&partition);
            }
        }
    }

    pub(super) fn rid(&mut self, node: NodeId, changes: u64) -> Result<(), Refusal> {
        if self.change.is_some() || changes != self.changes {
            return Err(Refusal::Order(format!(
                "{node} looked when {changes} changes had begun; now it is {}",
                self.changes
            )));
        }
        if !self.is_leftover(node) {
            return Err(Refusal::Order(format!("nobody waits for what {node} held")));
        }
        self.seals.forget_leftover(node);
        Ok(())
    }

    /// A change has begun: what was confirmed of partitions that move counts for nothing, and whoever owns them now, or
    /// is to own them, may be left with something.
    pub(super) fn unconfirm_moving(&mut self) {
        for partition in self.partitions().filter(|partition| self.is_moving(*partition)).collect::<Vec<_>>() {
            let next = self.change.as_ref().map_or(&[][..], |change| change.next.owners(partition, RING_WIDTH_MAX));
            let all: BTreeSet<NodeId> = self.owners(partition, RING_WIDTH_MAX).iter().chain(next).copied().collect();
            self.seals.confirmed.remove(&partition);
            self.seals.leftovers.entry(partition).or_default().extend(all);
        }
    }

    /// What the words of all members amount to, after any entry.
    pub(super) fn close(&mut self) {
        self.forget_words_of_others();
        if self.ring.is_none() {
            return;
        }
        let words = |node: &NodeId| self.seals.drained.get(node).map_or(&[][..], |words| &words[..]);
        let living = || self.members.keys().filter(|node| self.has_living(**node));
        let last = |node: &NodeId| words(node).last().map_or(Epoch(0), |mark| mark.epoch);
        let Some(epoch) = living().map(last).min().filter(|epoch| *epoch > self.seals.closed.epoch) else { return };
        // What was said of a later epoch says nothing of stamps in that one.
        let belongs = |mark: &&Mark| mark.epoch <= epoch;
        let clock = |node: &NodeId| words(node).iter().filter(belongs).map(|mark| mark.clock).max();
        let clock = living().map(|node| clock(node).unwrap_or_default()).min().unwrap_or_default();
        self.seals.closed = Mark { epoch, clock: clock.max(self.seals.closed.clock) };
        self.seals.clocks.insert(epoch, self.seals.closed.clock);
        self.seals.forget_clocks();
    }

    /// Members that are none any more have no say.
    fn forget_words_of_others(&mut self) {
        let gone = |node: &&NodeId| !self.members.contains_key(*node);
        let known = self.seals.drained.keys().chain(self.seals.leftovers.values().flatten());
        let known = known.chain(self.seals.confirmed.values().flat_map(BTreeMap::keys));
        let gone: BTreeSet<NodeId> = known.filter(gone).copied().collect();
        for node in gone {
            self.seals.drained.remove(&node);
            self.seals.forget_leftover(node);
            self.seals.confirmed.values_mut().for_each(|owners| {
                owners.remove(&node);
            });
            self.seals.confirmed.retain(|_, owners| !owners.is_empty());
        }
    }
}

impl Seals {
    fn forget_leftover(&mut self, node: NodeId) {
        self.leftovers.values_mut().for_each(|nodes| {
            nodes.remove(&node);
        });
        self.leftovers.retain(|_, nodes| !nodes.is_empty());
    }

    fn forget_clocks(&mut self) {
        let used = self.sealed.values().chain(self.confirmed.values().flat_map(BTreeMap::values));
        let used: BTreeSet<Epoch> = used.copied().collect();
        let latest: BTreeSet<Epoch> = self.clocks.keys().rev().take(CLOSINGS_KEPT).copied().collect();
        self.clocks.retain(|epoch, _| used.contains(epoch) || latest.contains(epoch));
    }
}
