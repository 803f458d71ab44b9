//! What an owner does before it confirms a partition: it compares it with each other owner that has heard of the
//! closing as well, all epochs in one go, and makes what it holds then survive a power cut.

use super::For;
use crate::cluster::{CONFIRM_MAX, Entry};
use crate::event::SealWork;
use crate::exchange::SyncRefused;
use crate::id::{Epoch, NodeId, PartitionId};
use crate::node::sync::{Mover, Pair};
use crate::node::{Node, SOON, Step};
use crate::sync::End;
use crate::time::MonoUs;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// How far one partition is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    /// For its turn, or for an owner that can't be reached.
    #[default]
    Waiting,
    /// With that owner.
    Comparing(NodeId),
    /// With all of them: to be made durable, and said.
    Compared,
}

/// A partition of this node's that is to be confirmed.
#[derive(Debug, Default)]
pub(super) struct Confirming {
    /// Up to this closing; zero: it has not begun.
    closed: Epoch,
    compared: BTreeSet<NodeId>,
    phase: Phase,
}

impl Node {
    /// Which partitions are to be confirmed.
    pub(super) fn confirm_cluster(&mut self, step: &Step<'_>) {
        let now = step.now.mono_us;
        if self.seals.changes != self.state.changes {
            // Whoever looked before it began looked at other owners.
            self.seals.changes = self.state.changes;
            for partition in self.seals.confirming.keys().copied().collect::<Vec<_>>() {
                self.unconfirm(partition);
            }
        }
        let stale = |(partition, one): (&PartitionId, &Confirming)| {
            let said = self.state.confirmed(*partition, self.me) >= one.closed || !self.state.knows_closing(one.closed);
            (one.closed > Epoch(0) && said || !self.waits_for_me(*partition)).then_some(*partition)
        };
        for partition in self.seals.confirming.iter().filter_map(stale).collect::<Vec<_>>() {
            self.unconfirm(partition);
        }
        let new = |p: &PartitionId| !self.seals.confirming.contains_key(p) && self.waits_for_me(*p);
        for partition in self.state.partitions().filter(new).collect::<Vec<_>>() {
            self.seals.confirming.insert(partition, Confirming::default());
            self.seals.due.insert((now, partition));
        }
    }

    /// Whether the next seal of a partition waits for this node's word, and it may say it.
    fn waits_for_me(&self, partition: PartitionId) -> bool {
        let (state, me) = (&self.state, self.me);
        let is_mine = state.sealers(partition).contains(&me) && !state.is_moving(partition);
        let is_alone = state.leftovers(partition).next().is_none();
        is_mine && is_alone && state.confirmed(partition, me) < state.closed().epoch
    }

    /// From the start, after a pause.
    fn confirm_anew(&mut self, now: MonoUs, partition: PartitionId) {
        self.unconfirm(partition);
        self.seals.confirming.insert(partition, Confirming::default());
        self.put_off_confirming(now, partition, false);
    }

    fn unconfirm(&mut self, partition: PartitionId) {
        let seals = &mut self.seals;
        seals.confirming.remove(&partition);
        seals.ripe.remove(&partition);
        seals.held.remove(&partition);
        seals.due.retain(|(_, due)| *due != partition);
    }

    /// When what is compared is made durable: all at once, or after a pause.
    pub(super) fn flush_wake(&self) -> Option<MonoUs> {
        let seals = &self.seals;
        if seals.ripe.is_empty() || seals.flushing {
            return None;
        }
        let goes_on = seals.confirming.values().any(|one| matches!(one.phase, Phase::Comparing(_)));
        Some(if goes_on { seals.ripe_since + self.limits.move_retry_ms * 1_000 } else { 0 })
    }

    pub(super) fn confirm_tick(&mut self, step: &mut Step<'_>) {
        let now = step.now.mono_us;
        while self.sync_has_room() && self.knows_purged() {
            let Some((at, partition)) = self.seals.due.first().copied().filter(|(at, _)| *at <= now) else { break };
            self.seals.due.remove(&(at, partition));
            self.confirm(step, partition);
        }
        if self.flush_wake().is_some_and(|at| at <= now) {
            let ripe = core::mem::take(&mut self.seals.ripe);
            let closed = |partition: PartitionId| self.seals.confirming.get(&partition).map(|one| one.closed);
            let ripe = ripe.into_iter().filter_map(|p| closed(p).map(|closed| (p, closed))).collect();
            self.seals.flushing = true;
            self.seal_job(step, For::Flush(ripe), SealWork::Flush);
        }
    }

