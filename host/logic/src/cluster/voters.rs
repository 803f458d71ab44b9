//! Who shall vote in the epoch log: a pure function of the state, so that every leader strives for the same.

use super::change::Standing;
use super::{Member, State};
use crate::id::NodeId;
use alloc::collections::{BTreeMap, BTreeSet};

/// Most voters of the epoch log. Five outlive two lost ones; more would only make each entry slower.
pub const VOTERS_MAX: usize = 5;

impl State {
    /// The voters as they shall be, given those who vote now and those who follow the log closely enough to begin.
    ///
    /// Two members vote both: the log is then on two disks. From three on the number is odd, because a fourth voter
    /// adds no lost node that could be borne. They are spread over zones; whoever votes already is preferred where that
    /// is equal. Members that shall leave lose their vote. While the cluster forms, the founder votes alone until all
    /// who are expected have joined.
    #[must_use]
    pub fn voters(&self, voting: &BTreeSet<NodeId>, ready: impl Fn(NodeId) -> bool) -> BTreeSet<NodeId> {
        if self.forming().is_some_and(|(joined, expected)| joined < expected) {
            return voting.clone();
        }
        let may = |member: &Member| match member.standing {
            Standing::Up => true,
            Standing::Joining => self.ring.is_none(),
            Standing::Leaving | Standing::Dead => false,
        };
        let fit = |(node, member): &(&NodeId, &Member)| may(member) && (voting.contains(node) || ready(**node));
        let mut left: BTreeMap<NodeId, &str> =
            self.members.iter().filter(fit).map(|(n, m)| (*n, &m.zone[..])).collect();
        let wanted = match left.len().min(VOTERS_MAX) {
            few @ 0..=2 => few,
            odd if odd % 2 == 1 => odd,
            even => even - 1,
        };
        let mut voters = BTreeSet::new();
        let mut crowd: BTreeMap<&str, usize> = BTreeMap::new();
        while voters.len() < wanted {
            let key = |(node, zone): &(&NodeId, &&str)| {
                let crowd = if zone.is_empty() { 0 } else { crowd.get(**zone).copied().unwrap_or(0) };
                (crowd, !voting.contains(node), **node)
            };
            let Some((&node, &zone)) = left.iter().min_by_key(key) else { break };
            left.remove(&node);
            *crowd.entry(zone).or_default() += 1;
            voters.insert(node);
        }
        // Without anybody who may vote the log would be lost: then those who vote go on.
        if voters.is_empty() { voting.clone() } else { voters }
    }
}
