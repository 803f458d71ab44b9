//! What a change would do, shown before it is asked for.

use super::change::Wish;
use super::{Refusal, State};
use crate::id::{Epoch, NodeId};
use crate::ring::{RING_WIDTH_MAX, Ring};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// What a change would do. Nothing of it is agreed on yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The epoch that it was made in: whoever asks for the change passes it on, and is refused if something has changed
    /// since.
    pub epoch: Epoch,
    /// Copies per key that the figures count: those of the keyspace that has most.
    pub copies: u8,
    /// Partitions of which at least one copy is made anew.
    pub partitions: u32,
    /// Copies of partitions that are made anew, of `partitions of the cluster * copies`.
    pub moved: u32,
    /// All copies.
    pub slots: u32,
    /// Each node that owns something before or after, by id.
    pub loads: Vec<Load>,
    /// Each copy that is made anew: partition by partition, who gains and who loses.
    pub moves: Vec<crate::ring::Move>,
}

/// What one node owns before and after a change, partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Who.
    pub node: NodeId,
    /// What it owns now.
    pub before: u32,
    /// What it would own.
    pub after: u32,
    /// What it would fetch from others.
    pub gains: u32,
    /// What it would hand over.
    pub loses: u32,
}

impl State {
    /// What these wishes would do, together with what was asked for before and has not begun. Takes a while for large
    /// clusters.
    ///
    /// # Errors
    /// The [`Refusal`] that asking for them would meet.
    pub fn plan(&self, wishes: &[Wish]) -> Result<Plan, Refusal> {
        let mut then = self.clone();
        for wish in wishes {
            then.wish(wish, None)?;
        }
        let base = self.change.as_ref().map_or(self.ring.as_ref(), |change| Some(&change.next));
        let old = base.ok_or_else(|| Refusal::Order("the cluster is forming".into()))?;
        let new = then.solve()?;
        let copies = self.widest().max(1);
        let mut loads: BTreeMap<NodeId, Load> = BTreeMap::new();
        let mut count = |ring: &Ring, add: fn(&mut Load)| {
            for (partition, _) in ring.iter() {
                for &node in ring.owners(partition, copies) {
                    add(loads.entry(node).or_insert(Load { node, before: 0, after: 0, gains: 0, loses: 0 }));
                }
            }
        };
        count(old, |load| load.before += 1);
        count(&new, |load| load.after += 1);
        let moves: Vec<_> = old.diff_of(&new, copies).collect();
        for one in &moves {
            let mut tally = |nodes: &[NodeId], add: fn(&mut Load)| {
                nodes.iter().filter_map(|node| loads.get_mut(node).map(add)).for_each(drop);
            };
            tally(&one.gains, |load| load.gains += 1);
            tally(&one.loses, |load| load.loses += 1);
        }
        Ok(Plan {
            epoch: self.epoch,
            copies,
            partitions: moves.len() as u32,
            moved: moves.iter().map(|one| one.gains.len() as u32).sum(),
            slots: new.partitions() as u32 * u32::from(copies.min(RING_WIDTH_MAX)),
            loads: loads.into_values().collect(),
            moves,
        })
    }
}