    fn put_off_confirming(&mut self, now: MonoUs, partition: PartitionId, soon: bool) {
        let pause = self.limits.move_retry_ms * 1_000 / if soon { SOON } else { 1 };
        if let Some(one) = self.seals.confirming.get_mut(&partition) {
            one.phase = Phase::Waiting;
            self.seals.due.insert((now + pause, partition));
        }
    }

    /// Compares a partition with the next of its other owners.
    fn confirm(&mut self, step: &mut Step<'_>, partition: PartitionId) {
        let now = step.now.mono_us;
        let doubts = self.scrub.doubts(partition, self.state.partition_bits);
        let may = self.comparable(partition).is_some() && !doubts;
        let (before, closed) = (self.state.confirmed(partition, self.me), self.seals.closed);
        let Some(one) = self.seals.confirming.get_mut(&partition) else { return };
        if one.compared.is_empty() {
            one.closed = closed;
        }
        if !may || one.closed <= before {
            one.closed = Epoch(0);
            one.compared.clear();
            return self.put_off_confirming(now, partition, true);
        }
        let missing = |node: &NodeId| *node != self.me && !one.compared.contains(node);
        let mut missing: Vec<NodeId> = self.state.sealers(partition).iter().copied().filter(missing).collect();
        if missing.is_empty() {
            one.phase = Phase::Compared;
            if self.seals.ripe.is_empty() {
                self.seals.ripe_since = now;
            }
            self.seals.ripe.insert(partition);
            return;
        }
        let turn = self.serial as usize % missing.len();
        missing.rotate_left(turn);
        let Some(node) = missing.into_iter().find(|node| self.is_linked(*node)) else {
            return self.put_off_confirming(now, partition, false);
        };
        let Some(one) = self.seals.confirming.get_mut(&partition) else { return };
        let closed = one.closed;
        one.phase = Phase::Comparing(node);
        if !self.sync_move(step, (partition, node), Mover::Seal(closed)) {
            // That pair is compared in its turn just now.
            self.put_off_confirming(now, partition, true);
        }
    }

    /// A comparison has ended; without an end it was lost, or its epoch is over.
    pub(in crate::node) fn seal_compared(&mut self, step: &Step<'_>, (partition, node): Pair, end: Option<End>) {
        let now = step.now.mono_us;
        let Some(one) = self.seals.confirming.get_mut(&partition) else { return };
        // It may be one of before a change.
        if one.phase != Phase::Comparing(node) {
            return;
        }
        match end {
            Some(End::Clean | End::Mended) => {
                one.phase = Phase::Waiting;
                one.compared.insert(node);
                self.seals.due.insert((now, partition));
            }
            None | Some(End::Cut | End::Refused(SyncRefused::OtherEpoch(_) | SyncRefused::Busy)) => {
                self.put_off_confirming(now, partition, true);
            }
            Some(End::Partial | End::PluginDrift | End::Unready | End::Refused(_) | End::Nonsense) => {
                self.put_off_confirming(now, partition, false);
            }
        }
    }

    /// What was compared is durable, or not.
    pub(super) fn confirm_flushed(&mut self, now: MonoUs, partitions: Vec<(PartitionId, Epoch)>, done: bool) {
        self.seals.flushing = false;
        for (partition, closed) in partitions {
            let Some(one) = self.seals.confirming.get(&partition) else { continue };
            // It may have begun anew meanwhile.
            if one.phase != Phase::Compared || one.closed != closed {
                continue;
            }
            if done {
                self.seals.held.insert(partition);
            } else {
                self.put_off_confirming(now, partition, false);
            }
        }
        self.says_soon(now);
    }

    /// What this node confirms, of the earliest closing.
    pub(super) fn confirm_entry(&mut self, now: MonoUs) -> Option<Entry> {
        let bits = self.state.partition_bits;
        for partition in self.seals.held.clone() {
            // What the disk holds may be less than what was compared.
            if self.scrub.doubts(partition, bits) {
                self.confirm_anew(now, partition);
            }
        }
        let of = |partition: &PartitionId| self.seals.confirming.get(partition).map(|one| one.closed);
        let closed = self.seals.held.iter().filter_map(of).min()?;
        let same = self.seals.held.iter().copied().filter(|partition| of(partition) == Some(closed));
        let partitions: Vec<PartitionId> = same.take(CONFIRM_MAX).collect();
        Some(Entry::Confirm { node: self.me, closed, changes: self.state.changes, partitions })
    }
}
