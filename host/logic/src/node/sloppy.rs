//! Sloppy quorums: other nodes stand in for owners that are away, and keep the write until those are back (the Dynamo
//! paper, 4.6; DDIA chapter 5).
//!
//! Only where a request says so. Who stands in is the coordinator's choice: nodes outside the owner list that can be
//! reached, itself among them when it is no owner. What it keeps for owners beside its own copy never counts: that
//! would be one node twice.

use super::hints::KeepFor;
use super::{Kind, Node, Op, Step, Waiter};
use crate::cluster::Standing;
use crate::event::{Hint, HintId};
use crate::id::{Key, NodeId};
use crate::message::{Message, Refused, Tag, WriteOutcome};
use crate::quorum::{OWNERS_MAX, Spread};
use crate::request::OpError;
use crate::version::{Version, value_digest};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;

impl Node {
    /// Whether a node would answer now, as far as is known.
    pub(super) fn is_there(&self, node: NodeId) -> bool {
        node == self.me || self.is_linked(node) && self.is_alive(node)
    }

    /// Whether a node may keep what owners that are away are owed. One that shall leave would promise what keeps it
    /// here.
    fn stays(&self, node: NodeId) -> bool {
        self.state.members.get(&node).is_some_and(|member| member.standing != Standing::Leaving)
    }

    /// Nodes that may stand in for these owners: this one first, as its own disk is the nearest; the others take turns.
    pub(super) fn stand_ins(&self, owners: &[NodeId]) -> Vec<NodeId> {
        let may = |node: &NodeId| !owners.contains(node) && self.stays(*node) && self.is_there(*node);
        let mut all: Vec<NodeId> = self.state.members.keys().copied().filter(may).collect();
        let turn = self.serial as usize % all.len().max(1);
        all.rotate_left(turn);
        all.sort_by_key(|node| *node != self.me);
        all.truncate(OWNERS_MAX);
        all
    }

    /// Numbers for the zones of these owners and stand-ins, where so many distinct ones are asked for. A node without a
    /// zone is one by itself.
    ///
    /// # Errors
    /// When all of them together lie in fewer.
    pub(super) fn spread(
        &self,
        owners: &[NodeId],
        stand_ins: &[NodeId],
        zones_min: Option<u8>,
    ) -> Result<(Spread, Vec<u8>), OpError> {
        let Some(zones_min) = zones_min.filter(|min| *min > 1) else {
            return Ok((Spread::default(), alloc::vec![0; stand_ins.len()]));
        };
        let all: Vec<NodeId> = owners.iter().chain(stand_ins).copied().collect();
        let name = |node: &NodeId| self.state.members.get(node).map(|m| &*m.zone).filter(|zone| !zone.is_empty());
        let zone = |i: usize| {
            let own = name(&all[i]);
            all[..i].iter().position(|other| own.is_some() && name(other) == own).unwrap_or(i) as u8
        };
        let ids: Vec<u8> = (0..all.len()).map(zone).collect();
        let there = ids.iter().collect::<BTreeSet<_>>().len();
        if there < usize::from(zones_min) {
            return Err(OpError::Invalid(format!(
                "node_confirms is {zones_min}, but the nodes that could confirm lie in {there} zones; ask for fewer"
            )));
        }
        let mut zones = [0; OWNERS_MAX];
        zones[..owners.len()].copy_from_slice(&ids[..owners.len()]);
        Ok((Spread { zones_min, zones }, ids[owners.len()..].to_vec()))
    }

    /// Asks other nodes to stand in for owners, where a sloppy write lacks some.
    pub(super) fn call_stand_ins(&mut self, step: &mut Step<'_>, tag: Tag) {
        let is_open = |op: &&Op| op.waiter != Waiter::Nobody;
        let Some(Op { kind: Kind::Write { op, .. }, .. }) = self.ops.get(&tag).filter(is_open) else { return };
        if !op.is_sloppy() {
            return;
        }
        let may = |node: &NodeId| self.stays(*node) && self.is_there(*node);
        let there: BTreeSet<NodeId> = self.state.members.keys().copied().filter(may).collect();
        let Some(Op { kind: Kind::Write { op, .. }, .. }) = self.ops.get_mut(&tag) else { return };
        for (node, owner) in op.call_stand_ins(|node| there.contains(&node)) {
            self.figures.stand_ins += 1;
            self.ask_stand_in(step, tag, node, owner);
        }
    }

