//! How the members and the table change: what is wanted, the one change that is under way, and how it ends.
//!
//! What operators ask for ([`Wish`]) is taken at once into the roster: it says how the cluster shall be. The ring says
//! how it is. Where the two differ and no change is under way, the leader solves the next ring and begins a change; so
//! whatever is asked during a change waits in the roster, is merged with what else is asked, and can't be lost.
//!
//! The life of a change, and why no acknowledged write is missed meanwhile, is in `docs/moving.md`. In short: *moving*
//! (writes need a quorum in both tables; each partition is read from the old table until all who gain it say that they
//! hold it), *closing* (all that will be cut over is; old owners say that they have seen it), *ended* (one table).

use super::{Copies, MEMBERS_MAX, Member, Refusal, State, check_zone};
use crate::id::{Epoch, KeyspaceId, NodeId, PartitionId};
use crate::ring::{RING_WIDTH_MAX, Ring, WEIGHT_MAX};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Nodes that left and are remembered, because their ids are never given to others.
pub const REMOVED_MAX: usize = 65_536;

/// Where a member is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub enum Standing {
    /// It has joined the roster and shall own nothing until it is accepted.
    #[default]
    Joining,
    /// It shall own its share.
    Up,
    /// It shall own nothing, and leaves once it has handed over what it holds.
    Leaving,
    /// It shall own nothing, and will not come back: nobody waits for it.
    Dead,
}

impl Standing {
    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Up => "up",
            Self::Leaving => "leaving",
            Self::Dead => "dead",
        }
    }
}

/// What an operator wants of the members.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Wish {
    /// A member that is joining (or was asked to leave and has not yet) shall own its share.
    Accept {
        /// Who.
        node: NodeId,
    },
    /// A member shall hand over what it owns and leave.
    Leave {
        /// Who.
        node: NodeId,
        /// It is dead: nobody waits for what only it holds. Whoever asks has made sure.
        dead: bool,
    },
    /// A dead member's place goes to a joining one.
    Replace {
        /// Who is dead.
        gone: NodeId,
        /// Who takes its place.
        by: NodeId,
        /// Whoever asks has made sure that it is dead.
        dead: bool,
    },
    /// Another weight.
    Weight {
        /// Whose.
        node: NodeId,
        /// See [`Member::weight`].
        weight: u32,
    },
    /// Another zone.
    Zone {
        /// Whose.
        node: NodeId,
        /// See [`Member::zone`].
        zone: String,
    },
}

/// The change of table, or of the number of copies, that is under way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// Counts the changes of this cluster, from 1.
    pub id: u64,
    /// The epoch in which it began.
    pub began: Epoch,
    /// The table as it shall be.
    pub next: Ring,
    /// Copies that keyspaces shall have: then the ring stays. All others keep theirs.
    pub copies: BTreeMap<KeyspaceId, Copies>,
    /// Who gains each partition and does not hold it yet. A partition that is not here is cut over.
    pub waits: BTreeMap<PartitionId, Vec<NodeId>>,
    /// How many partitions move.
    pub moving: u32,
    /// Nothing more is cut over; since this epoch, nobody reads as before the last one was.
    pub closing: Option<Epoch>,
    /// Members that are in that epoch or a later one.
    pub seen: BTreeSet<NodeId>,
}

/// A node that left.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Removed {
    /// The name of its data directory: it never comes back.
    pub directory: u128,
    /// Since when.
    pub epoch: Epoch,
}

/// Who owns a partition, for some keyspace, while its table may be changing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tables<'a> {
    /// Those who are read from.
    pub read: &'a [NodeId],
    /// Writes need a quorum among these, ...
    pub old: &'a [NodeId],
    /// ... and one among these, if there are two tables.
    pub next: Option<&'a [NodeId]>,
    /// How many of those who are read from must answer.
    pub r: u8,
    /// How many of the old table must take a write, and how many of the next one.
    pub w: [u8; 2],
}

