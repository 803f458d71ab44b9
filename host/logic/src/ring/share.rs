//! How much each zone and node shall own: water levels, and their rounding to whole slots.

use super::{CANDIDATES_MAX, Candidate, PARTITION_BITS_MAX, RING_WIDTH_MAX, RingError, WEIGHT_MAX};
use crate::id::NodeId;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Shares are fixed-point numbers with this many fractional bits: integers give every node the same answer.
const SHARE_BITS: u32 = 32;
/// Fractions below this are the error of the search for a level, not a part of a slot.
const SHARE_NOISE: u64 = 1 << 12;
/// Levels (slots per unit of weight) need more: they are multiplied by weights.
const LEVEL_BITS: u32 = 48;

/// The candidates, sorted by node, with what every step of the solver asks about them.
#[derive(Debug)]
pub(super) struct Layout {
    /// Number of partitions.
    pub(super) partitions: usize,
    /// Owners per partition.
    pub(super) width: usize,
    /// Sorted.
    pub(super) nodes: Vec<NodeId>,
    /// Zone of each node.
    pub(super) zone_of: Vec<u32>,
    /// Nodes of each zone.
    pub(super) zones: Vec<Vec<u32>>,
    weights: Vec<u64>,
}

/// How many owners of one partition (or of a prefix of its list) each zone may and must have.
#[derive(Debug)]
pub(super) struct Spread {
    /// At least this many; above zero only where there are fewer zones than owners.
    pub(super) low: Vec<u8>,
    /// At most this many; one where there are as many zones as owners.
    pub(super) high: Vec<u8>,
    /// Owners beyond the sum of `low`.
    pub(super) extra: usize,
}

/// Shares as fixed-point numbers of slots.
struct Shares {
    zones: Vec<u64>,
    nodes: Vec<u64>,
}

/// What rounding has to know of one zone or node.
struct Part {
    share: u64,
    /// What it must not exceed, slots.
    max: u64,
    /// What it holds already, slots.
    kept: u64,
}

impl Layout {
    pub(super) fn new(partition_bits: u8, width: u8, members: &[Candidate<'_>]) -> Result<Self, RingError> {
        if partition_bits == 0 || partition_bits > PARTITION_BITS_MAX {
            return Err(RingError::Partitions(partition_bits));
        }
        if members.len() > CANDIDATES_MAX {
            return Err(RingError::Members(members.len()));
        }
        if width == 0 || width > RING_WIDTH_MAX || usize::from(width) > members.len() {
            return Err(RingError::Width { width, members: members.len() });
        }
        let mut sorted: Vec<&Candidate<'_>> = members.iter().collect();
        sorted.sort_by_key(|member| member.node);
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].node == pair[1].node) {
            return Err(RingError::Twice(pair[0].node));
        }
        if let Some(member) = sorted.iter().find(|member| member.weight == 0 || member.weight > WEIGHT_MAX) {
            return Err(RingError::Weight { node: member.node, weight: member.weight });
        }
        let mut layout = Self {
            partitions: 1 << partition_bits,
            width: usize::from(width),
            nodes: sorted.iter().map(|member| member.node).collect(),
            zone_of: Vec::with_capacity(sorted.len()),
            zones: Vec::new(),
            weights: sorted.iter().map(|member| u64::from(member.weight)).collect(),
        };
        let mut names: BTreeMap<&str, u32> = BTreeMap::new();
        for (member, node) in sorted.iter().zip(0u32..) {
            let fresh = layout.zones.len() as u32;
            let zone = if member.zone.is_empty() { fresh } else { *names.entry(member.zone).or_insert(fresh) };
            if zone == fresh {
                layout.zones.push(Vec::new());
            }
            layout.zones[zone as usize].push(node);
            layout.zone_of.push(zone);
        }
        Ok(layout)
    }

    /// The zone of a node, as an index.
    pub(super) fn zone(&self, node: u32) -> usize {
        self.zone_of[node as usize] as usize
    }

    /// The rule for the first `prefix` owners: the smallest cap per zone that leaves room for all of them.
    pub(super) fn spread(&self, prefix: usize) -> Spread {
        let room = |cap: usize| -> usize { self.zones.iter().map(|zone| zone.len().min(cap)).sum() };
        let cap = (1..=prefix).find(|&cap| room(cap) >= prefix).unwrap_or(prefix);
        let count = |cap: usize| self.zones.iter().map(|zone| zone.len().min(cap) as u8).collect();
        Spread { low: count(cap - 1), high: count(cap), extra: prefix - room(cap - 1) }
    }

    /// True when the owners, in this order, follow the rule `spread` for their number, and every prefix its own.
    ///
    /// That is the case when a zone's second owner comes after the first owner of every zone, and so on.
    pub(super) fn is_spread(&self, row: &[u32], spread: &Spread) -> bool {
        let count = |zone: usize| row.iter().filter(|&&node| self.zone(node) == zone).count();
        (0..row.len()).is_sorted_by_key(|i| self.rank(row, i))
            && row.iter().all(|&node| count(self.zone(node)) <= usize::from(spread.high[self.zone(node)]))
            && (self.zones.len() >= row.len()
                || spread.low.iter().enumerate().all(|(zone, &low)| count(zone) >= usize::from(low)))
    }

    /// How many owners of the same zone come before position `i`.
    pub(super) fn rank(&self, row: &[u32], i: usize) -> usize {
        row[..i].iter().filter(|&&other| self.zone(other) == self.zone(row[i])).count()
    }

    /// The most slots that a verified table may give each node: its share rounded up, or 5 % above it.
    pub(super) fn allowed(&self) -> impl Iterator<Item = u64> {
        self.shares(self.width).nodes.into_iter().map(|share| {
            let up = (share.saturating_sub(SHARE_NOISE) >> SHARE_BITS) + 1;
            up.max((share + share / 20) >> SHARE_BITS)
        })
    }

    /// Whole slots per node for the first `prefix` owners of every partition.
    ///
    /// `kept` is what each node holds of them already: it decides who is rounded up. `max` is what each node shall
    /// hold of a longer prefix, if that is decided.
    pub(super) fn quotas(&self, prefix: usize, kept: &[u64], max: Option<&[u64]>) -> Vec<u64> {
        let shares = self.shares(prefix);
        let spread = self.spread(prefix);
        let cap = self.partitions as u64;
        let node_max = |node: u32| max.map_or(cap, |max| max[node as usize]);
        let zone_parts: Vec<Part> = self
            .zones
            .iter()
            .zip(&shares.zones)
            .zip(&spread.high)
            .map(|((zone, &share), &high)| Part {
                share,
                max: (cap * u64::from(high)).min(zone.iter().map(|&node| node_max(node)).sum()),
                kept: zone.iter().map(|&node| kept[node as usize]).sum(),
            })
            .collect();
        let mut quotas = alloc::vec![0; self.nodes.len()];
        for (zone, total) in self.zones.iter().zip(apportion(cap * prefix as u64, &zone_parts)) {
            let parts: Vec<Part> = zone
                .iter()
                .map(|&node| Part {
                    share: shares.nodes[node as usize],
                    max: node_max(node),
                    kept: kept[node as usize],
                })
                .collect();
            for (&node, quota) in zone.iter().zip(apportion(total, &parts)) {
                quotas[node as usize] = quota;
            }
        }
        quotas
    }

    /// Water levels for the first `prefix` owners: one for all zones, and one within each zone that hit its bound.
    fn shares(&self, prefix: usize) -> Shares {
        let spread = self.spread(prefix);
        let cap = (self.partitions as u64) << SHARE_BITS;
        let bounds = |zone: usize| (cap * u64::from(spread.low[zone]), cap * u64::from(spread.high[zone]));
        let fill = |zone: usize, level: u128| -> u64 {
            self.zones[zone].iter().map(|&node| at_level(level, self.weights[node as usize], cap)).sum()
        };
        let zone_fill = |zone: usize, level: u128| {
            let (low, high) = bounds(zone);
            fill(zone, level).clamp(low, high)
        };
        let all = 0..self.zones.len();
        let level = lowest_level(cap, |level| {
            all.clone().map(|zone| zone_fill(zone, level)).sum::<u64>() >= cap * prefix as u64
        });
        let zones: Vec<u64> = all.clone().map(|zone| zone_fill(zone, level)).collect();
        let mut nodes = alloc::vec![0; self.nodes.len()];
        for zone in all {
            let level = if fill(zone, level) == zones[zone] {
                level
            } else {
                lowest_level(cap, |level| fill(zone, level) >= zones[zone])
            };
            for &node in &self.zones[zone] {
                nodes[node as usize] = at_level(level, self.weights[node as usize], cap);
            }
        }
        Shares { zones, nodes }
    }
}

