//! Partitions on their way in and out of this node: what it fetches as an owner to be, what it hands over and drops
//! when it is none any more, and what it says of that to the epoch log. Why nothing is missed: `docs/moving.md`.

#[cfg(test)]
mod tests;

use super::sync::{Mover, Pair};
use super::{JobFor, Node, SOON, Step};
use crate::cluster::{Entry, Standing};
use crate::event::{Effect, JobId, MoveJob, MoveOutcome, MoveWork};
use crate::exchange::SyncRefused;
use crate::id::{Epoch, KeyspaceId, NodeId, PartitionId};
use crate::moves::{MoveError, Moving, Phase, Way};
use crate::sync::{End, Tally};
use crate::time::MonoUs;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use bytes::Bytes;

/// How far one partition is.
#[derive(Debug)]
struct Progress {
    phase: Phase,
    /// When to go on.
    at: MonoUs,
    records: u64,
    bytes: u64,
    error: Option<MoveError>,
}

impl Progress {
    fn new(at: MonoUs) -> Self {
        Self { phase: Phase::Waiting, at, records: 0, bytes: 0, error: None }
    }
}

/// A partition that this node gains.
#[derive(Debug)]
struct In {
    progress: Progress,
    /// Old owners that it was compared with, in this change.
    compared: BTreeSet<NodeId>,
}

/// A partition of which this node has records that it does not own.
#[derive(Debug)]
struct Out {
    progress: Progress,
    /// Of keyspaces of so many copies, and who was given all that is here of them.
    copies: BTreeMap<u8, BTreeSet<NodeId>>,
    /// Writes that were taken as an owner are among the jobs up to this one.
    since: JobId,
    /// Once it is dropped: only keyspaces of fewer copies; `None`: all of it.
    below: Option<u8>,
}

/// Whether this node knows which partitions it has records of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Survey {
    Due(MonoUs),
    Asked,
    Known,
}

/// What a job was for.
#[derive(Clone, Copy, Debug)]
enum For {
    Survey,
    Flush {
        change: u64,
        partition: PartitionId,
    },
    /// That this node is in that epoch.
    Epoch(Epoch),
    Drop(PartitionId),
}

/// The node's part of it.
#[derive(Debug)]
pub(super) struct Moves {
    /// The change that is under way; zero: none.
    change: u64,
    /// See [`crate::cluster::Change::closing`].
    closing: Option<Epoch>,
    /// A power cut does not bring this node back to before this epoch: only then others may count on its being there.
    durable: Epoch,
    flushing: bool,
    /// Writes that were taken before it began (or ended) are among the jobs up to this one.
    before: JobId,
    /// Partitions that this node holds in any table in force, with the least copies that it takes.
    mine: BTreeMap<PartitionId, u8>,
    /// Owners of each keyspace, the most in any table in force.
    copies: BTreeMap<KeyspaceId, u8>,
    ins: BTreeMap<PartitionId, In>,
    outs: BTreeMap<PartitionId, Out>,
    survey: Survey,
    /// Writes that were taken before something was lost are among the jobs up to this one: what they leave is seen by a
    /// survey after them only.
    lost: JobId,
    jobs: BTreeMap<JobId, For>,
    /// When the epoch log may be asked again.
    ask_at: MonoUs,
}

impl Default for Moves {
    fn default() -> Self {
        Self {
            change: 0,
            closing: None,
            durable: Epoch(0),
            flushing: false,
            before: JobId(0),
            mine: BTreeMap::new(),
            copies: BTreeMap::new(),
            ins: BTreeMap::new(),
            outs: BTreeMap::new(),
            survey: Survey::Due(0),
            lost: JobId(0),
            jobs: BTreeMap::new(),
            ask_at: 0,
        }
    }
}

impl Moves {
    /// Partitions that this node holds in any table in force.
    pub(super) fn holds(&self) -> Vec<PartitionId> {
        self.mine.keys().copied().collect()
    }

    /// Whether it is known that nothing is here of what this node does not own.
    pub(super) fn is_rid(&self) -> bool {
        self.survey == Survey::Known && self.outs.is_empty() && self.jobs.is_empty()
    }

