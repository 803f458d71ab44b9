//! What this node does so that tombstones can go: it says that it is drained of an epoch, refuses late copies of what
//! is closed, compares its partitions with their other owners so that they can be sealed, and removes what seals cover.
//! Why nothing comes back: `docs/seals.md`; what its disk does for it: [`crate::purge`].

mod confirm;
#[cfg(test)]
mod tests;

use super::{JobFor, Kind, Node, Op, SOON, Step};
use crate::cluster::{Entry, Keyspace, Mark};
use crate::event::{Effect, JobId, Purge, SealJob, SealOutcome, SealWork};
use crate::id::{Epoch, NodeId, PartitionId};
use crate::request::OpError;
use crate::time::{Hlc, MonoUs};
use crate::version::Version;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use confirm::Confirming;

/// See [`Seals::purge_at`].
const UNDER_WAY: MonoUs = MonoUs::MAX;
/// Epochs whose beginning is remembered.
const ENTERED_KEPT: usize = 4;

/// Why a node does not say that it is drained of the epoch before the previous one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Undrained {
    /// It is not to seal anything: see [`crate::limits::Limits::seals`].
    Off,
    /// It can speak of none: as this process it began two epochs ago at most.
    Young,
    /// It coordinates writes of that epoch, or of one before.
    Writes,
    /// It keeps such a write for that owner.
    Hints(NodeId),
    /// Its store failed.
    Store,
    /// It has said so, or is about to.
    Said,
}

/// How far a node is with seals, for status pages and metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sealing {
    /// The epoch that it should be drained of next, and why it does not say so; `None`: it is drained of all that it
    /// can be.
    pub undrained: Option<(Epoch, Undrained)>,
    /// Partitions of its own that it compares for their next seal.
    pub confirming: u32,
    /// Partitions that are sealed further than it has purged them.
    pub purging: u32,
    /// Tombstones that it removed since it started.
    pub purged: u64,
}

/// Whether this node knows up to where its disk purged each partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Marks {
    Due(MonoUs),
    Asked,
    Known,
}

/// How far it is with saying that it is drained.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Drain {
    /// Not before that moment.
    Idle(MonoUs),
    /// The disk looks.
    Asked,
    /// The epoch log is yet to say so.
    Done(Mark),
}

/// What a job was for.
#[derive(Clone, Debug)]
enum For {
    Marks,
    Drain(Mark),
    Flush(Vec<(PartitionId, Epoch)>),
    Purge(Purge),
}

/// The node's part of it.
#[derive(Debug)]
pub(super) struct Seals {
    marks: Marks,
    /// Up to where each partition was purged.
    purged: BTreeMap<PartitionId, Mark>,
    /// Closings that this node has heard of, each with the last job that it had given out before.
    closings: VecDeque<(Epoch, JobId)>,
    /// The last closing that it has heard of, and the last one before which all writes are done that it had taken.
    heard: Epoch,
    closed: Epoch,
    /// The epoch in which this process was granted its incarnation.
    granted: Option<Epoch>,
    /// The latest epochs that it entered, each with its clock of that moment.
    entered: VecDeque<(Epoch, Hlc)>,
    /// It stamps nothing at this clock or below, and keeps nothing for others.
    promised: Hlc,
    drain: Drain,
    why: Undrained,
    /// See [`crate::cluster::State::changes`].
    changes: u64,
    confirming: BTreeMap<PartitionId, Confirming>,
    due: BTreeSet<(MonoUs, PartitionId)>,
    /// Compared with all others, since so long, to be made durable.
    ripe: BTreeSet<PartitionId>,
    ripe_since: MonoUs,
    /// That is done: the epoch log is yet to say so.
    held: BTreeSet<PartitionId>,
    flushing: bool,
    /// Others wait for this node to be rid of what it does not own.
    leftover: bool,
    /// Partitions to be purged; writes that were taken before are among the jobs up to that one.
    purging: BTreeMap<PartitionId, JobId>,
    /// When the next part may begin; [`UNDER_WAY`] while one goes on.
    purge_at: MonoUs,
    jobs: BTreeMap<JobId, For>,
    /// When the epoch log may be asked again.
    ask_at: MonoUs,
    removed: u64,
}

impl Default for Seals {
    fn default() -> Self {
        Self {
            marks: Marks::Due(0),
            purged: BTreeMap::new(),
            closings: VecDeque::new(),
            heard: Epoch(0),
            closed: Epoch(0),
            granted: None,
            entered: VecDeque::new(),
            promised: Hlc::ZERO,
            drain: Drain::Idle(0),
            why: Undrained::Young,
            changes: 0,
            confirming: BTreeMap::new(),
            due: BTreeSet::new(),
            ripe: BTreeSet::new(),
            ripe_since: 0,
            held: BTreeSet::new(),
            flushing: false,
            leftover: false,
            purging: BTreeMap::new(),
            purge_at: 0,
            jobs: BTreeMap::new(),
            ask_at: 0,
            removed: 0,
        }
    }
}

