//! Which nodes own which partition: dealing afresh, or handing over from a previous table.

use super::share::{Layout, Spread, scatter, urgency};
use super::{Ring, order};
use crate::id::{NodeId, PartitionId};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;

/// Nobody: a slot that is still open.
pub(super) const OPEN: u32 = u32::MAX;

/// Questions "may this node own that partition?" that one solve asks at most while it looks for chains of takers: a
/// few seconds. Beyond it the table is dealt afresh, which is right but moves more.
const CHAIN_CHECKS_MAX: u64 = 400_000_000;

/// Owner sets as `partitions * width` indices of nodes.
pub(super) fn place(layout: &Layout, previous: Option<&Ring>) -> Vec<u32> {
    previous.and_then(|previous| hand_over(layout, previous)).unwrap_or_else(|| deal(layout))
}

/// Deals all partitions afresh.
///
/// Everybody's part that is left never exceeds the partitions that are left: whoever reaches that must be in every one
/// of them, and goes first. So the deal never gets stuck, whoever else is chosen.
fn deal(layout: &Layout) -> Vec<u32> {
    let spread = layout.spread(layout.width);
    let quotas = layout.quotas(layout.width, &vec![0; layout.nodes.len()], None);
    let mut left = quotas.clone();
    let mut extras: Vec<u64> = layout
        .zones
        .iter()
        .zip(&spread.low)
        .map(|(zone, &low)| {
            let total: u64 = zone.iter().map(|&node| quotas[node as usize]).sum();
            total.saturating_sub(u64::from(low) * layout.partitions as u64)
        })
        .collect();
    let extras_at_first = extras.clone();
    let mut table = Vec::with_capacity(layout.partitions * layout.width);
    let mut zones: Vec<(Reverse<u64>, usize)> = Vec::new();
    let mut nodes: Vec<(Reverse<u64>, u32)> = Vec::new();
    for p in 0..layout.partitions {
        let rest = (layout.partitions - p) as u64;
        zones.clear();
        zones.extend(extras.iter().enumerate().filter(|&(_, &extra)| extra > 0).map(|(zone, &extra)| {
            let noise = scatter(p, !(zone as u64));
            let key = if extra >= rest { u64::MAX } else { urgency(extra, extras_at_first[zone], noise) };
            (Reverse(key), zone)
        }));
        first(&mut zones, spread.extra);
        let chosen = &zones[..spread.extra.min(zones.len())];
        for (zone, members) in layout.zones.iter().enumerate() {
            let extra = chosen.iter().any(|&(_, chosen)| chosen == zone);
            let count = usize::from(spread.low[zone]) + usize::from(extra);
            if count == 0 {
                continue;
            }
            let visits = if spread.low[zone] > 0 { rest } else { extras[zone] };
            nodes.clear();
            nodes.extend(members.iter().filter(|&&node| left[node as usize] > 0).map(|&node| {
                let have = left[node as usize];
                let noise = scatter(p, u64::from(node));
                let key = if have >= visits { u64::MAX } else { urgency(have, quotas[node as usize], noise) };
                (Reverse(key), node)
            }));
            first(&mut nodes, count);
            for &(_, node) in nodes.iter().take(count) {
                left[node as usize] -= 1;
                table.push(node);
            }
        }
        for &(_, zone) in chosen {
            extras[zone] -= 1;
        }
        let row = p * layout.width;
        table.resize(row + layout.width, OPEN);
        order::by_rank(layout, &mut table[row..], |node| scatter(p, u64::from(node) | 1 << 40));
    }
    table
}

/// Brings the `count` smallest to the front, sorted.
fn first<T: Ord>(items: &mut [T], count: usize) {
    if count > 0 && count < items.len() {
        items.select_nth_unstable(count - 1);
    }
    let count = count.min(items.len());
    items[..count].sort_unstable();
}

/// Changes `previous` as little as possible. `None` when chains of takers did not settle everything.
fn hand_over(layout: &Layout, previous: &Ring) -> Option<Vec<u32>> {
    let mut hand = HandOver::new(layout, previous);
    hand.fill_open();
    for by_column in [true, false] {
        hand.unload(by_column);
    }
    hand.chains().then(|| {
        for row in hand.table.chunks_mut(layout.width) {
            let spread = layout.is_spread(row, &hand.spread);
            if !spread {
                let before: Vec<u32> = row.to_vec();
                let at = |node| before.iter().position(|&n| n == node).unwrap_or(0) as u64;
                order::by_rank(layout, row, at);
            }
        }
        hand.table
    })
}