    /// Whether what is here of a partition, of keyspaces of so many copies, is being removed: nothing else may touch it
    /// then.
    pub(super) fn drops(&self, partition: PartitionId, copies: u8) -> bool {
        let drops = |out: &&Out| out.progress.phase == Phase::Dropping;
        self.outs.get(&partition).filter(drops).is_some_and(|out| out.below.is_none_or(|below| copies < below))
    }
}

impl Node {
    /// Partitions on their way in and out of this node.
    #[must_use]
    pub fn moves(&self) -> Vec<Moving> {
        let show = |partition, way, progress: &Progress, compared: usize, needed: usize| {
            let Progress { phase, records, bytes, error, .. } = *progress;
            let (compared, needed) = (compared.min(needed) as u8, needed as u8);
            Moving { partition, way, phase, compared, needed, records, bytes, error }
        };
        let ins = self.moves.ins.iter().map(|(partition, one)| {
            let groups = self.sources(*partition).into_iter();
            let of = |(owners, needed): (Vec<NodeId>, usize)| {
                (owners.iter().filter(|owner| one.compared.contains(owner)).count(), needed)
            };
            // The group that lacks most.
            let worst = groups.map(of).max_by_key(|(done, needed)| needed.saturating_sub(*done)).unwrap_or((0, 0));
            show(*partition, Way::In, &one.progress, worst.0, worst.1)
        });
        let outs = self.moves.outs.iter().map(|(partition, one)| {
            let of = |(copies, given): (&u8, &BTreeSet<NodeId>)| {
                let (owners, needed) = self.heirs(*partition, *copies);
                (owners.iter().filter(|owner| given.contains(owner)).count(), needed)
            };
            let worst = one.copies.iter().map(of).max_by_key(|(done, needed)| needed.saturating_sub(*done));
            let worst = worst.unwrap_or((0, 0));
            show(*partition, Way::Out, &one.progress, worst.0, worst.1)
        });
        ins.chain(outs).collect()
    }

    /// Whether all writes are done that this node had taken before the change under way began.
    pub(super) fn is_drained(&self) -> bool {
        self.jobs.first_key_value().is_none_or(|(job, _)| *job > self.moves.before)
    }

    /// Old owners that a partition is fetched from: for each number of copies, and how many of them it takes so that
    /// every set that acknowledged a write is met.
    fn sources(&self, partition: PartitionId) -> Vec<(Vec<NodeId>, usize)> {
        let mut least: BTreeMap<u8, u8> = BTreeMap::new();
        for (id, keyspace) in &self.state.keyspaces {
            if self.state.gains(self.me, partition, *id) {
                let w = least.entry(keyspace.n).or_insert(keyspace.w);
                *w = (*w).min(keyspace.w);
            }
        }
        let group = |(n, w): (u8, u8)| {
            let old = self.state.owners(partition, n);
            let others = old.iter().copied().filter(|owner| *owner != self.me);
            let owners: Vec<NodeId> = others.filter(|owner| self.state.has_living(*owner)).collect();
            // It may be one of them, in a change of the number of copies.
            let needed = usize::from(n + 1 - w) - usize::from(old.contains(&self.me));
            (owners.clone(), needed.min(owners.len()))
        };
        least.into_iter().map(group).collect()
    }

    /// Owners of keyspaces of so many copies, and how many of them must have what is here before it is dropped.
    fn heirs(&self, partition: PartitionId, copies: u8) -> (Vec<NodeId>, usize) {
        let of_so_many = self.state.keyspaces.keys().filter(|id| self.state.copies_max(**id) == copies);
        let w = of_so_many.filter_map(|id| self.state.copies(*id)).map(|(now, next)| now.w.max(next.w)).max();
        (self.state.owners(partition, copies).to_vec(), usize::from(w.unwrap_or(0)))
    }