impl Seals {
    /// Up to where this disk has purged a partition.
    fn purged(&self, partition: PartitionId) -> Mark {
        self.purged.get(&partition).copied().unwrap_or_default()
    }

    /// The partition's range was removed, and its mark with it.
    pub(super) fn dropped(&mut self, partition: PartitionId) {
        self.purged.remove(&partition);
        self.purging.remove(&partition);
    }

    /// This node's clock when it had left all epochs up to this one.
    fn left(&self, epoch: Epoch) -> Option<Hlc> {
        self.entered.iter().find(|(entered, _)| *entered > epoch).map(|(_, clock)| *clock)
    }
}

impl Node {
    /// How far this node is with seals.
    #[must_use]
    pub fn sealing(&self) -> Sealing {
        let undrained = self.drain_target().map(|epoch| (epoch, self.seals.why));
        Sealing {
            undrained,
            confirming: self.seals.confirming.len() as u32,
            purging: self.seals.purging.len() as u32,
            purged: self.seals.removed,
        }
    }

    /// Whether this node knows what its disk has purged. Before that it takes no writes of others.
    pub(super) fn knows_purged(&self) -> bool {
        self.seals.marks == Marks::Known
    }

    /// Whether late copies of this version are refused: everything that there is of its epoch lies on disks, or it was
    /// stamped by a clock that was set back.
    pub(super) fn is_closed(&self, partition: PartitionId, version: &Version, causal: bool) -> bool {
        let marks = [self.state.closed(), self.seals.purged(partition)];
        marks.iter().any(|mark| version.epoch <= mark.epoch || !causal && version.written <= mark.clock)
    }

    /// The clock above which a fresh write of that partition must be stamped.
    pub(super) fn stamp_floor(&self, partition: PartitionId) -> Hlc {
        self.state.closed().clock.max(self.seals.purged(partition).clock)
    }

    /// The clock above which this node stamps, and keeps writes for others.
    pub(super) fn promised(&self) -> Hlc {
        self.seals.promised.max(self.state.closed().clock)
    }

    /// Sees to it that the next stamp is above all that were promised to be over, and above `above`.
    ///
    /// # Errors
    /// When this node's clock is too far behind for that.
    pub(super) fn rise(&mut self, step: &Step<'_>, above: Hlc) -> Result<(), OpError> {
        let above = above.max(self.promised());
        let risen = self.clock.observe(above, step.now, self.limits.clock_offset_max_ms);
        risen.map_err(|ahead| OpError::ClockOff { offset_ms: -(ahead.ahead_ms as i64) })
    }

    /// Up to where a partition must be purged for a comparison of it with another owner; `None`: it is not, yet.
    pub(super) fn comparable(&self, partition: PartitionId) -> Option<Epoch> {
        let (sealed, purged) = (self.state.sealed(partition).epoch, self.seals.purged(partition).epoch);
        let is_even = self.knows_purged() && sealed == purged && !self.seals.purging.contains_key(&partition);
        is_even.then_some(purged)
    }

    /// Whether all writes are done that this node had taken before it heard that this epoch is closed.
    pub(super) fn has_closed(&self, epoch: Epoch) -> bool {
        self.seals.closed >= epoch
    }

    fn jobs_after(&self, job: JobId) -> bool {
        self.jobs.first_key_value().is_none_or(|(first, _)| *first > job)
    }

    /// The epoch log moved on.
    pub(super) fn seals_cluster(&mut self, step: &mut Step<'_>) {
        let (now, epoch, clock) = (step.now.mono_us, self.state.epoch, self.clock.latest());
        let seals = &mut self.seals;
        if seals.entered.back().is_none_or(|(entered, _)| *entered < epoch) {
            seals.entered.push_back((epoch, clock));
            if seals.entered.len() > ENTERED_KEPT {
                seals.entered.pop_front();
            }
        }
        if self.incarnation.0 != 0 && seals.granted.is_none() {
            seals.granted = Some(epoch);
        }
        let said = self.state.drained(self.me);
        seals.promised = seals.promised.max(said.clock);
        if matches!(seals.drain, Drain::Done(mark) if mark.epoch <= said.epoch) {
            seals.drain = Drain::Idle(now);
        }
        let closed = self.state.closed().epoch;
        if closed > seals.heard {
            seals.heard = closed;
            seals.closings.push_back((closed, JobId(self.serial)));
        }
        seals.leftover = self.state.is_leftover(self.me);
        self.confirm_cluster(step);
        self.purge_cluster();
    }

