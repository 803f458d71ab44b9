//! Up to where partitions are sealed, and what the next seal waits for.

use super::waits::named;
use crate::handle::Handle;
use mks_logic::cluster::{Awaited, State};
use mks_logic::id::{Epoch, NodeId};
use mks_logic::node::Undrained;
use std::collections::BTreeMap;

/// What the next seals wait for, for people; empty when everything is sealed that can be.
#[must_use]
pub fn seal_waits(handle: &Handle, state: &State) -> Vec<String> {
    let view = handle.view.load();
    let away = |node: NodeId| view.peers.iter().any(|peer| peer.node == node && !peer.alive);
    let (closed, mut waits) = (state.closed().epoch, Vec::new());
    let undrained = view.sealing.and_then(|sealing| sealing.undrained);
    if undrained.is_some_and(|(_, why)| why == Undrained::Off) {
        return vec!["limits.seals is off here, so tombstones stay on all disks".to_owned()];
    }
    // Nobody can say more than that.
    if state.ring.is_some() && closed.0 + 2 < state.epoch.0 {
        let name = |node: NodeId| match undrained {
            Some((epoch, why)) if node == handle.node => format!("{} ({})", node, reason(epoch, why)),
            _ => named(node, &away),
        };
        let nodes: Vec<String> = state.undrained().map(name).collect();
        waits.push(format!(
            "epoch {} is not closed: these have not said that they are done with all its writes: {}{}",
            Epoch(closed.0 + 1),
            nodes.join(", "),
            if state.undrained().any(&away) { "" } else { "; one that has started lately does two epochs later" }
        ));
    }
    let (mut moving, mut left, mut open) = (0u32, BTreeMap::new(), BTreeMap::new());
    for partition in state.partitions().filter(|partition| state.sealed(*partition).epoch < closed) {
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
        let node = named(node, &away);
        waits
            .push(format!("{count} partitions wait until {node} has handed over what it held of them before a change"));
    }
    for (node, count) in open {
        let node = named(node, &away);
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
