//! A node that is away for a while, and whether the owners agree afterwards.

use super::{Cluster, Machine};
use crate::id::{Key, NodeId};
use crate::testing::owners;
use std::collections::BTreeSet;

impl Cluster {
    /// Cuts a node off from all others, or lets it come back.
    pub(in crate::node) fn separate(&mut self, node: NodeId, cut: bool) {
        let others: Vec<NodeId> = self.machines.keys().copied().filter(|other| *other != node).collect();
        for other in others {
            self.cut(node, other, cut);
        }
    }

    /// One line per written key whose owners hold different records, and per node that still owes hints.
    pub(in crate::node) fn unequal(&self) -> Vec<String> {
        let keys: BTreeSet<&Key> = self.clients.history().iter().map(|event| &event.key).collect();
        let differ = |key: &&Key| {
            let records: Vec<_> = owners(&self.state, key).iter().map(|o| self.machines[o].disk.record(key)).collect();
            (records.windows(2).any(|pair| pair[0] != pair[1])).then(|| format!("{key:?}: {records:?}"))
        };
        let owes = |(id, machine): (&NodeId, &Machine)| {
            let node = machine.node.as_ref()?;
            (!node.owes_nothing()).then(|| format!("{id} owes {:?}", node.hints().collect::<Vec<_>>()))
        };
        keys.iter().filter_map(differ).chain(self.machines.iter().filter_map(owes)).collect()
    }

    /// Hints that their owners took.
    pub(in crate::node) fn replayed(&self) -> u64 {
        self.machines.values().filter_map(|m| m.node.as_ref()).map(|node| node.figures().hints_replayed).sum()
    }
}