/// The state of handing over: a table with open slots and loads that are not yet what they shall be.
struct HandOver<'a> {
    layout: &'a Layout,
    spread: Spread,
    /// `partitions * width` nodes, or [`OPEN`].
    table: Vec<u32>,
    /// The same as it was in the previous table: who holds the data now.
    before: Vec<u32>,
    /// Slots of each node.
    held: Vec<Vec<u32>>,
    /// What each node shall hold.
    quotas: Vec<u64>,
    /// Slots per node and position, and what that shall be: `node * width + position`.
    column: Vec<u64>,
    column_quotas: Vec<u64>,
    /// Nodes that hold less than they shall.
    under: Vec<u32>,
    checks: u64,
}

impl<'a> HandOver<'a> {
    fn new(layout: &'a Layout, previous: &Ring) -> Self {
        let width = layout.width;
        let index: BTreeMap<NodeId, u32> = layout.nodes.iter().zip(0..).map(|(&node, i)| (node, i)).collect();
        let mut table = vec![OPEN; layout.partitions * width];
        for (p, row) in table.chunks_mut(width).enumerate() {
            let owners = previous.owners(PartitionId(p as u16), u8::MAX);
            for (slot, owner) in row.iter_mut().zip(owners) {
                *slot = index.get(owner).copied().unwrap_or(OPEN);
            }
        }
        let before = table.clone();
        let spread = layout.spread(width);
        crowd_out(layout, &spread, &mut table);
        let mut held = vec![Vec::new(); layout.nodes.len()];
        let mut column = vec![0; layout.nodes.len() * width];
        for (slot, &node) in table.iter().enumerate().filter(|&(_, &node)| node != OPEN) {
            held[node as usize].push(slot as u32);
            column[node as usize * width + slot % width] += 1;
        }
        let kept: Vec<u64> = held.iter().map(|slots| slots.len() as u64).collect();
        let quotas = layout.quotas(width, &kept, None);
        let column_quotas = order::column_quotas(layout, &quotas, &column);
        let under = (0u32..).zip(&kept).filter(|&(n, &kept)| kept < quotas[n as usize]).map(|(n, _)| n).collect();
        Self { layout, spread, table, before, held, quotas, column, column_quotas, under, checks: 0 }
    }

    fn load(&self, node: u32) -> u64 {
        self.held[node as usize].len() as u64
    }

    fn quota(&self, node: u32) -> u64 {
        self.quotas[node as usize]
    }

    /// Gives `slot` to `node`, and takes it from whoever has it.
    fn give(&mut self, slot: u32, node: u32) {
        let position = slot as usize % self.layout.width;
        let from = core::mem::replace(&mut self.table[slot as usize], node);
        if from != OPEN {
            self.held[from as usize].retain(|&held| held != slot);
            self.column[from as usize * self.layout.width + position] -= 1;
            if self.load(from) < self.quota(from) && !self.under.contains(&from) {
                self.under.push(from);
            }
        }
        self.held[node as usize].push(slot);
        self.column[node as usize * self.layout.width + position] += 1;
        if self.load(node) >= self.quota(node) {
            self.under.retain(|&under| under != node);
        }
    }

    /// May `node` have `slot`, once whoever has it is gone?
    fn may(&self, slot: u32, node: u32) -> bool {
        let start = slot as usize / self.layout.width * self.layout.width;
        let row = &self.table[start..start + self.layout.width];
        let others = || row.iter().zip(start as u32..).filter(|&(_, at)| at != slot).map(|(&other, _)| other);
        if others().any(|other| other == node) {
            return false;
        }
        let count = |zone: usize| others().filter(|&other| other != OPEN && self.layout.zone(other) == zone).count();
        let zone = self.layout.zone(node);
        let mine = count(zone);
        if mine < usize::from(self.spread.low[zone]) {
            return true;
        }
        if mine >= usize::from(self.spread.high[zone]) {
            return false;
        }
        if self.layout.zones.len() >= self.layout.width {
            return true;
        }
        let open = 1 + others().filter(|&other| other == OPEN).count();
        let needed: usize =
            self.spread.low.iter().enumerate().map(|(zone, &low)| usize::from(low).saturating_sub(count(zone))).sum();
        open > needed
    }

    /// Would `node` stand right at the place of `slot`, so that no other owner has to change places?
    fn is_in_order(&self, slot: u32, node: u32) -> bool {
        let start = slot as usize / self.layout.width * self.layout.width;
        let mut row = self.table[start..start + self.layout.width].to_vec();
        row[slot as usize - start] = node;
        row.retain(|&node| node != OPEN);
        (0..row.len()).is_sorted_by_key(|i| self.layout.rank(&row, i))
    }