    /// The epoch log moved on.
    pub(super) fn moves_cluster(&mut self, step: &mut Step<'_>) {
        let now = step.now.mono_us;
        let change = self.state.change.as_ref().map_or(0, |change| change.id);
        let closing = self.state.change.as_ref().and_then(|change| change.closing);
        if (change, closing) != (self.moves.change, self.moves.closing) {
            (self.moves.closing, self.moves.ask_at) = (closing, now);
        }
        if change != self.moves.change {
            (self.moves.change, self.moves.before) = (change, JobId(self.serial));
            self.moves.ins.clear();
        }
        let state = &self.state;
        let gains = |partition: &PartitionId| {
            let change = state.change.as_ref().filter(|change| change.closing.is_none());
            let waits = change.and_then(|change| change.waits.get(partition));
            waits.is_some_and(|waits| waits.contains(&self.me))
        };
        self.moves.ins.retain(|partition, _| gains(partition));
        for partition in state.partitions().filter(gains) {
            let fresh = || In { progress: Progress::new(now), compared: BTreeSet::new() };
            self.moves.ins.entry(partition).or_insert_with(fresh);
        }
        let mine: BTreeMap<PartitionId, u8> =
            state.partitions().filter_map(|p| state.copies_at(self.me, p).map(|copies| (p, copies))).collect();
        let less = |(partition, copies): (&PartitionId, &u8)| mine.get(partition).is_none_or(|now| now > copies);
        if self.moves.mine.iter().any(less) {
            self.moves.lost = JobId(self.serial);
            self.moves.survey = Survey::Due(now);
        }
        self.moves.mine = mine;
        self.recopied(now);
        // What is gained again stays.
        let moves = &mut self.moves;
        for (partition, out) in moves.outs.iter_mut().filter(|(_, out)| out.progress.phase != Phase::Dropping) {
            out.copies.retain(|copies, _| moves.mine.get(partition).is_none_or(|least| least > copies));
        }
        moves.outs.retain(|_, out| !out.copies.is_empty() || out.progress.phase == Phase::Dropping);
    }

    /// Where keyspaces have another number of copies now, others own what is here of them: who has it, and who needs
    /// it, is looked at anew. What is being removed was handed over.
    fn recopied(&mut self, now: MonoUs) {
        let copies: BTreeMap<KeyspaceId, u8> = self.state.all_copies_max().collect();
        let moves = &mut self.moves;
        let differs = |(id, before): (&KeyspaceId, &u8)| copies.get(id).is_some_and(|now| now != before);
        if moves.copies.iter().any(differs) {
            moves.outs.retain(|_, out| out.progress.phase == Phase::Dropping);
            moves.jobs.retain(|_, whose| !matches!(whose, For::Survey));
            (moves.lost, moves.survey) = (JobId(self.serial), Survey::Due(now));
        }
        moves.copies = copies;
    }

    /// When [`Self::moves_tick`] has something to do.
    pub(super) fn moves_wake(&self) -> Option<MonoUs> {
        if !self.state.members.contains_key(&self.me) {
            return None;
        }
        let moves = &self.moves;
        let survey = if let Survey::Due(at) = moves.survey { Some(at) } else { None };
        let survey = survey.filter(|_| self.state.ring.is_some());
        let flush = moves.closing.is_some_and(|closing| closing > moves.durable) && !moves.flushing;
        let ask = (flush || self.entry_due().is_some()).then_some(moves.ask_at);
        let waits = |progress: &Progress| (progress.phase == Phase::Waiting).then_some(progress.at);
        let ins = moves.ins.values().filter_map(|one| waits(&one.progress));
        let outs = moves.outs.values().filter_map(|one| waits(&one.progress));
        let next = ins.chain(outs).min().filter(|_| self.sync_has_room());
        survey.into_iter().chain(ask).chain(next).min()
    }

