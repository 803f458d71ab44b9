//! Another number of copies for a keyspace that holds data.
//!
//! What operators ask for waits in the state ([`State::wanted`]) until no change of the table is due or under way; then
//! one change takes all that the ring has places for. It is a change like others (`docs/moving.md`), but for what
//! differs between its two tables: the ring stays, and a keyspace takes another number of its places. More than the
//! ring has places for waits for a wider ring, which is an ordinary change before it.

use super::change::{Change, Tables, same};
use super::{Keyspace, Refusal, State};
use crate::id::{KeyspaceId, NodeId, PartitionId};
use crate::ring::{RING_WIDTH_MAX, Ring};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How many owners each key of a keyspace has, and how many of them must answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Copies {
    /// Owners of each key.
    pub n: u8,
    /// Owners that must answer a read.
    pub r: u8,
    /// Owners that must hold a write before it is acknowledged.
    pub w: u8,
}

impl Copies {
    /// So many, with majorities: the usual ones.
    #[must_use]
    pub const fn usual(n: u8) -> Self {
        Self { n, r: n / 2 + 1, w: n / 2 + 1 }
    }

    /// Whether every set of owners that acknowledged a write is met by every set that answers a read.
    #[must_use]
    pub const fn is_strict(self) -> bool {
        self.r + self.w > self.n
    }
}

impl Keyspace {
    /// Its copies, in the table in force.
    #[must_use]
    pub const fn copies(&self) -> Copies {
        Copies { n: self.n, r: self.r, w: self.w }
    }

    pub(super) fn set_copies(&mut self, Copies { n, r, w }: Copies) {
        (self.n, self.r, self.w) = (n, r, w);
    }
}

impl State {
    /// Copies of a keyspace in the table in force, and in the next one.
    #[must_use]
    pub fn copies(&self, id: KeyspaceId) -> Option<(Copies, Copies)> {
        let now = self.keyspaces.get(&id)?.copies();
        Some((now, self.change.as_ref().and_then(|change| change.copies.get(&id)).copied().unwrap_or(now)))
    }

    /// Copies of a keyspace once everything that was asked for is done.
    #[must_use]
    pub fn copies_wanted(&self, id: KeyspaceId) -> Option<Copies> {
        self.wanted.get(&id).copied().or_else(|| self.copies(id).map(|(_, next)| next))
    }

    /// The most owners that a key of the keyspace has in any table in force; zero: there is no such keyspace.
    #[must_use]
    pub fn copies_max(&self, id: KeyspaceId) -> u8 {
        self.copies(id).map_or(0, |(now, next)| now.n.max(next.n))
    }

