mod least;

use super::*;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use proptest::prelude::*;

/// A cluster as data: id, zone and weight of each node.
#[derive(Clone, Debug)]
struct Cluster(Vec<(u64, String, u32)>);

impl Cluster {
    fn candidates(&self) -> Vec<Candidate<'_>> {
        self.0.iter().map(|(id, zone, weight)| Candidate { node: NodeId(*id), zone, weight: *weight }).collect()
    }

    fn solve(&self, bits: u8, width: u8, previous: Option<&Ring>) -> Ring {
        let ring = Ring::solve(bits, width, &self.candidates(), previous).unwrap();
        ring.verify(bits, &self.candidates()).unwrap();
        ring
    }

    fn zones(&self) -> usize {
        let named: BTreeSet<&str> = self.0.iter().map(|(_, zone, _)| zone.as_str()).filter(|z| !z.is_empty()).collect();
        named.len() + self.0.iter().filter(|(_, zone, _)| zone.is_empty()).count()
    }
}

fn equal(nodes: u64) -> Cluster {
    Cluster((1..=nodes).map(|id| (id, String::new(), 100)).collect())
}

fn loads(ring: &Ring, n: u8) -> BTreeMap<NodeId, u64> {
    let mut loads = BTreeMap::new();
    for (p, _) in ring.iter() {
        for &node in ring.owners(p, n) {
            *loads.entry(node).or_default() += 1;
        }
    }
    loads
}

fn moved(old: &Ring, new: &Ring, n: u8) -> u64 {
    new.iter().map(|(p, _)| new.owners(p, n).iter().filter(|o| !old.owners(p, n).contains(o)).count() as u64).sum()
}