    /// Starts what is due.
    pub(super) fn moves_tick(&mut self, step: &mut Step<'_>) {
        let now = step.now.mono_us;
        if !self.state.members.contains_key(&self.me) || self.state.ring.is_none() {
            return;
        }
        if matches!(self.moves.survey, Survey::Due(at) if at <= now) {
            if self.jobs.first_key_value().is_some_and(|(job, _)| *job <= self.moves.lost) {
                self.moves.survey = Survey::Due(now + self.limits.move_retry_ms * 1_000 / SOON);
            } else {
                self.moves.survey = Survey::Asked;
                self.move_job(step, For::Survey, MoveWork::Survey);
            }
        }
        let closing = self.moves.closing.filter(|closing| *closing > self.moves.durable);
        if let Some(closing) = closing.filter(|_| !self.moves.flushing && self.moves.ask_at <= now) {
            self.moves.flushing = true;
            self.move_job(step, For::Epoch(closing), MoveWork::Flush);
        }
        if self.moves.ask_at <= now
            && let Some(entry) = self.entry_due()
        {
            self.moves.ask_at = now + self.limits.move_retry_ms * 1_000;
            step.out.push(Effect::Propose { entry });
        }
        let due = |progress: &Progress| progress.phase == Phase::Waiting && progress.at <= now;
        let ins = self.moves.ins.iter().filter(|(_, one)| due(&one.progress)).map(|(partition, _)| *partition);
        for partition in ins.collect::<Vec<_>>() {
            if self.sync_has_room() {
                self.fetch(step, partition);
            }
        }
        let outs = self.moves.outs.iter().filter(|(_, one)| due(&one.progress)).map(|(partition, _)| *partition);
        for partition in outs.collect::<Vec<_>>() {
            if self.sync_has_room() {
                self.hand_over(step, partition);
            }
        }
    }

    fn move_job(&mut self, step: &mut Step<'_>, whose: For, work: MoveWork) {
        let job = self.job(JobFor::Move);
        self.moves.jobs.insert(job, whose);
        step.out.push(Effect::Move(MoveJob { job, work }));
    }

    /// What the epoch log should hear from this node.
    fn entry_due(&self) -> Option<Entry> {
        let (me, moves) = (self.me, &self.moves);
        let member = self.state.members.get(&me).filter(|_| self.incarnation.0 != 0)?;
        if let Some(change) = &self.state.change {
            if let Some(closing) = change.closing {
                let is_due = !change.seen.contains(&me) && moves.durable >= closing;
                return is_due.then_some(Entry::Seen { change: change.id, node: me });
            }
            let held = moves.ins.iter().filter(|(_, one)| one.progress.phase == Phase::Held);
            let partitions: Vec<PartitionId> = held.map(|(partition, _)| *partition).collect();
            return (!partitions.is_empty()).then_some(Entry::Hold { change: change.id, node: me, partitions });
        }
        let leaves = member.standing == Standing::Leaving && moves.mine.is_empty();
        let is_empty = moves.is_rid();
        // What it keeps for others is theirs before it goes; for those that are away, only what was acknowledged.
        let owes = self.hints().any(|(owner, owed)| owed.counted > 0 || self.is_linked(owner));
        (leaves && is_empty && !owes).then_some(Entry::Left { node: me })
    }

    /// Compares a partition that this node gains with the next of its old owners, or makes what it has durable.
    fn fetch(&mut self, step: &mut Step<'_>, partition: PartitionId) {
        let now = step.now.mono_us;
        let Some(one) = self.moves.ins.get(&partition).filter(|_| !self.moves.drops(partition, 0)) else {
            self.put_off(now, partition, Way::In, None);
            return;
        };
        let mut missing = Vec::new();
        for (owners, needed) in self.sources(partition) {
            let (done, open): (Vec<NodeId>, Vec<NodeId>) = owners.iter().partition(|o| one.compared.contains(o));
            if done.len() < needed {
                missing.extend(open);
            }
        }
        if missing.is_empty() {
            self.advance(Way::In, partition, Phase::Flushing);
            self.move_job(step, For::Flush { change: self.moves.change, partition }, MoveWork::Flush);
            return;
        }
        // One that failed comes last next time: those that are needed may be several, and others do as well.
        let turn = self.serial as usize % missing.len();
        missing.rotate_left(turn);
        self.compare_with(step, partition, missing, Mover::In);
    }