    /// The same of each keyspace.
    pub fn all_copies_max(&self) -> impl Iterator<Item = (KeyspaceId, u8)> + '_ {
        self.keyspaces.keys().map(|id| (*id, self.copies_max(*id)))
    }

    /// The same of the keyspace that has most.
    #[must_use]
    pub fn widest(&self) -> u8 {
        self.all_copies_max().map(|(_, copies)| copies).max().unwrap_or(0)
    }

    /// Keyspaces whose number of copies is changing, or shall: what they have and what they shall have.
    pub fn recopied(&self) -> impl Iterator<Item = (&Keyspace, Copies)> {
        let wanted = |(id, keyspace)| self.copies_wanted(id).map(|wanted| (keyspace, wanted));
        let all = self.keyspaces.iter().filter_map(move |(id, keyspace)| wanted((*id, keyspace)));
        all.filter(|(keyspace, wanted)| keyspace.copies() != *wanted)
    }

    /// Whether a change waits to be begun, of the table or of numbers of copies: [`Self::due`] says which.
    #[must_use]
    pub fn has_due(&self) -> bool {
        self.change.is_none() && self.is_unsettled() || !self.due_copies().is_empty()
    }

    /// Who owns a key of the keyspace in that partition.
    #[must_use]
    pub fn tables(&self, partition: PartitionId, id: KeyspaceId) -> Tables<'_> {
        self.copies(id).map_or_else(Tables::default, |copies| self.tables_of(partition, copies))
    }

    /// The same for any keyspace of so many copies now, and so many in the next table.
    #[must_use]
    pub fn tables_of(&self, partition: PartitionId, (now, then): (Copies, Copies)) -> Tables<'_> {
        let old = self.owners(partition, now.n);
        let alone = Tables { read: old, old, next: None, r: now.r, w: [now.w; 2] };
        let Some(change) = &self.change else { return alone };
        let next = change.next.owners(partition, then.n);
        if same(old, next) {
            return alone;
        }
        let (read, r) = if change.is_cut(partition) { (next, then.r) } else { (old, now.r) };
        Tables { read, old, next: Some(next), r, w: [now.w, then.w] }
    }

    /// Owners of a partition that must fetch it for the keyspace, in a change from `old` to `next`.
    ///
    /// Those that are new. Where quorums of before and of after need not meet, the others as well: of the owners that
    /// acknowledged a write, those that stay may be none, or fewer than the readers of then can miss. And where those
    /// that stay and those that are new may be fewer than acknowledge a write then, or the next change would count on
    /// holders that are not there.
    pub(super) fn gainers<'a>(
        (now, then): (Copies, Copies),
        (old, next): (&'a [NodeId], &'a [NodeId]),
    ) -> impl Iterator<Item = NodeId> + use<'a> {
        let (missed, few) = (now.w + then.r <= now.n, now.w + then.n < now.n + then.w);
        let all = now.n != then.n && (missed || few);
        next.iter().copied().filter(move |node| all || !old.contains(node))
    }

    /// Whether a node must fetch a partition for the keyspace before it is cut over.
    #[must_use]
    pub fn gains(&self, node: NodeId, partition: PartitionId, id: KeyspaceId) -> bool {
        let (Some(change), Some(copies)) = (&self.change, self.copies(id)) else { return false };
        let tables = (self.owners(partition, copies.0.n), change.next.owners(partition, copies.1.n));
        Self::gainers(copies, tables).any(|gainer| gainer == node)
    }

    /// Takes in how many copies a keyspace shall have. Where the number is another one, what it has stays until a
    /// change has made them.
    pub(super) fn want(&mut self, id: KeyspaceId, wanted: Copies) {
        self.wanted.remove(&id);
        let Some((now, next)) = self.copies(id) else { return };
        if next.n != wanted.n || now.n != next.n && next != wanted {
            self.wanted.insert(id, wanted);
        } else if now.n == next.n
            && let Some(keyspace) = self.keyspaces.get_mut(&id)
        {
            keyspace.set_copies(wanted);
        }
    }

    /// Refuses a number of copies that there can never be.
    pub(super) fn check_copies(&self, keyspace: &Keyspace) -> Result<(), Refusal> {
        let (up, n) = (self.up(), keyspace.n);
        if n > RING_WIDTH_MAX || usize::from(n) > up {
            return Err(Refusal::Invalid(format!(
                "n = {n} owners per key; there are {up} members that own data, and a key has {RING_WIDTH_MAX} owners at \
                 most"
            )));
        }
        Ok(())
    }

    /// What the next change makes of the number of copies: all that the ring has places for.
    fn due_copies(&self) -> BTreeMap<KeyspaceId, Copies> {
        let Some(ring) = self.ring.as_ref().filter(|_| self.change.is_none() && !self.is_unsettled()) else {
            return BTreeMap::new();
        };
        self.wanted.iter().filter(|(_, wanted)| wanted.n <= ring.width()).map(|(id, wanted)| (*id, *wanted)).collect()
    }

    /// The entry that begins to change the number of copies, if that is due. The leader proposes it.
    pub(super) fn begin_copies_entry(&self) -> Option<super::Entry> {
        (!self.due_copies().is_empty()).then_some(super::Entry::BeginCopies { changes: self.changes })
    }

    pub(super) fn begin_copies(&mut self, changes: u64) -> Result<(), Refusal> {
        let ring = self.formed()?.clone();
        if let Some(change) = &self.change {
            return Err(Refusal::Order(format!(
                "change {} is under way; what is asked for since follows it",
                change.id
            )));
        }
        let copies = self.due_copies();
        if changes != self.changes || copies.is_empty() {
            return Err(Refusal::Order("no keyspace waits for another number of copies, or not any more".into()));
        }
        self.wanted.retain(|id, _| !copies.contains_key(id));
        self.begin_change(ring, copies);
        Ok(())
    }

    /// Two tables are in force from now on.
    pub(super) fn begin_change(&mut self, next: Ring, copies: BTreeMap<KeyspaceId, Copies>) {
        let Some(old) = self.ring.clone() else { return };
        self.changes += 1;
        // Nobody takes any more what was sent under one table alone.
        self.epoch.0 += 2;
        let (id, began) = (self.changes, self.epoch);
        // Whoever hears of this knows that they are dead, and hears them no more.
        let seen = self.dead().collect();
        self.change = Some(Change { id, began, next, copies, waits: BTreeMap::new(), moving: 0, closing: None, seen });
        let waits = self.all_gainers(&old);
        if let Some(change) = &mut self.change {
            (change.moving, change.waits) = (waits.len() as u32, waits);
        }
        self.unconfirm_moving();
        self.check_progress();
    }

    /// Who must fetch which partition.
    fn all_gainers(&self, old: &Ring) -> BTreeMap<PartitionId, Vec<NodeId>> {
        let copies: BTreeSet<(Copies, Copies)> = self.keyspaces.keys().filter_map(|id| self.copies(*id)).collect();
        let mut gains: BTreeMap<PartitionId, Vec<NodeId>> = BTreeMap::new();
        for (partition, _) in self.change.iter().flat_map(|change| change.next.iter()) {
            for &(now, then) in &copies {
                let next = self.change.as_ref().map_or(&[][..], |change| change.next.owners(partition, then.n));
                for node in Self::gainers((now, then), (old.owners(partition, now.n), next)) {
                    let gainers = gains.entry(partition).or_default();
                    if !gainers.contains(&node) {
                        gainers.push(node);
                    }
                }
            }
        }
        gains
    }

    /// The change has ended: keyspaces have the copies that it has made.
    pub(super) fn settle_copies(&mut self, made: &BTreeMap<KeyspaceId, Copies>) {
        for (id, copies) in made {
            if let Some(keyspace) = self.keyspaces.get_mut(id) {
                keyspace.set_copies(*copies);
            }
        }
        // What was asked for meanwhile, and needs no change.
        for (id, wanted) in core::mem::take(&mut self.wanted) {
            self.want(id, wanted);
        }
    }
}