impl Tables<'_> {
    /// All owners, those of the old table first.
    #[must_use]
    pub fn all(&self) -> Vec<NodeId> {
        let mut all = self.old.to_vec();
        all.extend(self.next.iter().copied().flatten().filter(|node| !self.old.contains(node)));
        all
    }
}

impl Change {
    /// Whether reads of this partition use the next table.
    #[must_use]
    pub fn is_cut(&self, partition: PartitionId) -> bool {
        !self.waits.contains_key(&partition)
    }
}

/// Whether both are the same nodes, in any order.
pub(super) fn same(a: &[NodeId], b: &[NodeId]) -> bool {
    a.len() == b.len() && a.iter().all(|node| b.contains(node))
}

impl State {
    /// Who owns `partition` in any table in force, for a keyspace of `n` owners at most.
    #[must_use]
    pub fn all_owners(&self, partition: PartitionId, n: u8) -> Vec<NodeId> {
        let mut all = self.owners(partition, n).to_vec();
        let next = self.change.as_ref().map_or(&[][..], |change| change.next.owners(partition, n));
        all.extend(next.iter().filter(|node| !self.owners(partition, n).contains(node)));
        all
    }

    /// Whether `node` owns `partition` in any table in force, for a keyspace of `n` owners at most
    /// ([`Self::copies_max`]).
    #[must_use]
    pub fn holds(&self, node: NodeId, partition: PartitionId, n: u8) -> bool {
        let next = self.change.as_ref().map_or(&[][..], |change| change.next.owners(partition, n));
        self.owners(partition, n).contains(&node) || next.contains(&node)
    }

    /// The least number of owners that a keyspace needs so that `node` holds its records of `partition`, in any table
    /// in force; `None`: it holds none.
    #[must_use]
    pub fn copies_at(&self, node: NodeId, partition: PartitionId) -> Option<u8> {
        let next = self.change.as_ref().map_or(&[][..], |change| change.next.owners(partition, RING_WIDTH_MAX));
        let place = |owners: &[NodeId]| owners.iter().position(|owner| *owner == node);
        let places = [place(self.owners(partition, RING_WIDTH_MAX)), place(next)];
        places.into_iter().flatten().min().map(|place| place as u8 + 1)
    }

    /// Members that shall own their share.
    pub(super) fn up(&self) -> usize {
        self.members.values().filter(|member| member.standing == Standing::Up).count()
    }

    /// How wide the next ring is: as the one in force, where there are members for it, or as the copies need that a
    /// keyspace shall have. It does not widen with the cluster: that would move data of keyspaces that use the first
    /// positions only.
    fn next_width(&self) -> u8 {
        let up = u8::try_from(self.up()).unwrap_or(u8::MAX);
        let wanted = self.wanted.values().map(|wanted| wanted.n).max().unwrap_or(0);
        self.ring.as_ref().map_or(RING_WIDTH_MAX, Ring::width).max(wanted).min(up)
    }

    /// The most owners that a new keyspace may have, now and after everything that is asked for.
    pub(super) fn owners_max(&self, ring: &Ring) -> u8 {
        let next = self.change.as_ref().map_or(u8::MAX, |change| change.next.width());
        ring.width().min(next).min(self.next_width())
    }