    fn ask_stand_in(&mut self, step: &mut Step<'_>, tag: Tag, node: NodeId, owner: NodeId) {
        let Some(Op { kind: Kind::Write { op, .. }, .. }) = self.ops.get(&tag) else { return };
        let (key, version, past, durability) = (op.key.clone(), op.version.clone(), op.past.clone(), op.durability);
        if node != self.me {
            self.send(step, node, Message::Keep { tag, owner, key, version, past, durability });
            return;
        }
        let id = self.hint_id(owner, &key, &version);
        let hint = Hint { id, key, version, past, counted: true };
        if let Err(refused) = self.keep_hint(step, hint, durability, KeepFor::Own(tag)) {
            self.written(step, tag, node, &WriteOutcome::Refused(refused));
        }
    }

    /// A link to a peer is up (again): it is asked again what it has not answered.
    pub(super) fn ask_stand_ins_again(&mut self, step: &mut Step<'_>, tag: Tag, peer: NodeId) {
        let Some(Op { kind: Kind::Write { op, .. }, .. }) = self.ops.get(&tag) else { return };
        let owner = op.unanswered_stand_ins().find(|(node, _)| *node == peer).map(|(_, owner)| owner);
        if let Some(owner) = owner {
            self.ask_stand_in(step, tag, peer, owner);
        }
    }

    /// The name of what is kept of a write for an owner.
    pub(super) fn hint_id(&self, owner: NodeId, key: &Key, version: &Version) -> HintId {
        let partition = key.place(self.state.partition_bits).partition;
        HintId { owner, partition, epoch: version.epoch, written: version.written, dot: version.dot }
    }

    /// A peer asks this node to stand in for an owner.
    pub(super) fn keep_asked(&mut self, step: &mut Step<'_>, from: NodeId, message: Message) {
        let Message::Keep { tag, owner, key, version, past, durability } = message else { return };
        let whose = KeepFor::Peer { node: from, tag };
        if !self.takes(version.epoch) {
            self.answer_keep(step, whose, WriteOutcome::StaleEpoch { current: self.state.epoch });
            return;
        }
        if self.incarnation.0 == 0 {
            // It does not know yet what it has promised to be over.
            self.answer_keep(step, whose, WriteOutcome::Refused(Refused::Busy));
            return;
        }
        if version.written <= self.promised() {
            self.answer_keep(step, whose, WriteOutcome::StaleStamp { latest: self.promised() });
            return;
        }
        let ahead_ms = version.written.ms().saturating_sub(step.now.wall_ms);
        let verdict = if ahead_ms > self.limits.clock_offset_max_ms {
            Err(Refused::StampFromFuture)
        } else {
            self.may_stand_in(owner, &key, &version)
        };
        let id = self.hint_id(owner, &key, &version);
        let hint = Hint { id, key, version, past, counted: true };
        let (sent_in, current) = (hint.version.epoch, self.state.epoch);
        match verdict.and_then(|()| self.keep_hint(step, hint, durability, whose)) {
            Ok(()) => {}
            // It was an owner when this was sent: whoever asks looks at the table again.
            Err(Refused::NotOwner) if sent_in < current => {
                self.answer_keep(step, whose, WriteOutcome::StaleEpoch { current });
            }
            Err(refused) => self.answer_keep(step, whose, WriteOutcome::Refused(refused)),
        }
    }

    /// It must be possible to hand the write over some day.
    fn may_stand_in(&mut self, owner: NodeId, key: &Key, version: &Version) -> Result<(), Refused> {
        let damaged = value_digest(version.value.as_deref()) != version.digest;
        if damaged || key.partition_key.len().max(key.sort_key.len()) > self.limits.key_bytes_max {
            self.figures.nonsense += 1;
            return Err(Refused::Damaged);
        }
        if !self.state.keyspaces.contains_key(&key.keyspace) {
            return Err(Refused::UnknownKeyspace);
        }
        let copies = self.state.copies_max(key.keyspace);
        let partition = key.place(self.state.partition_bits).partition;
        let may = owner != self.me && self.stays(self.me) && self.state.holds(owner, partition, copies);
        if may { Ok(()) } else { Err(Refused::NotOwner) }
    }

    /// A hint was kept for somebody who waits for it, or was not.
    pub(super) fn answer_keep(&mut self, step: &mut Step<'_>, whose: KeepFor, outcome: WriteOutcome) {
        match whose {
            KeepFor::Nobody => {}
            KeepFor::Own(tag) => self.written(step, tag, self.me, &outcome),
            KeepFor::Peer { node, tag } => self.send(step, node, Message::Written { tag, outcome }),
        }
    }
}
