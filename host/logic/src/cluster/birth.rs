//! How a cluster is born, and how nodes join its roster or come back to it.

use super::parts::check_name;
use super::{Applied, MEMBERS_MAX, Member, Refusal, SUPERSEDED_MAX, State};
use crate::id::{Epoch, Incarnation, NodeId};
use crate::port::ResolverHash;
use crate::ring::PARTITION_BITS_MAX;
use alloc::format;
use alloc::string::ToString;

impl State {
    pub(super) fn found(
        &mut self,
        cluster: u128,
        partition_bits: u8,
        expect: u32,
        resolver: &str,
        resolver_hash: ResolverHash,
    ) -> Result<Applied, Refusal> {
        if self.cluster != 0 {
            return Err(Refusal::Order(format!("the cluster {:032x} is founded already", self.cluster)));
        }
        if cluster == 0 {
            return Err(Refusal::Invalid("the name of a cluster is not zero".to_string()));
        }
        if partition_bits == 0 || partition_bits > PARTITION_BITS_MAX {
            return Err(Refusal::Invalid(format!(
                "a cluster has 2^1 to 2^{PARTITION_BITS_MAX} partitions, not 2^{partition_bits}"
            )));
        }
        if expect == 0 || expect as usize > MEMBERS_MAX {
            return Err(Refusal::Invalid(format!("a cluster starts with 1 to {MEMBERS_MAX} nodes, not {expect}")));
        }
        check_name("resolver", resolver)?;
        *self = Self {
            cluster,
            epoch: Epoch(1),
            partition_bits,
            expect,
            keyspace_next: 1,
            default_resolver: resolver.to_string(),
            default_resolver_hash: Some(resolver_hash),
            ..Self::default()
        };
        Ok(Applied::Done)
    }

    pub(super) fn open(&mut self, node: NodeId, mut member: Member) -> Result<Applied, Refusal> {
        member.check(node)?;
        for (&other, there) in self.members.iter().filter(|&(&other, _)| other != node) {
            if let Some(address) = member.addresses.shared_with(&there.addresses) {
                return Err(Refusal::Invalid(format!(
                    "{node} says it listens on {address}, and so does {other}; give each node addresses of its own"
                )));
            }
        }
        if self.removed.contains_key(&node) {
            return Err(Refusal::Removed { node });
        }
        let forming = self.ring.is_none();
        let Some(known) = self.members.get_mut(&node) else {
            if self.members.len() >= MEMBERS_MAX {
                return Err(Refusal::Invalid(format!("the cluster has {MEMBERS_MAX} nodes, which is the most it can")));
            }
            member.incarnation = Incarnation(1);
            self.members.insert(node, member);
            self.advance();
            return Ok(Applied::Opened(Incarnation(1)));
        };
        if known.directory != member.directory {
            return Err(Refusal::IdTaken { node });
        }
        let superseded = self.superseded.entry(node).or_default();
        if superseded.contains(&member.opening) {
            return Err(Refusal::Superseded { node });
        }
        member.incarnation = known.incarnation;
        if known.opening != member.opening {
            if member.opened > 0 && member.opened <= known.opened {
                return Err(Refusal::RolledBack { node, opened: member.opened, known: known.opened });
            }
            member.incarnation.0 += 1;
            if superseded.len() == SUPERSEDED_MAX {
                superseded.remove(0);
            }
            superseded.push(known.opening);
        }
        let granted = member.incarnation;
        member.standing = known.standing;
        member.opened = member.opened.max(known.opened);
        if !forming {
            // What the cluster agreed on is changed by a wish, not by one node's config.
            (member.zone, member.weight) = (core::mem::take(&mut known.zone), known.weight);
        }
        *known = member;
        Ok(Applied::Opened(granted))
    }
}