    /// Hands what is here of a partition to the next of its owners, or drops it.
    fn hand_over(&mut self, step: &mut Step<'_>, partition: PartitionId) {
        let Some(one) = self.moves.outs.get(&partition) else { return };
        let first_job = self.jobs.first_key_value().map(|(job, _)| *job);
        if first_job.is_some_and(|job| job <= one.since) {
            // Something that this node took as an owner is on its way to the disk.
            self.put_off(step.now.mono_us, partition, Way::Out, None);
            return;
        }
        let lacks = |(copies, given): (&u8, &BTreeSet<NodeId>)| {
            let (owners, needed) = self.heirs(partition, *copies);
            let (done, open): (Vec<NodeId>, Vec<NodeId>) = owners.iter().partition(|owner| given.contains(owner));
            (done.len() < needed).then_some((*copies, open))
        };
        match one.copies.iter().find_map(lacks) {
            Some((copies, mut open)) => {
                let turn = self.serial as usize % open.len().max(1);
                open.rotate_left(turn);
                self.compare_with(step, partition, open, Mover::Out(copies));
            }
            None => {
                self.advance(Way::Out, partition, Phase::Dropping);
                let below = self.moves.mine.get(&partition).copied();
                self.moves.outs.entry(partition).and_modify(|one| one.below = below);
                self.drop_on(step, partition, Bytes::new());
            }
        }
    }

    fn drop_on(&mut self, step: &mut Step<'_>, partition: PartitionId, after: Bytes) {
        let Some(below) = self.moves.outs.get(&partition).map(|one| one.below) else { return };
        self.move_job(step, For::Drop(partition), MoveWork::Drop { partition, below, after });
    }

    fn compare_with(&mut self, step: &mut Step<'_>, partition: PartitionId, nodes: Vec<NodeId>, mover: Mover) {
        let now = step.now.mono_us;
        let way = if mover == Mover::In { Way::In } else { Way::Out };
        let there = nodes.iter().copied().find(|node| self.is_linked(*node));
        let Some(node) = there else {
            let error = nodes.first().map(|node| MoveError::Unreachable(*node));
            self.put_off(now, partition, way, error);
            return;
        };
        self.advance(way, partition, Phase::Comparing(node));
        if !self.sync_move(step, (partition, node), mover) {
            // That pair is compared in its turn just now.
            self.advance(way, partition, Phase::Waiting);
            self.put_off(now, partition, way, None);
        }
    }

    fn progress(&mut self, way: Way, partition: PartitionId) -> Option<&mut Progress> {
        match way {
            Way::In => self.moves.ins.get_mut(&partition).map(|one| &mut one.progress),
            Way::Out => self.moves.outs.get_mut(&partition).map(|one| &mut one.progress),
        }
    }

    fn advance(&mut self, way: Way, partition: PartitionId, phase: Phase) {
        if let Some(progress) = self.progress(way, partition) {
            progress.phase = phase;
        }
    }

    /// Not now. Without an error: soon.
    fn put_off(&mut self, now: MonoUs, partition: PartitionId, way: Way, error: Option<MoveError>) {
        let pause = self.limits.move_retry_ms * 1_000 / if error.is_some() { 1 } else { SOON };
        if let Some(progress) = self.progress(way, partition) {
            progress.phase = Phase::Waiting;
            progress.at = now + pause;
            progress.error = error.or(progress.error);
        }
    }

