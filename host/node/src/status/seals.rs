//! Up to where partitions are sealed, and what the next seal waits for.

use super::waits::named;
use crate::handle::Handle;
use mks_logic::cluster::{Awaited, State};
use mks_logic::id::{Epoch, NodeId, PartitionId};
use mks_logic::node::Undrained;
use mks_logic::ring::Ring;
use std::collections::BTreeMap;

/// All partitions.
pub fn partitions(state: &State) -> impl Iterator<Item = PartitionId> + use<> {
    let partitions = state.ring.as_ref().map_or(0, Ring::partitions);
    (0..partitions).filter_map(|partition| u16::try_from(partition).ok().map(PartitionId))
}

/// What the next seals wait for, for people; empty when everything is sealed that can be.
#[must_use]
pub fn seal_waits(handle: &Handle, state: &State) -> Vec<String> {
    let view = handle.view.load();
    let away = |node: NodeId| view.peers.iter().any(|peer| peer.node == node && !peer.alive);
    let names = |nodes: &mut dyn Iterator<Item = NodeId>| nodes.map(|node| named(node, &away)).collect::<Vec<_>>();
    let (closed, mut waits) = (state.closed().epoch, Vec::new());
    if view.sealing.and_then(|sealing| sealing.undrained).is_some_and(|(_, why)| why == Undrained::Off) {
        return vec!["limits.seals is off here, so tombstones stay on all disks".to_owned()];
    }
    // Nobody can say more than that.
    if state.ring.is_some() && closed.0 + 2 < state.epoch.0 {
        let why = view.sealing.and_then(|sealing| sealing.undrained);
        let name = |node: NodeId| match why {
            Some((epoch, why)) if node == handle.node => format!("{} ({})", node, reason(epoch, why)),
            _ => named(node, &away),
        };
        let nodes: Vec<String> = state.undrained().map(name).collect();
        waits.push(format!(
            "epoch {} is not closed: these have not said that they are done with all its writes: {}",
            Epoch(closed.0 + 1),
            nodes.join(", ")
        ));
    }
    let (mut moving, mut left, mut open) = (0u32, BTreeMap::new(), BTreeMap::new());
    for partition in partitions(state).filter(|partition| state.sealed(*partition).epoch < closed) {
        let (counts, nodes): (&mut BTreeMap<NodeId, u32>, _) = match state.awaits(partition) {
            Awaited::Change => {
                moving += 1;
                continue;
            }
            Awaited::Leftovers(nodes) => (&mut left, nodes),
            Awaited::Owners(nodes) => (&mut open, nodes),
            Awaited::Drained(_) => continue,
        };
        nodes.into_iter().for_each(|node| *counts.entry(node).or_default() += 1);
    }
    if moving > 0 {
        waits.push(format!("{moving} partitions are not sealed before the change that moves them has ended"));
    }
    for (node, count) in left {
        let node = names(&mut std::iter::once(node)).join("");
        waits
            .push(format!("{count} partitions wait until {node} has handed over what it held of them before a change"));
    }
    for (node, count) in open {
        let node = names(&mut std::iter::once(node)).join("");
        waits.push(format!("{count} partitions wait for {node}, which has not compared them up to epoch {closed}"));
    }
    waits
}

fn reason(epoch: Epoch, why: Undrained) -> String {
    match why {
        Undrained::Off => "limits.seals is off here".to_owned(),
        Undrained::Young => format!("it started after epoch {epoch} had begun, and can speak of later ones only"),
        Undrained::Writes => format!("writes of epoch {epoch} are under way"),
        Undrained::Hints(owner) => format!("it keeps writes of epoch {epoch} or before for {owner}"),
        Undrained::Store => "its store failed".to_owned(),
        Undrained::Said => "the epoch log is yet to hear it".to_owned(),
    }
}
