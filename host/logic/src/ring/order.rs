//! Who comes first: the order of the owners within each partition.

use super::Ring;
use super::share::Layout;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

/// Puts a zone's second owner after the first owner of every zone, and so on; within that by `key`.
pub(super) fn by_rank(layout: &Layout, row: &mut [u32], key: impl Fn(u32) -> u64) {
    row.sort_by_key(|&node| (key(node), node));
    let mut ranked: Vec<(usize, u32)> = (0..row.len()).map(|i| (layout.rank(row, i), row[i])).collect();
    ranked.sort_by_key(|&(rank, _)| rank);
    for (slot, (_, node)) in row.iter_mut().zip(ranked) {
        *slot = node;
    }
}

/// How often each node shall stand in each position (`node * width + position`), given what it owns altogether and
/// how often it stands there now.
pub(super) fn column_quotas(layout: &Layout, quotas: &[u64], column: &[u64]) -> Vec<u64> {
    let width = layout.width;
    let mut out = vec![0; quotas.len() * width];
    let mut all = quotas.to_vec();
    for position in (0..width).rev() {
        let prefix = if position == 0 {
            vec![0; quotas.len()]
        } else {
            let kept: Vec<u64> = column.chunks(width).map(|positions| positions[..position].iter().sum()).collect();
            layout.quotas(position, &kept, Some(&all))
        };
        for node in 0..quotas.len() {
            out[node * width + position] = all[node] - prefix[node];
        }
        all = prefix;
    }
    out
}

/// Orders the owners of each partition so that every position, and so every prefix, is balanced as well as the owner
/// sets allow. What stands right stays: with a previous table few partitions change their order.
pub(super) fn order(layout: &Layout, previous: Option<&Ring>, table: &mut [u32]) {
    let width = layout.width;
    let mut column = vec![0u64; layout.nodes.len() * width];
    for (slot, &node) in table.iter().enumerate() {
        column[node as usize * width + slot % width] += 1;
    }
    let quotas: Vec<u64> = column.chunks(width).map(|positions| positions.iter().sum()).collect();
    let none = vec![0; column.len()];
    let column_quotas = column_quotas(layout, &quotas, if previous.is_some() { &column } else { &none });
    for position in (1..width).rev() {
        Column::new(layout, table, position, &column_quotas).settle();
    }
}

/// One position of all partitions; those after it are settled, those before it are free.
struct Column<'a> {
    layout: &'a Layout,
    table: &'a mut [u32],
    position: usize,
    /// Partitions in which each node stands here.
    held: Vec<Vec<u32>>,
    quotas: Vec<u64>,
}

impl<'a> Column<'a> {
    fn new(layout: &'a Layout, table: &'a mut [u32], position: usize, column_quotas: &[u64]) -> Self {
        let mut held = vec![Vec::new(); layout.nodes.len()];
        for (row, p) in table.chunks(layout.width).zip(0u32..) {
            held[row[position] as usize].push(p);
        }
        let quotas = column_quotas.chunks(layout.width).map(|positions| positions[position]).collect();
        Self { layout, table, position, held, quotas }
    }

    fn load(&self, node: u32) -> u64 {
        self.held[node as usize].len() as u64
    }

    /// Swaps owners along shortest chains from nodes that stand here too often to nodes that do too rarely.
    fn settle(&mut self) {
        for node in 0..self.layout.nodes.len() as u32 {
            while self.load(node) > self.quotas[node as usize] && self.chain(node) {}
        }
    }

    /// `start` leaves this position in one partition, somebody before it comes here, and so on.
    fn chain(&mut self, start: u32) -> bool {
        let mut reached: Vec<Option<(u32, u32)>> = vec![None; self.layout.nodes.len()];
        let mut queue = VecDeque::from([start]);
        let mut found = None;
        'search: while let Some(node) = queue.pop_front() {
            for &p in &self.held[node as usize] {
                for before in self.exchangeable(p) {
                    if before == start || reached[before as usize].is_some() {
                        continue;
                    }
                    reached[before as usize] = Some((p, node));
                    if self.load(before) < self.quotas[before as usize] {
                        found = Some(before);
                        break 'search;
                    }
                    queue.push_back(before);
                }
            }
        }
        let Some(mut node) = found else { return false };
        while let Some((p, from)) = reached[node as usize] {
            self.swap(p, node, from);
            node = from;
        }
        true
    }

    /// The owners before this position that may change places with the one here: of the same zone, or as far down in
    /// another zone, so that every prefix stays spread.
    fn exchangeable(&self, p: u32) -> impl Iterator<Item = u32> + '_ {
        let start = p as usize * self.layout.width;
        let row = &self.table[start..start + self.layout.width];
        let rank = self.layout.rank(row, self.position);
        let zone = self.layout.zone(row[self.position]);
        (0..self.position)
            .filter(move |&i| self.layout.zone(row[i]) == zone || self.layout.rank(row, i) == rank)
            .map(move |i| row[i])
    }

    /// `node` comes here in partition `p`, `from` goes where it was.
    fn swap(&mut self, p: u32, node: u32, from: u32) {
        let start = p as usize * self.layout.width;
        let row = &mut self.table[start..start + self.layout.width];
        if let Some(i) = row.iter().position(|&owner| owner == node) {
            row.swap(i, self.position);
        }
        self.held[from as usize].retain(|&held| held != p);
        self.held[node as usize].push(p);
    }
}
