//! Epochs that pass, work of disks for seals, and the deliberate bugs about them.

use crate::dice::Dice;
use crate::log::{KEYSPACE, PARTITION_BITS};
use crate::mutation::Mutation;
use crate::plan::{MS, part};
use crate::site::{Phase, Site};
use crate::world::{Event, Local, Timed, World};
use mks_logic::cluster::{Entry, Mark};
use mks_logic::event::{Input, JobId, Purge, SealJob, SealOutcome, SealWork, WriteJob};
use mks_logic::id::{NodeId, PartitionId};
use mks_logic::message::Message;
use mks_logic::node::Node;
use mks_logic::note::{self, tombstone};
use mks_logic::outline::Outline;
use mks_logic::port::Durability;
use mks_logic::purge;
use mks_logic::time::Hlc;
use std::cmp::Reverse;

/// How long an epoch lasts once the trouble is over, microseconds.
const CALM_EPOCH_US: u64 = 1_000 * MS;

impl Site {
    /// What is not sealed up to the goal, or not purged; `None`: everything is.
    #[must_use]
    pub fn unsealed(&self) -> Option<String> {
        let (state, goal) = (&self.log.state, self.seal_goal?);
        let mut partitions = (0..1 << PARTITION_BITS).map(PartitionId);
        if let Some(partition) = partitions.find(|partition| state.sealed(*partition).epoch < goal) {
            let (sealed, closed, waits) = (state.sealed(partition), state.closed(), state.awaits(partition));
            let nodes = self.present().map(|machine| (machine.id, machine.node.as_ref().map(Node::sealing)));
            let nodes: Vec<_> = nodes.collect();
            return Some(format!(
                "{partition} is sealed up to {sealed:?} and not {goal}; {closed:?} is closed, it waits for {waits:?}: \
                 {nodes:?}"
            ));
        }
        let busy = |node: &Node| {
            let sealing = node.sealing();
            sealing.confirming + sealing.purging > 0 || sealing.undrained.is_some()
        };
        let late = |machine: &&crate::machine::Machine| {
            machine.applied < self.log.entries.len() || machine.node.as_ref().is_none_or(busy)
        };
        let late = self.present().find(late)?;
        Some(format!("{} is not done: {:?}", late.id, late.node.as_ref().map(Node::sealing)))
    }
}

impl World {
    /// The epoch's time is over, until the last ones that the run waits for.
    pub(crate) fn epoch(&mut self) {
        if self.site.seal_goal.is_some() {
            return;
        }
        self.propose(Entry::Advance);
        let usual = self.site.plan.epoch_us;
        let mut dice = Dice::new(self.site.plan.seed ^ self.site.now_us, part::SEALS);
        let pause = if self.site.phase == Phase::Safety { dice.between(usual / 2, 2 * usual) } else { CALM_EPOCH_US };
        self.schedule(pause.max(2 * self.site.plan.lag_us), Event::Epoch);
    }

    /// All clocks go on, and nothing else: whatever was to happen happens so much later.
    pub(crate) fn leap(&mut self, by_us: u64) {
        if self.site.phase != Phase::Safety {
            return;
        }
        self.note(|| format!("{} days pass", by_us / 86_400_000_000));
        let later = |Timed { at: Reverse((at, number)), event }| Timed { at: Reverse((at + by_us, number)), event };
        self.heap = std::mem::take(&mut self.heap).into_iter().map(later).collect();
        self.site.now_us += by_us;
        self.site.leaped_us += by_us;
        self.site.log.stalled_until += by_us;
        self.clients.leaped(by_us);
        for machine in &mut self.site.machines {
            machine.leaped_us += by_us;
            for until in [&mut machine.deaf_until, &mut machine.paused_until].into_iter().filter(|until| **until > 0) {
                *until += by_us;
            }
        }
        for (from, to) in self.net.pairs() {
            self.net.stream(from, to).last_arrival += by_us;
        }
    }

