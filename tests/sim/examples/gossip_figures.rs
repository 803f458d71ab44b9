//! What membership costs and how fast it is in large clusters, as a table for `docs/benchmarks.md`:
//!
//! `cargo run --release -p mks-tests-sim --example gossip_figures`
//!
//! For every number of nodes, with and without losses on the network: what each node sends while nothing happens, and
//! how long it takes until the first and the last node know of one that died. It fails when that is longer than 15
//! simulated seconds, when a node that lives is taken for dead at the end, or when the price per node grows with the
//! cluster while nothing is lost. (Where datagrams are lost, some nodes are suspected wrongly, the more the more there
//! are, and everybody hears of each of them.) What runs is `mks_logic::member` at default settings; the network takes
//! 0.5 to 5 ms. A datagram's seal, 65 bytes, and the headers of UDP and IP are not counted.

use bytes::Bytes;
use mks_logic::cluster::{Addresses, Member, Standing};
use mks_logic::id::{Incarnation, NodeId};
use mks_logic::member::{GossipSettings, Membership};
use mks_logic::time::Now;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

const SECOND: u64 = 1_000_000;
/// Until everybody has heard of everybody.
const WARM_UP: u64 = 20 * SECOND;
const MEASURED: u64 = 30 * SECOND;
/// A dead node must be known everywhere by then.
const KNOWN_WITHIN: u64 = 15 * SECOND;
/// The price of a node in the largest cluster, over that in a small one.
const GROWTH_MAX: f64 = 1.5;

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

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Start(NodeId),
    Wake(NodeId),
    Arrive { from: NodeId, to: NodeId, data: Bytes },
}

struct Town {
    now: u64,
    roster: BTreeMap<NodeId, Member>,
    /// Those that have started.
    nodes: BTreeMap<NodeId, Membership>,
    dead: Option<NodeId>,
    /// When, in which order among equals, and what.
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    scheduled: u64,
    /// When each node wakes next.
    wakes: BTreeMap<NodeId, u64>,
    loss_percent: u64,
    dice: Dice,
    datagrams: u64,
    bytes: u64,
}

const INCARNATION: Incarnation = Incarnation(1);

impl Town {
    fn new(count: u64, loss_percent: u64) -> Self {
        let member = |id: u64| Member {
            directory: u128::from(id),
            opening: u128::from(id),
            incarnation: INCARNATION,
            addresses: Addresses::default(),
            zone: String::new(),
            weight: 100,
            standing: Standing::Up,
            opened: 1,
        };
        let mut town = Self {
            now: 0,
            roster: (1..=count).map(|id| (NodeId(id), member(id))).collect(),
            nodes: BTreeMap::new(),
            dead: None,
            events: BinaryHeap::new(),
            scheduled: 0,
            wakes: BTreeMap::new(),
            loss_percent,
            dice: Dice(count + loss_percent),
            datagrams: 0,
            bytes: 0,
        };
        // Nodes don't start in one moment: their periods would be one.
        for id in (1..=count).map(NodeId) {
            let at = town.dice.below(SECOND);
            town.schedule(at, Event::Start(id));
        }
        town
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at, self.scheduled, event)));
    }

    /// One call of a node, and what it sends.
    fn with(&mut self, id: NodeId, call: impl FnOnce(&mut Membership, Now, &mut Vec<(NodeId, Bytes)>)) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let mut out = Vec::new();
        call(node, Now { mono_us: self.now, wall_ms: 0 }, &mut out);
        if let Some(at) = node.next_wake().filter(|at| self.wakes.get(&id) != Some(at)) {
            self.wakes.insert(id, at);
            self.schedule(at, Event::Wake(id));
        }
        for (to, data) in out {
            (self.datagrams, self.bytes) = (self.datagrams + 1, self.bytes + data.len() as u64);
            let (delay, lost) = (500 + self.dice.below(4_500), self.dice.below(100) < self.loss_percent);
            if !lost {
                self.schedule(self.now + delay, Event::Arrive { from: id, to, data });
            }
        }
    }

    fn run_until(&mut self, end: u64) {
        while let Some(Reverse((at, ..))) = self.events.peek()
            && *at <= end
            && let Some(Reverse((at, _, event))) = self.events.pop()
        {
            self.now = self.now.max(at);
            match event {
                Event::Start(id) => {
                    let seed = self.dice.below(u64::MAX);
                    self.nodes.insert(id, Membership::new(id, INCARNATION, seed, &GossipSettings::default()));
                    let roster = self.roster.clone();
                    self.with(id, |node, now, out| node.roster(now, &roster, out));
                }
                Event::Wake(id) if self.dead != Some(id) && self.wakes.get(&id) == Some(&at) => {
                    self.wakes.remove(&id);
                    self.with(id, |node, now, out| node.tick(now, out));
                }
                Event::Arrive { from, to, data } if self.dead != Some(to) => {
                    self.with(to, |node, now, out| {
                        node.datagram(now, from, INCARNATION, &data, out).expect("honest members alone are here");
                    });
                }
                Event::Wake(_) | Event::Arrive { .. } => {}
            }
        }
        self.now = end;
    }

    /// How many of those who live take `id` for dead.
    fn know_dead(&self, id: NodeId) -> usize {
        self.nodes.iter().filter(|(viewer, node)| self.dead != Some(**viewer) && !node.is_alive(id)).count()
    }

    /// Pairs of nodes that live of which one takes the other for dead.
    fn mistaken(&self) -> usize {
        self.nodes.keys().filter(|id| self.dead != Some(**id)).map(|id| self.know_dead(*id)).sum()
    }
}