/// What a weight gets at a level, up to a cap.
fn at_level(level: u128, weight: u64, cap: u64) -> u64 {
    let share = (level * u128::from(weight)) >> (LEVEL_BITS - SHARE_BITS);
    u64::try_from(share).map_or(cap, |share| share.min(cap))
}

/// The lowest level that is `enough`. At the highest one every node is at its cap.
fn lowest_level(cap: u64, enough: impl Fn(u128) -> bool) -> u128 {
    let (mut low, mut high) = (0u128, u128::from(cap) << (LEVEL_BITS - SHARE_BITS));
    while low < high {
        let middle = (low + high) / 2;
        if enough(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

/// Rounds shares to whole slots that add up to `total`.
///
/// Everybody gets the whole part. What is left goes first to those who hold more than that already, then by the size of
/// the fraction; where fractions do not suffice (a maximum bites), to anybody who has room.
fn apportion(total: u64, parts: &[Part]) -> Vec<u64> {
    let whole = |part: &Part| (part.share + SHARE_NOISE) >> SHARE_BITS;
    let fraction = |part: &Part| (part.share + SHARE_NOISE) & ((1 << SHARE_BITS) - 1);
    let mut slots: Vec<u64> = parts.iter().map(|part| whole(part).min(part.max)).collect();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|&i| {
        let (part, fraction) = (&parts[i], fraction(&parts[i]));
        let real = fraction > 2 * SHARE_NOISE;
        (Reverse(real), Reverse(real && part.kept > slots[i]), Reverse(fraction), i)
    });
    let mut sum: u64 = slots.iter().sum();
    while sum < total && order.iter().any(|&i| slots[i] < parts[i].max) {
        for &i in &order {
            if sum < total && slots[i] < parts[i].max {
                slots[i] += 1;
                sum += 1;
            }
        }
    }
    while sum > total && slots.iter().any(|&slots| slots > 0) {
        for &i in order.iter().rev() {
            if sum > total && slots[i] > 0 {
                slots[i] -= 1;
                sum -= 1;
            }
        }
    }
    slots
}

/// A number that looks random and is the same on every node: breaks ties, so that owner sets are scattered.
pub(super) fn scatter(partition: usize, thing: u64) -> u64 {
    xxh3_64_with_seed(&thing.to_le_bytes(), partition as u64)
}

/// Sorts those who have the largest part of their share left first, with enough noise to mix neighbours.
///
/// `left` slots of `share`, both whole. Anybody with nothing left comes last, with zero.
pub(super) fn urgency(left: u64, share: u64, noise: u64) -> u64 {
    if left == 0 { 0 } else { ((left << 16) + (noise & 0x1_FFFF)) / share.max(1) + 1 }
}
