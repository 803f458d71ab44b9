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

fn zoned(nodes: u64, zones: u64) -> Cluster {
    Cluster((1..=nodes).map(|id| (id, format!("z{}", id % zones), 100)).collect())
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
        prop_assert_eq!(&cluster.solve(8, width, Some(&ring)), &ring);
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

/// No table whose loads are the shares rounded up or down can move less than those who lack a share must gain.
fn check_least(cluster: &Cluster, old: &Ring, new: &Ring) -> Result<(), TestCaseError> {
    let layout = Layout::new(8, 3, &cluster.candidates()).unwrap();
    let had = loads(old, 3);
    let have = loads(new, 3);
    let least: u64 = layout
        .nodes
        .iter()
        .map(|node| have.get(node).copied().unwrap_or(0).saturating_sub(had.get(node).copied().unwrap_or(0)))
        .sum();
    let moved = moved(old, new, 3);
    prop_assert!(moved * 100 <= least * 102 + 100, "{moved} slots moved, {least} had to");
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
fn one_node_more_or_less_moves_its_part_of_every_prefix() {
    for (cluster, name) in [(equal(12), "alone"), (zoned(12, 3), "3 zones"), (zoned(12, 4), "4 zones")] {
        let old = cluster.solve(8, 5, None);
        let mut more = cluster.clone();
        more.0.push((99, String::from("z1"), 100));
        let grown = more.solve(8, 5, Some(&old));
        let shrunk = cluster.solve(8, 5, Some(&grown));
        for n in [1, 3, 5] {
            let (got, lost) = (loads(&grown, n)[&NodeId(99)], loads(&grown, n)[&NodeId(99)]);
            let (grew, shrank) = (moved(&old, &grown, n), moved(&grown, &shrunk, n));
            std::println!("{name} n={n}: grew {grew} for {got}, shrank {shrank} for {lost}");
        }
    }
}

#[test]
fn a_node_shares_its_partitions_with_many_others() {
    for (nodes, bits) in [(10u64, 8u8), (30, 8), (64, 8), (64, 10)] {
        let cluster = equal(nodes);
        let ring = cluster.solve(bits, 3, None);
        let mut least = usize::MAX;
        for id in 1..=nodes {
            let partners: BTreeSet<NodeId> =
                ring.iter().filter(|(_, o)| o.contains(&NodeId(id))).flat_map(|(_, o)| o.to_vec()).collect();
            least = least.min(partners.len() - 1);
        }
        let sets: BTreeSet<Vec<NodeId>> =
            ring.iter().map(|(_, o)| o.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()).collect();
        std::println!("{nodes} nodes, 2^{bits}: {} sets, at least {least} partners", sets.len());
    }
}

#[test]
fn big() {
    let cluster = zoned(1000, 10);
    let start = std::time::Instant::now();
    let old = cluster.solve(14, 5, None);
    std::println!("fresh {:?}", start.elapsed());
    let mut more = cluster.clone();
    more.0.push((5000, String::from("z1"), 100));
    let start = std::time::Instant::now();
    let grown = more.solve(14, 5, Some(&old));
    std::println!("grow {:?} moved {} of {}", start.elapsed(), moved(&old, &grown, 5), grown.owned_by(NodeId(5000), 5));
    for (id, _, w) in &mut more.0 { *w = 50 + (*id as u32 * 7919) % 100; }
    let start = std::time::Instant::now();
    let grown = more.solve(14, 5, Some(&grown));
    std::println!("reweigh {:?} moved {}", start.elapsed(), moved(&old, &grown, 5));
}