    /// Partitions that were sealed since they were purged here.
    fn purge_cluster(&mut self) {
        if !self.knows_purged() {
            return;
        }
        let since = JobId(self.serial);
        for partition in self.moves.holds() {
            if self.seals.purged(partition).epoch < self.state.sealed(partition).epoch {
                self.seals.purging.entry(partition).or_insert(since);
            }
        }
    }

    /// The epoch that this node should say it is drained of.
    fn drain_target(&self) -> Option<Epoch> {
        let member = self.state.has_living(self.me) && self.state.ring.is_some();
        let epoch = Epoch(self.state.epoch.0.checked_sub(2).filter(|epoch| *epoch > 0)?);
        (member && self.state.drained(self.me).epoch < epoch).then_some(epoch)
    }

    /// When [`Self::seals_tick`] has something to do.
    pub(super) fn seals_wake(&self) -> Option<MonoUs> {
        if !self.state.members.contains_key(&self.me) {
            return None;
        }
        let seals = &self.seals;
        let marks = if let Marks::Due(at) = seals.marks { Some(at) } else { None };
        let settled = seals.closings.front().filter(|(_, job)| self.jobs_after(*job)).map(|_| 0);
        let drain = if let Drain::Idle(at) = seals.drain { Some(at) } else { None };
        let drain =
            drain.filter(|_| self.drain_target().is_some_and(|epoch| seals.granted.is_some_and(|g| g <= epoch)));
        let drain = drain.filter(|_| self.limits.seals);
        let says = matches!(seals.drain, Drain::Done(_)) || !seals.held.is_empty() || self.is_rid();
        let ask = says.then_some(seals.ask_at);
        let due = seals.due.first().map(|(at, _)| *at).filter(|_| self.sync_has_room() && self.knows_purged());
        let purge = (seals.purge_at != UNDER_WAY && self.next_to_purge().is_some()).then_some(seals.purge_at);
        [marks, settled, drain, ask, due, self.flush_wake(), purge].into_iter().flatten().min()
    }

    /// Starts what is due.
    pub(super) fn seals_tick(&mut self, step: &mut Step<'_>) {
        let now = step.now.mono_us;
        if !self.state.members.contains_key(&self.me) {
            return;
        }
        if matches!(self.seals.marks, Marks::Due(at) if at <= now) {
            self.seals.marks = Marks::Asked;
            self.seal_job(step, For::Marks, SealWork::Marks);
        }
        while let Some((epoch, _)) = self.seals.closings.front().copied().filter(|(_, job)| self.jobs_after(*job)) {
            self.seals.closings.pop_front();
            self.seals.closed = epoch;
        }
        if matches!(self.seals.drain, Drain::Idle(at) if at <= now) {
            self.drain(step);
        }
        self.purge_next(step);
        self.confirm_tick(step);
        if self.seals.ask_at <= now {
            let entries = self.seal_entries(now);
            if !entries.is_empty() {
                self.seals.ask_at = now + self.limits.move_retry_ms * 1_000;
                step.out.extend(entries.into_iter().map(|entry| Effect::Propose { entry }));
            }
        }
    }

    fn seal_job(&mut self, step: &mut Step<'_>, whose: For, work: SealWork) {
        let job = self.job(JobFor::Seal);
        self.seals.jobs.insert(job, whose);
        step.out.push(Effect::Seal(SealJob { job, work }));
    }

    /// Something new is to be said to the epoch log; what else there will be soon goes with it.
    fn says_soon(&mut self, now: MonoUs) {
        self.seals.ask_at = self.seals.ask_at.min(now + self.limits.move_retry_ms * 1_000 / SOON);
    }

    /// What the epoch log should hear from this node.
    fn seal_entries(&mut self, now: MonoUs) -> Vec<Entry> {
        let (node, incarnation) = (self.me, self.incarnation);
        let mut entries = Vec::new();
        if let Drain::Done(mark) = self.seals.drain {
            entries.push(Entry::Drained { node, incarnation, mark });
        }
        if self.is_rid() {
            entries.push(Entry::Rid { node, changes: self.state.changes });
        }
        entries.extend(self.confirm_entry(now));
        entries
    }

    /// Whether this node, which others wait for, is rid of what it does not own.
    fn is_rid(&self) -> bool {
        self.seals.leftover && self.state.change.is_none() && self.incarnation.0 != 0 && self.moves.is_rid()
    }