    /// The node with the largest part of its share missing that may have `slot`.
    fn taker(&mut self, slot: u32, by_column: bool) -> Option<u32> {
        let width = self.layout.width;
        let (p, position) = (slot as usize / width, slot as usize % width);
        self.checks += self.under.len() as u64;
        let wants = |node: &u32| {
            let i = *node as usize * width + position;
            !by_column || (self.column[i] < self.column_quotas[i] && self.is_in_order(slot, *node))
        };
        let key = |node: &u32| {
            let missing = self.quota(*node) - self.load(*node);
            (urgency(missing, self.quota(*node), scatter(p, u64::from(*node))), Reverse(*node))
        };
        self.under.iter().copied().filter(wants).filter(|&node| self.may(slot, node)).max_by_key(key)
    }

    /// Finds takers for the open slots: those who lack this position first, then any.
    fn fill_open(&mut self) {
        let mut open: Vec<u32> = (0u32..).zip(&self.table).filter(|&(_, &n)| n == OPEN).map(|(slot, _)| slot).collect();
        open.sort_by_key(|&slot| scatter(slot as usize, 0));
        for by_column in [true, false] {
            open.retain(|&slot| match self.taker(slot, by_column) {
                Some(node) => {
                    self.give(slot, node);
                    false
                }
                None => true,
            });
        }
    }

    /// Takes slots from nodes that have too many, and gives them to nodes that have too few.
    fn unload(&mut self, by_column: bool) {
        let width = self.layout.width;
        for node in 0..self.layout.nodes.len() as u32 {
            if self.load(node) <= self.quota(node) || self.under.is_empty() {
                continue;
            }
            let mut slots = self.held[node as usize].clone();
            slots.sort_by_key(|&slot| scatter(slot as usize, u64::from(node)));
            for slot in slots {
                if self.load(node) <= self.quota(node) {
                    break;
                }
                let i = node as usize * width + slot as usize % width;
                if by_column && self.column[i] <= self.column_quotas[i] {
                    continue;
                }
                if let Some(taker) = self.taker(slot, by_column) {
                    self.give(slot, taker);
                }
            }
        }
    }

    /// Settles what found no direct taker. True: everything is settled.
    fn chains(&mut self) -> bool {
        let mut open: Vec<u32> = (0u32..).zip(&self.table).filter(|&(_, &n)| n == OPEN).map(|(slot, _)| slot).collect();
        loop {
            open.retain(|&slot| self.table[slot as usize] == OPEN);
            let nodes = 0..self.layout.nodes.len() as u32;
            let over: Vec<u32> = nodes.filter(|&node| self.load(node) > self.quota(node)).collect();
            if open.is_empty() && over.is_empty() {
                return self.under.is_empty();
            }
            let Some(chain) = self.chain(&open, &over) else { return false };
            self.repeat(&chain, &open);
        }
    }

    /// Finds the cheapest chain in which each node takes a slot of the one before it, from an open slot or a node that
    /// has too many up to one that has too few, and lets them. `None`: there is none, or the search took too long.
    ///
    /// A step costs one when the taker must fetch data that the giver had: slots that move anyway, and nodes that
    /// come back to what they held, are free. So this is a search with costs 0 and 1.
    fn chain(&mut self, open: &[u32], over: &[u32]) -> Option<Vec<Step>> {
        let mut search = Search::new(self.layout.nodes.len());
        over.iter().for_each(|&node| search.push(node, 0, None));
        open.iter().for_each(|&slot| self.reach(slot, 0, &mut search));
        while let Some(node) = search.next() {
            let cost = search.cost[node as usize];
            if search.found.is_some_and(|found| search.cost[found as usize] <= cost) {
                break;
            }
            for i in 0..self.held[node as usize].len() {
                let slot = self.held[node as usize][i];
                if self.checks > CHAIN_CHECKS_MAX {
                    return None;
                }
                if !self.on_path(node, slot, &search) {
                    self.reach(slot, cost, &mut search);
                }
            }
        }
        let mut node = search.found?;
        let mut steps = Vec::new();
        while let Some(slot) = (node != OPEN).then(|| search.taken[node as usize]).flatten() {
            let from = self.table[slot as usize];
            steps.push((slot, Step { from, to: node, costs: self.costs(slot, node) }));
            node = from;
        }
        for (slot, step) in &steps {
            self.give(*slot, step.to);
        }
        Some(steps.into_iter().map(|(_, step)| step).collect())
    }