#[derive(Clone, Copy)]
struct Row {
    datagrams: f64,
    bytes: f64,
    first_s: f64,
    last_s: f64,
}

fn measure(count: u64, loss_percent: u64) -> Row {
    let mut town = Town::new(count, loss_percent);
    town.run_until(WARM_UP);
    (town.datagrams, town.bytes) = (0, 0);
    town.run_until(WARM_UP + MEASURED);
    let per_node = |sum: u64| sum as f64 / count as f64 / (MEASURED / SECOND) as f64;
    let (datagrams, bytes) = (per_node(town.datagrams), per_node(town.bytes));

    let died = town.now;
    let dead = NodeId(count / 2);
    town.dead = Some(dead);
    let mut first = None;
    while town.know_dead(dead) < count as usize - 1 {
        assert!(town.now - died < KNOWN_WITHIN, "{} of {count} know it after 15 s", town.know_dead(dead));
        town.run_until(town.now + SECOND / 20);
        if town.know_dead(dead) > 0 {
            first = first.or(Some(town.now));
        }
    }
    let last = town.now;
    // Whoever was suspected wrongly has had the time to say so.
    town.run_until(last + 5 * SECOND);
    assert_eq!(town.mistaken(), 0, "some of {count} nodes that live are taken for dead");
    let since = |at: u64| (at - died) as f64 / SECOND as f64;
    Row { datagrams, bytes, first_s: since(first.unwrap_or(last)), last_s: since(last) }
}

fn main() {
    println!("| nodes | lost | datagrams per node and second | bytes | dead known by the first | by all |");
    println!("|---|---|---|---|---|---|");
    for loss_percent in [0, 5] {
        let mut small: Option<Row> = None;
        for count in [10, 100, 500] {
            let row = measure(count, loss_percent);
            println!(
                "| {count} | {loss_percent} % | {:.1} | {:.0} | {:.1} s | {:.1} s |",
                row.datagrams, row.bytes, row.first_s, row.last_s
            );
            let small = small.get_or_insert(row);
            let flat = row.datagrams <= small.datagrams * GROWTH_MAX && row.bytes <= small.bytes * GROWTH_MAX;
            assert!(flat || loss_percent > 0, "the price of a node grows with the cluster");
        }
    }
}