    /// Whether what is asked for differs from what the ring in force, or the change under way, was made for.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.asked != self.settled
    }

    /// The ring for the members as they shall be. Takes a while for large clusters.
    pub(super) fn solve(&self) -> Result<Ring, Refusal> {
        let base = self.change.as_ref().map_or(self.ring.as_ref(), |change| Some(&change.next));
        Ring::solve(self.partition_bits, self.next_width(), &self.candidates(), base)
            .map_err(|error| Refusal::Invalid(error.to_string()))
    }

    /// The entry that begins the change that is due, if one is. The leader proposes it. Takes a while for large
    /// clusters.
    #[must_use]
    pub fn begin_entry(&self) -> Option<super::Entry> {
        if self.ring.is_none() || self.change.is_some() || !self.is_unsettled() {
            return None;
        }
        Some(super::Entry::Begin { asked: self.asked, ring: self.solve().ok()? })
    }

    /// What a leader has to propose now, unasked. Takes a while for large clusters.
    #[must_use]
    pub fn due(&self) -> Option<super::Entry> {
        self.form_entry().or_else(|| self.begin_entry()).or_else(|| self.begin_copies_entry())
    }

    pub(super) fn wish(&mut self, wish: &Wish, seen: Option<Epoch>) -> Result<(), Refusal> {
        self.formed()?;
        if let Some(seen) = seen.filter(|seen| *seen != self.epoch) {
            return Err(Refusal::Stale { seen, now: self.epoch });
        }
        match wish {
            Wish::Accept { node } => self.accept(*node)?,
            Wish::Leave { node, dead } => self.leave(*node, *dead)?,
            Wish::Replace { gone, by, dead } => self.replace(*gone, *by, *dead)?,
            Wish::Weight { node, weight } => {
                if *weight == 0 || *weight > WEIGHT_MAX {
                    return Err(Refusal::Invalid(format!(
                        "a weight of {weight} for {node}; it must be 1 to {WEIGHT_MAX} (100 is usual)"
                    )));
                }
                self.known(*node)?.weight = *weight;
            }
            Wish::Zone { node, zone } => {
                check_zone(*node, zone)?;
                self.known(*node)?.zone.clone_from(zone);
            }
        }
        self.asked += 1;
        self.epoch.0 += 1;
        self.forget_the_dead();
        self.check_progress();
        Ok(())
    }

    fn known(&mut self, node: NodeId) -> Result<&mut Member, Refusal> {
        if self.removed.contains_key(&node) {
            return Err(Refusal::Removed { node });
        }
        self.members.get_mut(&node).ok_or(Refusal::NodeUnknown { node })
    }

    fn accept(&mut self, node: NodeId) -> Result<(), Refusal> {
        let member = self.known(node)?;
        match member.standing {
            Standing::Joining | Standing::Leaving => member.standing = Standing::Up,
            Standing::Up => return Err(Refusal::Order(format!("{node} is a full member already"))),
            Standing::Dead => {
                return Err(Refusal::Order(format!(
                    "{node} was declared dead, and its data are being made elsewhere; start it with an empty data \
                     directory under a new node id"
                )));
            }
        }
        Ok(())
    }

    fn leave(&mut self, node: NodeId, dead: bool) -> Result<(), Refusal> {
        let standing = self.known(node)?.standing;
        match standing {
            Standing::Dead => return Err(Refusal::Order(format!("{node} was declared dead already"))),
            Standing::Leaving if !dead => return Err(Refusal::Order(format!("{node} is leaving already"))),
            Standing::Up => self.check_enough(node)?,
            Standing::Leaving | Standing::Joining => {}
        }
        if self.removed.len() >= REMOVED_MAX {
            return Err(Refusal::Invalid(format!("{REMOVED_MAX} nodes have left this cluster, the most it can know")));
        }
        self.known(node)?.standing = if dead { Standing::Dead } else { Standing::Leaving };
        Ok(())
    }

    /// Refuses where too few owners would be left.
    fn check_enough(&self, node: NodeId) -> Result<(), Refusal> {
        let left = self.up() - 1;
        let most = |id: &KeyspaceId| self.copies_max(*id).max(self.copies_wanted(*id).map_or(0, |wanted| wanted.n));
        let widest = self.keyspaces.iter().map(|(id, keyspace)| (keyspace, most(id))).max_by_key(|(_, n)| *n);
        match widest.filter(|(_, n)| usize::from(*n) > left) {
            Some((keyspace, n)) => Err(Refusal::Invalid(format!(
                "without {node} there are {left} members that own data, and keyspace {:?} keeps n = {n} copies; let \
                 another node join first, or replace {node}",
                keyspace.name
            ))),
            None => Ok(()),
        }
    }

    fn replace(&mut self, gone: NodeId, by: NodeId, dead: bool) -> Result<(), Refusal> {
        let (old, new) = (self.known(gone)?.standing, self.known(by)?.standing);
        if gone == by {
            return Err(Refusal::Invalid(format!("{gone} can't take its own place")));
        }
        if new != Standing::Joining {
            return Err(Refusal::Invalid(format!(
                "{by} is {}; only a node that has joined and was not accepted yet can take another one's place",
                new.name()
            )));
        }
        if matches!(old, Standing::Joining | Standing::Dead) {
            return Err(Refusal::Invalid(format!("{gone} is {} and has no place to give", old.name())));
        }
        if !dead {
            return Err(Refusal::Invalid(format!(
                "{gone} is not known to be dead; a living node leaves by `node leave`, which hands over what it holds. \
                 If it will never come back, say so with --force"
            )));
        }
        self.known(gone)?.standing = Standing::Dead;
        self.known(by)?.standing = Standing::Up;
        Ok(())
    }

    pub(super) fn begin(&mut self, asked: u64, ring: &Ring) -> Result<(), Refusal> {
        self.formed()?;
        if let Some(change) = &self.change {
            return Err(Refusal::Order(format!(
                "change {} is under way; what is asked for since follows it",
                change.id
            )));
        }
        if asked != self.asked || !self.is_unsettled() {
            return Err(Refusal::Order(format!(
                "this table was made when {asked} changes had been asked for; now it is {}",
                self.asked
            )));
        }
        if ring.width() != self.next_width() {
            return Err(Refusal::Invalid(format!(
                "the ring is {} owners wide; for these members it must be {}",
                ring.width(),
                self.next_width()
            )));
        }
        ring.verify(self.partition_bits, &self.candidates()).map_err(|error| Refusal::Invalid(error.to_string()))?;
        self.settled = self.asked;
        self.begin_change(ring.clone(), BTreeMap::new());
        Ok(())
    }

    fn under_way(&mut self, id: u64) -> Result<&mut Change, Refusal> {
        let now = self.change.as_ref().map(|change| change.id);
        self.change.as_mut().filter(|change| change.id == id).ok_or_else(|| {
            Refusal::Order(match now {
                Some(now) => format!("change {id} is over; change {now} is under way"),
                None => format!("change {id} is over"),
            })
        })
    }

    pub(super) fn hold(&mut self, id: u64, node: NodeId, partitions: &[PartitionId]) -> Result<(), Refusal> {
        let change = self.under_way(id)?;
        if change.closing.is_some() {
            return Err(Refusal::Order(format!("change {id} is closing: nothing more is cut over in it")));
        }
        let gains = |partition: &PartitionId| change.waits.get(partition).is_some_and(|gains| gains.contains(&node));
        if !partitions.iter().any(gains) {
            return Err(Refusal::Order(format!("{node} gains none of these partitions, or said so already")));
        }
        for partition in partitions {
            if let Some(gainers) = change.waits.get_mut(partition) {
                gainers.retain(|gainer| *gainer != node);
                if gainers.is_empty() {
                    change.waits.remove(partition);
                }
            }
        }
        self.check_progress();
        Ok(())
    }

    pub(super) fn seen(&mut self, id: u64, node: NodeId) -> Result<(), Refusal> {
        self.known(node)?;
        let change = self.under_way(id)?;
        if change.closing.is_none() {
            return Err(Refusal::Order(format!("change {id} is not closing yet")));
        }
        if !change.seen.insert(node) {
            return Err(Refusal::Order(format!("{node} has said so already")));
        }
        self.check_progress();
        Ok(())
    }

    /// A member that shall leave has handed over everything.
    pub(super) fn left(&mut self, node: NodeId) -> Result<(), Refusal> {
        let member = self.known(node)?;
        if member.standing != Standing::Leaving {
            return Err(Refusal::Order(format!("{node} is {} and was not asked to leave", member.standing.name())));
        }
        if self.owns_anything(node) {
            return Err(Refusal::Order(format!("{node} still owns data; it leaves when it has handed them over")));
        }
        self.remove(node);
        self.epoch.0 += 1;
        Ok(())
    }

    /// Whether a node is a member, and was not declared dead.
    #[must_use]
    pub fn has_living(&self, node: NodeId) -> bool {
        self.members.get(&node).is_some_and(|member| member.standing != Standing::Dead)
    }

    /// Members that were declared dead.
    pub(super) fn dead(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().filter(|(_, member)| member.standing == Standing::Dead).map(|(node, _)| *node)
    }

    fn owns_anything(&self, node: NodeId) -> bool {
        let next = self.change.as_ref().map(|change| &change.next);
        self.ring.iter().chain(next).any(|ring| ring.owned_by(node, RING_WIDTH_MAX) > 0)
    }

    fn remove(&mut self, node: NodeId) {
        let Some(member) = self.members.remove(&node) else { return };
        self.superseded.remove(&node);
        self.removed.insert(node, Removed { directory: member.directory, epoch: self.epoch });
    }

    /// Whoever is dead and owns nothing in any table is no member any more. Whoever is leaving says itself when it has
    /// handed over everything: without any partition it may still keep writes for owners that are away.
    fn forget_the_dead(&mut self) {
        let gone: Vec<NodeId> = self.dead().filter(|node| !self.owns_anything(*node)).collect();
        gone.into_iter().for_each(|node| self.remove(node));
    }

    /// Goes from moving to closing, and from closing to the end, when it is time.
    pub(super) fn check_progress(&mut self) {
        let Some(change) = &mut self.change else { return };
        if change.closing.is_none() {
            let standing = |node: &NodeId| self.members.get(node).map(|member| member.standing);
            let up = |node: &NodeId| standing(node) == Some(Standing::Up);
            if !change.copies.is_empty() {
                // The ring stays as it is until another change: whoever leaves it fetches first, unless it is dead.
                change.waits.values_mut().for_each(|gainers| {
                    gainers.retain(|node| standing(node).is_some_and(|standing| standing != Standing::Dead));
                });
                change.waits.retain(|_, gainers| !gainers.is_empty());
            }
            // Somebody who shall own nothing (any more) will not fetch anything: what is not cut over stays as it is.
            let hopeless = change.copies.is_empty() && change.waits.values().flatten().any(|node| !up(node));
            if !change.waits.is_empty() && !hopeless {
                return;
            }
            // Nobody serves any more those who read by the table before the last cutover.
            self.epoch.0 += 2;
            change.closing = Some(self.epoch);
            if hopeless {
                self.asked += 1;
            }
        }
        if self.is_seen() {
            self.end();
        }
    }

    /// True when no read quorum is left that could answer as before a cutover: see `docs/moving.md`.
    fn is_seen(&self) -> bool {
        let (Some(change), Some(ring)) = (&self.change, &self.ring) else { return false };
        let copies = self.keyspaces.keys().filter_map(|id| self.copies(*id)).filter(|(now, _)| now.is_strict());
        let quorums: BTreeSet<(u8, u8, u8)> = copies.map(|(now, then)| (now.n, now.r, then.n)).collect();
        let silent = |node: &&NodeId| !change.seen.contains(node) && self.members.contains_key(node);
        ring.iter().filter(|(partition, _)| change.is_cut(*partition)).all(|(partition, _)| {
            quorums.iter().all(|&(n, r, next)| {
                let old = ring.owners(partition, n);
                let silent: Vec<&NodeId> = old.iter().filter(silent).collect();
                // Who was declared dead meanwhile may live, and serve whoever has not heard of it either. But where
                // nobody else is left to wait for, the operator's word must do.
                same(old, change.next.owners(partition, next))
                    || silent.len() < usize::from(r)
                    || !silent.into_iter().any(|node| self.has_living(*node))
            })
        })
    }

    fn end(&mut self) {
        let Some(change) = self.change.take() else { return };
        let Some(ring) = &self.ring else { return };
        let copies = change.copies;
        self.ring = Some(if change.waits.is_empty() {
            change.next
        } else {
            ring.blend(&change.next, |partition| change.waits.contains_key(&partition))
        });
        self.settle_copies(&copies);
        self.epoch.0 += 1;
        self.forget_the_dead();
        debug_assert!(self.members.len() <= MEMBERS_MAX);
    }
}