    /// It lies between two commits, as commits happen in one moment.
    pub(crate) fn seals(&mut self, id: NodeId, job: SealJob) {
        let mutation = self.site.plan.mutation;
        let outcome = match (mutation, &job.work) {
            (Some(Mutation::DrainedWithHints), SealWork::Drain { .. }) => SealOutcome::Drained { least: None },
            (Some(Mutation::EpochAlone), SealWork::Purge(purge)) => self.purge_by_epoch(id, purge),
            (_, work) => self.seal_work(id, work),
        };
        let delay = self.dice.between(20, MS) * self.machine(id).slow;
        self.local(id, delay, Local::Input(Box::new(Input::Sealed { job: job.job, outcome })));
        if self.machine(id).disk.is_stopped() {
            self.local(id, delay, Local::Die);
        }
    }

    /// A disk removes what is closed as soon as its node hears of that.
    pub(crate) fn purge_early(&mut self, id: NodeId) {
        let seal = self.machine(id).state.closed();
        if self.site.plan.mutation != Some(Mutation::PurgeEarly) || self.machine(id).early >= seal.epoch {
            return;
        }
        self.machine(id).early = seal.epoch;
        for partition in (0..1 << PARTITION_BITS).map(PartitionId) {
            let (keyspaces, after) = (vec![KEYSPACE], bytes::Bytes::new());
            self.seal_work(id, &SealWork::Purge(Purge { partition, seal, keyspaces, whole: true, after }));
        }
    }

    /// A disk removes tombstones of epochs that are sealed, whenever they were stamped.
    fn purge_by_epoch(&mut self, id: NodeId, purge: &Purge) -> SealOutcome {
        let blind = Purge { seal: Mark { clock: Hlc(u64::MAX), ..purge.seal }, ..purge.clone() };
        let outcome = self.seal_work(id, &SealWork::Purge(blind));
        // The mark that says how far it came is no bug.
        let mark = vec![note::mark(purge.partition, purge.seal)];
        if matches!(outcome, SealOutcome::Purged { next: None, .. }) {
            let _ = self.machine(id).ports().store.apply(mark, Durability::Os);
        }
        outcome
    }

    /// A disk takes a late copy that its node refuses.
    pub(crate) fn take_closed(&mut self, id: NodeId, message: &Message) {
        let Message::Write { key, version, past, fresh: false, durability, .. } = message else { return };
        let state = &self.site.machine(id).state;
        let Some(keyspace) = state.keyspaces.get(&key.keyspace) else { return };
        let owns = state.holds(id, key.place(state.partition_bits).partition, state.copies_max(key.keyspace));
        if self.site.plan.mutation != Some(Mutation::ClosedTaken) || !owns || version.epoch > state.closed().epoch {
            return;
        }
        let job = WriteJob {
            job: JobId(u64::MAX),
            key: key.clone(),
            version: version.clone(),
            past: past.clone(),
            mint: None,
            fresh: false,
            durability: *durability,
            policy: keyspace.policy(),
            replaces: false,
            beside: Vec::new(),
            apply: None,
        };
        self.machine(id).waiting.push(job);
        self.commit_soon(id);
    }

    /// A node that may be left with something says that it is not.
    pub(crate) fn rid_early(&mut self, id: NodeId) {
        let state = &self.site.machine(id).state;
        if self.site.plan.mutation == Some(Mutation::RidEarly) && state.is_leftover(id) && state.change.is_none() {
            let changes = state.changes;
            self.propose(Entry::Rid { node: id, changes });
        }
    }

    fn seal_work(&mut self, id: NodeId, work: &SealWork) -> SealOutcome {
        let stamps = |world: &Self| -> Vec<Option<Hlc>> {
            let outline = |key: &mks_logic::id::Key| {
                let record = world.site.machine(id).disk.record(&key.engine_key(PARTITION_BITS));
                tombstone(&Outline::of(&record).rows).map(|row| row.written)
            };
            world.site.keys.iter().map(outline).collect()
        };
        let purges = matches!(work, SealWork::Purge(_));
        let before = if purges { stamps(self) } else { Vec::new() };
        let outcome = purge::work(self.machine(id).ports(), work);
        let after = if purges { stamps(self) } else { Vec::new() };
        for (key, (before, after)) in before.into_iter().zip(after).enumerate() {
            if let (Some(stamp), None) = (before, after) {
                self.note(|| format!("{id} purges key {key}, deleted at {stamp:?}"));
                let known = self.site.purged.entry(key).or_default();
                *known = stamp.max(*known);
                self.check(|invariant, site| invariant.purged(site, id, key, stamp));
            }
        }
        outcome
    }
}