    /// A comparison of a partition that moves has ended; without an end it was lost, or its epoch is over.
    pub(super) fn move_compared(
        &mut self,
        step: &Step<'_>,
        (partition, node): Pair,
        mover: Mover,
        end: Option<End>,
        tally: Tally,
    ) {
        let now = step.now.mono_us;
        let way = if mover == Mover::In { Way::In } else { Way::Out };
        // It may be one of a change that is over.
        let Some(progress) = self.progress(way, partition).filter(|p| p.phase == Phase::Comparing(node)) else {
            return;
        };
        progress.bytes += tally.bytes;
        progress.records += if way == Way::In { tally.received } else { tally.sent };
        let error = match end {
            Some(End::Clean | End::Mended) => {
                (progress.phase, progress.at, progress.error) = (Phase::Waiting, now, None);
                match mover {
                    Mover::In => {
                        if let Some(one) = self.moves.ins.get_mut(&partition) {
                            one.compared.insert(node);
                        }
                    }
                    // Whoever holds keyspaces of fewer copies holds those of more.
                    Mover::Out(copies) => {
                        if let Some(one) = self.moves.outs.get_mut(&partition) {
                            one.copies.range_mut(copies..).for_each(|(_, given)| given.extend([node]));
                        }
                    }
                    Mover::Seal(_) => {}
                }
                None
            }
            None | Some(End::Cut | End::Refused(SyncRefused::OtherEpoch(_) | SyncRefused::Busy)) => {
                self.put_off(now, partition, way, None);
                None
            }
            Some(End::Partial) => Some(MoveError::Partial(node)),
            Some(End::PluginDrift) => Some(MoveError::PluginDrift(node)),
            Some(End::Unready) => Some(MoveError::Store),
            Some(End::Refused(_) | End::Nonsense) => Some(MoveError::Failed(node)),
        };
        if error.is_some() {
            self.put_off(now, partition, way, error);
        }
    }

    /// The disk has done it.
    pub(super) fn moved(&mut self, step: &mut Step<'_>, job: JobId, outcome: MoveOutcome) {
        let Some(whose) = self.moves.jobs.remove(&job) else { return };
        let now = step.now.mono_us;
        match (whose, outcome) {
            (For::Survey, MoveOutcome::Surveyed(held)) => {
                // What came after it was asked is looked at once more.
                if self.moves.survey == Survey::Asked {
                    self.moves.survey = Survey::Known;
                }
                self.surveyed(now, held);
            }
            (For::Survey, _) => self.moves.survey = Survey::Due(now + self.limits.move_retry_ms * 1_000),
            (For::Flush { change, partition }, outcome) if change == self.moves.change => {
                if outcome == MoveOutcome::Flushed {
                    self.advance(Way::In, partition, Phase::Held);
                    self.moves.ask_at = self.moves.ask_at.min(now + self.limits.move_retry_ms * 1_000 / SOON);
                } else {
                    self.put_off(now, partition, Way::In, Some(MoveError::Store));
                }
            }
            (For::Flush { .. }, _) => {}
            (For::Epoch(epoch), outcome) => {
                self.moves.flushing = false;
                if outcome == MoveOutcome::Flushed {
                    self.moves.durable = epoch;
                } else {
                    self.moves.ask_at = now + self.limits.move_retry_ms * 1_000;
                }
            }
            (For::Drop(partition), MoveOutcome::Dropped { records, next }) => {
                if let Some(one) = self.moves.outs.get_mut(&partition) {
                    one.progress.records += records;
                }
                match next {
                    Some(after) => self.drop_on(step, partition, after),
                    None => {
                        if self.moves.outs.remove(&partition).is_some_and(|one| one.below.is_none()) {
                            self.seals.dropped(partition);
                        }
                        if self.moves.survey == Survey::Known {
                            // Where the sums lied, something may be left.
                            self.moves.survey = Survey::Due(now + self.limits.move_retry_ms * 1_000);
                        }
                    }
                }
            }
            (For::Drop(partition), _) => self.put_off(now, partition, Way::Out, Some(MoveError::Store)),
        }
        self.moves_tick(step);
    }

    /// What is here, and is not this node's.
    fn surveyed(&mut self, now: MonoUs, held: Vec<(PartitionId, u8)>) {
        let since = JobId(self.serial);
        for (partition, copies) in held {
            if self.moves.mine.get(&partition).is_none_or(|least| *least > copies) {
                let fresh = || Out { progress: Progress::new(now), copies: BTreeMap::new(), since, below: None };
                let out = self.moves.outs.entry(partition).or_insert_with(fresh);
                out.copies.entry(copies).or_default();
            }
        }
    }
}