    /// Looks whether anything of the epoch before the previous one is under way here, or kept.
    fn drain(&mut self, step: &mut Step<'_>) {
        let Some(epoch) = self.drain_target() else { return };
        if !self.limits.seals {
            self.seals.why = Undrained::Off;
            return;
        }
        let again = step.now.mono_us + self.limits.move_retry_ms * 1_000 / SOON;
        if self.seals.granted.is_none_or(|granted| granted > epoch) {
            self.seals.why = Undrained::Young;
            return;
        }
        let old = |op: &Op| matches!(&op.kind, Kind::Write { op, .. } if op.version.epoch <= epoch);
        if self.ops.values().any(old) {
            (self.seals.why, self.seals.drain) = (Undrained::Writes, Drain::Idle(again));
            return;
        }
        let Some(clock) = self.seals.left(epoch) else { return };
        // What it is asked to keep while its disk looks must be above that as well.
        self.seals.promised = self.seals.promised.max(clock);
        self.seals.drain = Drain::Asked;
        self.seal_job(step, For::Drain(Mark { epoch, clock }), SealWork::Drain { epoch });
    }

    fn drained(&mut self, now: MonoUs, mark: Mark, outcome: &SealOutcome) {
        let pause = self.limits.hint_retry_ms * 1_000;
        (self.seals.drain, self.seals.why) = match outcome {
            SealOutcome::Drained { least } => {
                // What is kept, of later epochs, may have been stamped by clocks that are slower than this one.
                let below = least.map_or(mark.clock, |least| mark.clock.min(Hlc(least.0.saturating_sub(1))));
                self.says_soon(now);
                (Drain::Done(Mark { clock: below, ..mark }), Undrained::Said)
            }
            SealOutcome::Keeps(owner) => (Drain::Idle(now + pause), Undrained::Hints(*owner)),
            _ => (Drain::Idle(now + pause), Undrained::Store),
        };
    }

    /// A partition that is sealed, and before whose seal no write is under way any more.
    fn next_to_purge(&self) -> Option<PartitionId> {
        let ready =
            |(partition, since): &(&PartitionId, &JobId)| self.jobs_after(**since) && !self.moves.drops(**partition, 0);
        self.seals.purging.iter().find(ready).map(|(partition, _)| *partition)
    }

    fn purge_next(&mut self, step: &mut Step<'_>) {
        if self.seals.purge_at > step.now.mono_us {
            return;
        }
        let Some(partition) = self.next_to_purge() else { return };
        let keyspaces = self.state.keyspaces.iter().filter(|(_, keyspace)| Keyspace::purges(keyspace));
        let (seal, whole) = (self.state.sealed(partition), !self.seals.purged.contains_key(&partition));
        let keyspaces = keyspaces.map(|(id, _)| *id).collect();
        self.purge(step, Purge { partition, seal, keyspaces, whole, after: Bytes::new() });
    }

    fn purge(&mut self, step: &mut Step<'_>, purge: Purge) {
        self.seals.purge_at = UNDER_WAY;
        self.seal_job(step, For::Purge(purge.clone()), SealWork::Purge(purge));
    }

    fn purged(&mut self, step: &mut Step<'_>, purge: Purge, outcome: &SealOutcome) {
        self.seals.purge_at = step.now.mono_us;
        let Purge { partition, seal, .. } = purge;
        match outcome {
            SealOutcome::Purged { removed, next: Some(after) } => {
                self.seals.removed += removed;
                // Another one may have been sealed further meanwhile; and one that went is nobody's business.
                if !self.moves.drops(partition, 0) {
                    self.purge(step, Purge { after: after.clone(), ..purge });
                }
            }
            SealOutcome::Purged { removed, next: None } => {
                self.seals.removed += removed;
                self.seals.purging.remove(&partition);
                self.seals.purged.insert(partition, seal);
                self.purge_cluster();
            }
            // It begins anew.
            _ => self.seals.purge_at += self.limits.move_retry_ms * 1_000,
        }
    }

    /// The disk has done it.
    pub(super) fn sealed(&mut self, step: &mut Step<'_>, job: JobId, outcome: &SealOutcome) {
        let Some(whose) = self.seals.jobs.remove(&job) else { return };
        let now = step.now.mono_us;
        match (whose, outcome) {
            (For::Marks, SealOutcome::Marks(marks)) => {
                self.seals.purged = marks.iter().copied().collect();
                self.seals.marks = Marks::Known;
                self.purge_cluster();
            }
            (For::Marks, _) => self.seals.marks = Marks::Due(now + self.limits.move_retry_ms * 1_000),
            (For::Drain(mark), outcome) => self.drained(now, mark, outcome),
            (For::Flush(partitions), outcome) => {
                self.confirm_flushed(now, partitions, *outcome == SealOutcome::Flushed);
            }
            (For::Purge(purge), outcome) => self.purged(step, purge, outcome),
        }
        self.seals_tick(step);
    }
}