    /// Lets other slots go along a chain that was the cheapest, for as long as all of its steps find one at the same
    /// cost: chains do not become cheaper by those that went before them, and a search for each takes too long where
    /// thousands of partitions move.
    fn repeat(&mut self, chain: &[Step], open: &[u32]) {
        let slots_of = |from: u32| if from == OPEN { open.to_vec() } else { self.held[from as usize].clone() };
        let mut slots: Vec<_> = chain.iter().map(|step| slots_of(step.from).into_iter()).collect();
        let (Some(last), Some(first)) = (chain.first(), chain.last()) else { return };
        while self.load(last.to) < self.quota(last.to)
            && (first.from == OPEN || self.load(first.from) > self.quota(first.from))
        {
            let mut taken: Vec<(u32, u32)> = Vec::new();
            for (step, slots) in chain.iter().zip(&mut slots) {
                let partition = |slot: u32| slot as usize / self.layout.width;
                let fits = |&slot: &u32| {
                    self.table[slot as usize] == step.from
                        && taken.iter().all(|&(other, _)| partition(other) != partition(slot))
                        && self.costs(slot, step.to) == step.costs
                        && self.may(slot, step.to)
                };
                let Some(slot) = slots.find(fits) else { return };
                taken.push((slot, step.to));
            }
            for (slot, node) in taken {
                self.give(slot, node);
            }
        }
    }

    /// Whether `node` must fetch the partition of `slot` where who has it now need not.
    fn costs(&self, slot: u32, node: u32) -> bool {
        let giver = self.table[slot as usize];
        (giver == OPEN || self.had(slot, giver)) && !self.had(slot, node)
    }

    /// Notes all nodes that may take `slot` and were not reached at that cost before.
    fn reach(&mut self, slot: u32, cost: u32, search: &mut Search) {
        self.checks += search.cost.len() as u64;
        for node in 0..search.cost.len() as u32 {
            let cost = cost + u32::from(self.costs(slot, node));
            if cost < search.cost[node as usize] && self.may(slot, node) {
                search.push(node, cost, Some(slot));
                let found = search.found.map_or(u32::MAX, |found| search.cost[found as usize]);
                if self.load(node) < self.quota(node) && cost < found {
                    search.found = Some(node);
                }
            }
        }
    }

    /// True when `node` held the partition of `slot` in the previous table.
    fn had(&self, slot: u32, node: u32) -> bool {
        let start = slot as usize / self.layout.width * self.layout.width;
        self.before[start..start + self.layout.width].contains(&node)
    }

    /// True when the chain that led to `node` touches the partition of `slot` already: each may change once per chain.
    fn on_path(&self, mut node: u32, slot: u32, search: &Search) -> bool {
        let partition = slot as usize / self.layout.width;
        while let Some(slot) = (node != OPEN).then(|| search.taken[node as usize]).flatten() {
            if slot as usize / self.layout.width == partition {
                return true;
            }
            node = self.table[slot as usize];
        }
        false
    }
}

/// A search over nodes with step costs 0 and 1.
struct Search {
    /// Of the cheapest chain so far.
    cost: Vec<u32>,
    /// The slot that the last step of that chain takes.
    taken: Vec<Option<u32>>,
    queue: VecDeque<(u32, u32)>,
    done: Vec<bool>,
    /// The cheapest node that has too few slots.
    found: Option<u32>,
}

impl Search {
    fn new(nodes: usize) -> Self {
        Self {
            cost: vec![u32::MAX; nodes],
            taken: vec![None; nodes],
            queue: VecDeque::new(),
            done: vec![false; nodes],
            found: None,
        }
    }

    fn push(&mut self, node: u32, cost: u32, taken: Option<u32>) {
        self.cost[node as usize] = cost;
        self.taken[node as usize] = taken;
        if self.queue.front().is_none_or(|&(first, _)| cost <= first) {
            self.queue.push_front((cost, node));
        } else {
            self.queue.push_back((cost, node));
        }
    }

    /// The cheapest node that was not expanded yet.
    fn next(&mut self) -> Option<u32> {
        while let Some((_, node)) = self.queue.pop_front() {
            if !core::mem::replace(&mut self.done[node as usize], true) {
                return Some(node);
            }
        }
        None
    }
}

/// One step of a chain: from whom (or [`OPEN`]), to whom, and whether the taker must fetch what the giver has.
struct Step {
    from: u32,
    to: u32,
    costs: bool,
}

/// Opens the slots of owners that the rule for zones does not allow any more: after a change of zones or of width.
fn crowd_out(layout: &Layout, spread: &Spread, table: &mut [u32]) {
    for row in table.chunks_mut(layout.width) {
        loop {
            let count = |zone: usize| row.iter().filter(|&&n| n != OPEN && layout.zone(n) == zone).count();
            let beyond = |zone: usize, bound: &[u8]| count(zone) > usize::from(bound[zone]);
            let extras: usize = if layout.zones.len() >= layout.width {
                0
            } else {
                (0..layout.zones.len()).filter(|&zone| beyond(zone, &spread.low)).count()
            };
            let bound = if extras > spread.extra { &spread.low } else { &spread.high };
            let Some(last) = row.iter().rposition(|&n| n != OPEN && beyond(layout.zone(n), bound)) else { break };
            row[last] = OPEN;
        }
    }
}
