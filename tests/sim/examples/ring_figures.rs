//! The solver's figures, as a table for `docs/benchmarks.md`:
//!
//! `cargo run --release -p mks-tests-sim --example ring_figures`
//!
//! For every number of nodes: how far the busiest node is above its share, what adding and removing one node moves,
//! compared with the least that can be moved for such loads, and how long the slowest solve took. Every table is
//! verified as every node would: spread over zones, and no node above its share rounded up, or 5 % above it.

use mks_logic::id::NodeId;
use mks_logic::ring::{Candidate, Ring};
use std::time::Instant;

const COPIES: u8 = 3;

/// Dice, so that everybody gets the same table: SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % bound
    }
}

/// Node, zone, weight.
type Nodes = Vec<(u64, String, u32)>;

fn cluster(nodes: u64, mixed: bool) -> Nodes {
    let mut dice = Dice(nodes);
    let zones = 3 + dice.below(6);
    let mut one = |id| {
        if !mixed {
            return (id, String::new(), 100);
        }
        // At least three zones, so that every partition can lie in three.
        let zone = if id <= 3 { id } else { dice.below(zones) + 1 };
        (id, format!("z{zone}"), 50 + dice.below(151) as u32)
    };
    (1..=nodes).map(&mut one).collect()
}

#[derive(Default)]
struct Worst {
    imbalance: f64,
    added: f64,
    removed: f64,
    millis: u128,
}

struct Solver<'a> {
    bits: u8,
    worst: &'a mut Worst,
}

impl Solver<'_> {
    fn solve(&mut self, nodes: &Nodes, previous: Option<&Ring>) -> Ring {
        let candidates: Vec<_> =
            nodes.iter().map(|(id, zone, weight)| Candidate { node: NodeId(*id), zone, weight: *weight }).collect();
        let width = COPIES.min(nodes.len() as u8);
        let began = Instant::now();
        let ring = Ring::solve(self.bits, width, &candidates, previous).expect("every cluster has a table");
        self.worst.millis = self.worst.millis.max(began.elapsed().as_millis());
        ring.verify(self.bits, &candidates).expect("every table is right");
        ring
    }
}

fn loads(ring: &Ring, nodes: &Nodes) -> Vec<u64> {
    nodes.iter().map(|(id, ..)| ring.owned_by(NodeId(*id), COPIES) as u64).collect()
}

/// What moved, relative to the least for these loads.
fn movement(old: &Ring, new: &Ring, nodes: &Nodes) -> f64 {
    let moved: usize = old.diff(new).map(|one| one.gains.len()).sum();
    let grown = loads(new, nodes).into_iter().zip(loads(old, nodes)).map(|(new, old)| new.saturating_sub(old));
    moved as f64 / grown.sum::<u64>().max(1) as f64
}

fn measure(nodes: u64, bits: u8, mixed: bool, worst: &mut Worst) {
    let all = cluster(nodes, mixed);
    let mut solver = Solver { bits, worst };
    let ring = solver.solve(&all, None);
    if !mixed {
        // Loads are whole numbers: a share is rounded up before anybody is called unbalanced.
        let share = (u64::from(ring.width()) << bits).div_ceil(nodes);
        let busiest = loads(&ring, &all).into_iter().max().unwrap_or(0);
        solver.worst.imbalance = solver.worst.imbalance.max(busiest as f64 / share as f64);
    }
    if nodes > 3 {
        // The first three keep the zones at three.
        let mut fewer = all.clone();
        fewer.remove(3 + (nodes as usize - 3) / 2);
        let without = solver.solve(&fewer, Some(&ring));
        let removed = movement(&ring, &without, &fewer);
        let smaller = solver.solve(&fewer, None);
        let with = solver.solve(&all, Some(&smaller));
        let added = movement(&smaller, &with, &all);
        solver.worst.removed = solver.worst.removed.max(removed);
        solver.worst.added = solver.worst.added.max(added);
    }
}

fn main() {
    println!(
        "| nodes | partitions | zones and weights | busiest / share | added: moved / least | removed | slowest solve |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, counts) in [("1 to 64", 1..=64), ("100", 100..=100), ("300", 300..=300), ("1,000", 1_000..=1_000)] {
        for bits in [8, 11, 14] {
            for mixed in [false, true] {
                let mut worst = Worst::default();
                // One node has no zones to choose, and three are needed for the spread.
                for nodes in counts.clone().filter(|nodes| !mixed || *nodes >= 3) {
                    measure(nodes, bits, mixed, &mut worst);
                }
                let Worst { imbalance, added, removed, millis } = worst;
                let kind = if mixed { "random" } else { "equal" };
                let busiest = if mixed { "verified".to_string() } else { format!("{imbalance:.3}") };
                println!(
                    "| {name} | {} | {kind} | {busiest} | {added:.3} | {removed:.3} | {millis} ms |",
                    1u32 << bits
                );
            }
        }
    }
}
