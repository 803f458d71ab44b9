//! The least that can move, found the slow and certain way: cancel negative cycles of the min-cost flow.

use super::super::share::Layout;
use super::{NodeId, PartitionId, Ring};
use alloc::vec;
use alloc::vec::Vec;

/// An arc of the residual graph; the cost of sending one unit along it.
struct Arc {
    from: usize,
    to: usize,
    cost: i64,
}

/// The fewest slots that change hands from `old` to any spread table in which every node holds as much as in `new`.
pub(super) fn moves(layout: &Layout, old: &Ring, new: &Ring) -> u64 {
    let index = |node: &NodeId| layout.nodes.binary_search(node).ok();
    let rows = |ring: &Ring| -> Vec<Vec<usize>> {
        ring.iter().map(|(_, row)| row.iter().filter_map(index).collect()).collect()
    };
    let (before, mut now) = (rows(old), rows(new));
    while let Some(cycle) = negative_cycle(layout, &before, &now) {
        for (p, node, enters) in cycle {
            if enters { now[p].push(node) } else { now[p].retain(|&n| n != node) }
        }
    }
    assert_eq!(old.owners(PartitionId(0), u8::MAX).len(), layout.width);
    now.iter().zip(&before).map(|(now, before)| now.iter().filter(|n| !before.contains(n)).count() as u64).sum()
}

/// Steps (partition, node, enters) of a cycle that makes the table cheaper and keeps all loads and the spread.
fn negative_cycle(layout: &Layout, before: &[Vec<usize>], now: &[Vec<usize>]) -> Option<Vec<(usize, usize, bool)>> {
    let (zones, partitions) = (layout.zones.len(), now.len());
    let spread = layout.spread(layout.width);
    let at_zone = |p: usize, zone: usize| partitions + p * zones + zone;
    let at_node = |node: usize| partitions * (1 + zones) + node;
    let mut arcs = Vec::new();
    for (p, row) in now.iter().enumerate() {
        for zone in 0..zones {
            let count = row.iter().filter(|&&n| layout.zone(n as u32) == zone).count();
            if count < usize::from(spread.high[zone]) {
                arcs.push(Arc { from: p, to: at_zone(p, zone), cost: 0 });
            }
            if count > usize::from(spread.low[zone]) {
                arcs.push(Arc { from: at_zone(p, zone), to: p, cost: 0 });
            }
        }
        for node in 0..layout.nodes.len() {
            let (zone, cost) = (at_zone(p, layout.zone(node as u32)), i64::from(!before[p].contains(&node)));
            arcs.push(if row.contains(&node) {
                Arc { from: at_node(node), to: zone, cost: -cost }
            } else {
                Arc { from: zone, to: at_node(node), cost }
            });
        }
    }
    let points = partitions * (1 + zones) + layout.nodes.len();
    let cycle = bellman_ford(points, &arcs)?;
    let step = |arc: &Arc| {
        let node = |point: usize| point.checked_sub(partitions * (1 + zones));
        let p = |point: usize| (point - partitions) / zones;
        node(arc.to).map(|n| (p(arc.from), n, true)).or_else(|| node(arc.from).map(|n| (p(arc.to), n, false)))
    };
    Some(cycle.into_iter().filter_map(|arc| step(&arcs[arc])).collect())
}

/// The arcs of some negative cycle.
fn bellman_ford(points: usize, arcs: &[Arc]) -> Option<Vec<usize>> {
    let mut distance = vec![0i64; points];
    let mut parent = vec![usize::MAX; points];
    let mut changed = None;
    for _ in 0..=points {
        changed = None;
        for (i, arc) in arcs.iter().enumerate() {
            if distance[arc.from] + arc.cost < distance[arc.to] {
                distance[arc.to] = distance[arc.from] + arc.cost;
                parent[arc.to] = i;
                changed = Some(arc.to);
            }
        }
        changed?;
    }
    let mut point = changed?;
    for _ in 0..points {
        point = arcs[parent[point]].from;
    }
    let (start, mut cycle) = (point, Vec::new());
    loop {
        cycle.push(parent[point]);
        point = arcs[parent[point]].from;
        if point == start {
            return Some(cycle);
        }
    }
}