fn clusters() -> impl Strategy<Value = Cluster> {
    let weight = prop_oneof![3 => Just(100u32), 1 => 20u32..400];
    (1usize..=64, 0u8..12).prop_flat_map(move |(nodes, zones)| {
        let zone = (0..=zones).prop_map(|zone| if zone == 0 { String::new() } else { format!("z{zone}") });
        prop::collection::vec((zone, weight.clone()), nodes)
            .prop_map(|nodes| Cluster(nodes.into_iter().zip(1u64..).map(|((z, w), id)| (id, z, w)).collect()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_cluster_gets_a_table_that_verifies(cluster in clusters(), width in 1u8..=RING_WIDTH_MAX) {
        let width = width.min(cluster.0.len() as u8);
        let ring = cluster.solve(8, width, None);
        prop_assert_eq!((ring.width(), ring.partitions()), (width, 256));
        let widest = usize::from(width).min(cluster.zones());
        for (_, owners) in ring.iter() {
            let zones: BTreeSet<String> = owners
                .iter()
                .map(|owner| {
                    let (id, zone, _) = cluster.0.iter().find(|(id, ..)| *id == owner.0).unwrap();
                    if zone.is_empty() { format!("alone {id}") } else { zone.clone() }
                })
                .collect();
            prop_assert_eq!(zones.len(), widest);
        }
    }

    #[test]
    fn the_order_of_the_candidates_does_not_matter(cluster in clusters(), seed: u64) {
        let width = 3.min(cluster.0.len() as u8);
        let mut other = cluster.clone();
        other.0.sort_by_key(|(id, ..)| id.wrapping_mul(seed | 1));
        prop_assert_eq!(cluster.solve(8, width, None), other.solve(8, width, None));
    }

    #[test]
    fn what_is_right_stays(cluster in clusters(), width in 1u8..=RING_WIDTH_MAX) {
        let width = width.min(cluster.0.len() as u8);
        let ring = cluster.solve(8, width, None);
        let again = cluster.solve(8, width, Some(&ring));
        prop_assert_eq!(moved(&ring, &again, width), 0, "the sets of owners");
        // Their order may still become a little better, which moves data of keyspaces with fewer copies.
        for n in 1..width {
            let (moved, slots) = (moved(&ring, &again, n), 256 * u64::from(n));
            prop_assert!(moved * 20 <= slots, "{moved} of {slots} slots of the first {n} owners");
        }
    }

    /// Whatever changes (nodes, zones, weights, width), the next table is right.
    #[test]
    fn any_change_gives_a_table_that_verifies(old in clusters(), new in clusters(), w in 1u8..=5, v in 1u8..=5) {
        let ring = old.solve(6, w.min(old.0.len() as u8), None);
        new.solve(6, v.min(new.0.len() as u8), Some(&ring));
    }

    #[test]
    fn adding_a_node_moves_what_it_shall_own(cluster in clusters(), at in 0usize..64) {
        prop_assume!(cluster.0.len() > 3);
        let newcomer = cluster.0[at % cluster.0.len()].clone();
        let before = { let mut c = cluster.clone(); c.0.retain(|(id, ..)| *id != newcomer.0); c };
        prop_assume!(before.zones() >= 3);
        let old = before.solve(8, 3, None);
        let new = cluster.solve(8, 3, Some(&old));
        check_least(&cluster, &old, &new)?;
    }

    #[test]
    fn removing_a_node_moves_what_it_owned(cluster in clusters(), at in 0usize..64) {
        prop_assume!(cluster.0.len() > 4);
        let gone = cluster.0[at % cluster.0.len()].0;
        let after = { let mut c = cluster.clone(); c.0.retain(|(id, ..)| *id != gone); c };
        prop_assume!(after.zones() >= 3);
        let old = cluster.solve(8, 3, None);
        let new = after.solve(8, 3, Some(&old));
        check_least(&after, &old, &new)?;
    }
}

/// At most 2 % above the least that any table with the same loads moves.
fn check_least(cluster: &Cluster, old: &Ring, new: &Ring) -> Result<(), TestCaseError> {
    let moved = moved(old, new, 3);
    let least = least::moves(&Layout::new(8, 3, &cluster.candidates()).unwrap(), old, new);
    prop_assert!(moved * 100 <= least * 102, "{moved} slots moved, {least} had to");
    Ok(())
}

#[test]
fn equal_nodes_own_equal_parts_in_every_position() {
    for nodes in [3, 4, 5, 6, 7, 8, 12, 31, 64] {
        let cluster = equal(nodes);
        let width = nodes.min(5) as u8;
        let ring = cluster.solve(8, width, None);
        for n in 1..=width {
            let loads = loads(&ring, n);
            let (low, high) = (loads.values().min().unwrap(), loads.values().max().unwrap());
            assert!(high - low <= 1, "{nodes} nodes, first {n} of {width}: {low} to {high}");
        }
    }
}

#[test]
fn weights_are_followed_in_every_prefix() {
    let cluster = Cluster((1..=20).map(|id| (id, String::new(), 50 + 10 * id as u32)).collect());
    let ring = cluster.solve(10, 5, None);
    let total: f64 = cluster.0.iter().map(|(_, _, weight)| f64::from(*weight)).sum();
    for n in 1..=5u8 {
        for (id, _, weight) in &cluster.0 {
            let share = 1024.0 * f64::from(n) * f64::from(*weight) / total;
            let load = ring.owned_by(NodeId(*id), n) as f64;
            assert!((load - share).abs() <= 1.0, "n{id} owns {load} of the first {n}, its share is {share}");
        }
    }
}

#[test]
fn a_node_that_comes_and_goes_moves_its_part_of_every_keyspace() {
    let small = equal(12);
    let big = equal(13);
    let old = small.solve(8, 5, None);
    let grown = big.solve(8, 5, Some(&old));
    let shrunk = small.solve(8, 5, Some(&grown));
    for n in [3, 5] {
        let part = grown.owned_by(NodeId(13), n) as u64;
        assert_eq!((moved(&old, &grown, n), moved(&grown, &shrunk, n)), (part, part), "first {n} owners");
    }
}

#[test]
fn a_node_shares_its_partitions_with_many_others() {
    for (nodes, bits) in [(10u64, 8u8), (30, 8), (64, 8), (64, 10)] {
        let ring = equal(nodes).solve(bits, 3, None);
        for id in 1..=nodes {
            let mine = || ring.iter().filter(|(_, owners)| owners.contains(&NodeId(id)));
            let partners: BTreeSet<NodeId> = mine().flat_map(|(_, owners)| owners.to_vec()).collect();
            let possible = (nodes as usize - 1).min(2 * mine().count());
            assert!((partners.len() - 1) * 2 > possible, "n{id} of {nodes}: {} of {possible}", partners.len() - 1);
        }
        let sets: BTreeSet<BTreeSet<NodeId>> =
            ring.iter().map(|(_, owners)| owners.iter().copied().collect()).collect();
        assert!(sets.len() as u64 > 3 * nodes, "{nodes} nodes in {} sets", sets.len());
    }
}

#[test]
fn a_thousand_nodes_get_a_table_and_one_more_moves_its_part() {
    let mut cluster = Cluster((1..=1000).map(|id| (id, format!("z{}", id % 10), 100)).collect());
    let old = cluster.solve(14, 5, None);
    cluster.0.push((5000, String::from("z1"), 100));
    let new = cluster.solve(14, 5, Some(&old));
    assert_eq!(moved(&old, &new, 5), new.owned_by(NodeId(5000), 5) as u64);
}

#[test]
fn a_diff_names_who_gains_and_who_loses() {
    let (old, new) = (equal(5).solve(8, 3, None), equal(6).solve(8, 3, None));
    let moves: Vec<Move> = old.diff(&new).collect();
    assert_eq!(moves.iter().map(|m| m.gains.len() as u64).sum::<u64>(), moved(&old, &new, 3));
    assert!(moves.iter().all(|m| m.gains.len() == m.loses.len() && !m.gains.contains(&m.loses[0])));
    assert_eq!(old.diff(&old).count(), 0);
}

#[test]
fn contradictions_are_refused() {
    let cluster = equal(3);
    let candidates = cluster.candidates();
    let solve = |bits, width, members: &[Candidate<'_>]| Ring::solve(bits, width, members, None).unwrap_err();
    assert_eq!(solve(0, 3, &candidates), RingError::Partitions(0));
    assert_eq!(solve(15, 3, &candidates), RingError::Partitions(15));
    assert_eq!(solve(8, 0, &candidates), RingError::Width { width: 0, members: 3 });
    assert_eq!(solve(8, 4, &candidates), RingError::Width { width: 4, members: 3 });
    assert_eq!(solve(8, 1, &[]), RingError::Width { width: 1, members: 0 });
    assert_eq!(solve(8, 2, &[candidates[0], candidates[0]]), RingError::Twice(NodeId(1)));
    let heavy = Candidate { weight: WEIGHT_MAX + 1, ..candidates[0] };
    assert_eq!(solve(8, 1, &[heavy]), RingError::Weight { node: NodeId(1), weight: WEIGHT_MAX + 1 });
    let other = cluster.solve(4, 3, None);
    let resized = Ring::solve(8, 3, &candidates, Some(&other)).unwrap_err();
    assert_eq!(resized, RingError::Resized { previous: 16, next: 256 });
}

#[test]
fn a_wrong_table_does_not_verify() {
    let cluster = Cluster((1..=6).map(|id| (id, format!("z{}", id % 3), 100)).collect());
    let good = cluster.solve(4, 3, None);
    let verify = |change: &dyn Fn(&mut Vec<NodeId>)| {
        let mut owners = good.owners.clone();
        change(&mut owners);
        Ring { width: 3, owners }.verify(4, &cluster.candidates())
    };
    assert_eq!(verify(&|_| ()), Ok(()));
    let (p, first, second) = (PartitionId(0), good.owners[0], good.owners[1]);
    assert_eq!(verify(&|o| o.truncate(45)), Err(RingError::Shape { slots: 45, expected: 48 }));
    assert_eq!(verify(&|o| o[0] = NodeId(9)), Err(RingError::Stranger { partition: p, node: NodeId(9) }));
    assert_eq!(verify(&|o| o[1] = first), Err(RingError::Repeated { partition: p, node: first }));
    let neighbour = NodeId(if second.0 > 3 { second.0 - 3 } else { second.0 + 3 });
    assert_eq!(verify(&|o| o[0] = neighbour), Err(RingError::Crowded(p)));
    let unbalanced = verify(&|o| (0..48).filter(|i| o[*i].0 > 3).collect::<Vec<_>>().iter().for_each(|&i| o[i].0 -= 3));
    assert_eq!(unbalanced, Err(RingError::Unbalanced { node: NodeId(1), slots: 16, allowed: 8 }));
}
