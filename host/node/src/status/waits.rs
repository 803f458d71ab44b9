//! What a change of the members waits for, and for whom.

use crate::handle::Handle;
use mks_logic::cluster::{Change, Copies, Member, Standing, State};
use mks_logic::id::{KeyspaceId, NodeId};
use mks_logic::moves::{Phase, Way};
use mks_logic::ring::RING_WIDTH_MAX;
use std::collections::BTreeMap;

/// Partitions of this node that are named when they don't go on; the others seldom have another reason.
const STUCK_SHOWN_MAX: usize = 3;

/// Everything that is under way or waits, for people; empty when the cluster is as it shall be.
#[must_use]
pub fn waits(handle: &Handle, state: &State) -> Vec<String> {
    if state.ring.is_none() {
        return Vec::new();
    }
    let view = handle.view.load();
    let away = |node: NodeId| view.peers.iter().any(|peer| peer.node == node && !peer.alive);
    let mut waits = Vec::new();
    match &state.change {
        Some(change) => {
            waits.push(of_change(state, change, &away));
            if state.is_unsettled() {
                waits.push(format!("what was asked for since change {} began follows when it has ended", change.id));
            }
        }
        None if state.is_unsettled() => waits.push(
            "what was asked for of the members has not begun: the leader of the epoch log computes the next table"
                .into(),
        ),
        None => {}
    }
    waits.extend(state.wanted.iter().filter_map(|(id, wanted)| of_copies(state, *id, *wanted)));
    waits.extend(state.members.iter().filter_map(|(&node, member)| of_member(state, node, member, &away)));
    let stuck = view.moves.iter().filter(|one| one.phase == Phase::Waiting);
    let stuck = stuck.filter_map(|one| one.error.map(|error| (one, error)));
    waits.extend(stuck.take(STUCK_SHOWN_MAX).map(|(one, error)| {
        let way = match one.way {
            Way::In => "is not fetched by this node",
            Way::Out => "is not handed over by this node",
        };
        format!("partition {} {way} yet: {error}", one.partition.0)
    }));
    waits
}

fn of_copies(state: &State, id: KeyspaceId, wanted: Copies) -> Option<String> {
    let keyspace = state.keyspaces.get(&id)?;
    let width = state.ring.as_ref()?.width();
    let first = match &state.change {
        Some(change) => format!("; change {} must end first", change.id),
        None if wanted.n > width => format!("; the ring has {width} owners per partition, and is made wider first"),
        None => String::new(),
    };
    Some(format!("keyspace {:?} has {} copies and shall have {}{first}", keyspace.name, keyspace.n, wanted.n))
}

fn of_change(state: &State, change: &Change, away: &dyn Fn(NodeId) -> bool) -> String {
    let owns = |node: &NodeId| state.ring.as_ref().is_some_and(|ring| ring.owned_by(*node, RING_WIDTH_MAX) > 0);
    if change.closing.is_some() {
        let silent = state
            .members
            .iter()
            .filter(|(node, member)| owns(node) && member.standing != Standing::Dead && !change.seen.contains(node));
        let silent: Vec<String> = silent.map(|(node, _)| named(*node, away)).collect();
        return format!(
            "change {} is closing: it ends when enough of those who owned something before have heard so; it has not \
             heard from {}",
            change.id,
            silent.join(", ")
        );
    }
    let mut gainers: BTreeMap<NodeId, u32> = BTreeMap::new();
    for node in change.waits.values().flatten() {
        *gainers.entry(*node).or_default() += 1;
    }
    let gainers: Vec<String> = gainers.iter().map(|(node, count)| format!("{} {count}", named(*node, away))).collect();
    let copies = change.copies.iter().filter_map(|(id, copies)| {
        let keyspace = state.keyspaces.get(id)?;
        Some(format!(" (keyspace {:?} gets {} copies in the place of {})", keyspace.name, copies.n, keyspace.n))
    });
    format!(
        "change {}{}: {} of {} partitions still move; to be fetched: by {}",
        change.id,
        copies.collect::<String>(),
        change.waits.len(),
        change.moving,
        gainers.join(", by ")
    )
}

/// A member's name, with what keeps it from doing its part.
pub(super) fn named(node: NodeId, away: &dyn Fn(NodeId) -> bool) -> String {
    if away(node) {
        format!("{node} (does not answer gossip; if it will never come back: mks node leave {} --dead)", node.0)
    } else {
        node.to_string()
    }
}

/// Why a member owns nothing, or is still there.
fn of_member(state: &State, node: NodeId, member: &Member, away: &dyn Fn(NodeId) -> bool) -> Option<String> {
    let owned = |ring: &mks_logic::ring::Ring| ring.owned_by(node, RING_WIDTH_MAX) > 0;
    let now = state.ring.as_ref().is_some_and(owned);
    let next = state.change.as_ref().is_some_and(|change| owned(&change.next));
    if now {
        return None;
    }
    Some(match (member.standing, &state.change) {
        (Standing::Joining, _) => {
            format!("{node} owns nothing until it is accepted: mks node accept {}", node.0)
        }
        (Standing::Up, Some(change)) if next => {
            format!("{node} owns nothing yet: change {} brings its share", change.id)
        }
        (Standing::Up, _) if state.is_unsettled() => {
            format!("{node} owns nothing yet: the next change of the table brings its share")
        }
        (Standing::Up, _) => format!("{node} owns nothing: its weight is too small for one of the partitions"),
        (Standing::Leaving, _) => {
            let who = named(node, away);
            format!("{who} owns nothing any more, and leaves when it has handed over what only it holds")
        }
        (Standing::Dead, _) => format!("{node} was declared dead, and is forgotten when the change has ended"),
    })
}
