//! Hinted handoff: what this node owes to owners that did not take a write, and how it pays (DDIA chapter 5; the Dynamo
//! paper, 4.6).
//!
//! The hints lie in the store ([`crate::hint`]); here are only counts, and the window of those that are on their way.
//! A hint is paid when the owner holds it durably. One that can't be kept, or that can't be paid, is dropped: the place
//! is remembered as needing sync, and anti-entropy mends it.

use super::linger::After;
use super::{Kind, Node, Op, Step};
use crate::context::Context;
use crate::event::{Effect, Hint, HintCount, HintId, HintJob, HintOutcome, HintWork, JobId};
use crate::id::{Epoch, Key, NodeId, PartitionId};
use crate::message::{Message, Refused, Tag, WriteOutcome};
use crate::port::Durability;
use crate::time::{Hlc, MonoUs};
use crate::version::Version;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// Why a hint was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HintDropped {
    /// As many bytes as are allowed are kept already.
    NoRoom,
    /// This node's store refused it, or the write was for this node's own disk, which refused it.
    Store,
    /// The bytes in the store are damaged.
    Damaged,
    /// The owner refused it for a reason that does not pass.
    Refused,
    /// The owner left the cluster.
    Removed,
}

impl HintDropped {
    /// All reasons, in the order of the figures.
    pub const ALL: [Self; 5] = [Self::NoRoom, Self::Store, Self::Damaged, Self::Refused, Self::Removed];

    /// For people and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRoom => "no_room",
            Self::Store => "store",
            Self::Damaged => "damaged",
            Self::Refused => "refused",
            Self::Removed => "removed",
        }
    }
}

/// Where writes are missing that no hint stands for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NeedsSync {
    /// Owner, partition, and the epoch of the writes.
    pub places: BTreeSet<(NodeId, PartitionId, Epoch)>,
    /// More places than could be remembered: everything needs sync.
    pub everything: bool,
}

/// What goes on with one owner's hints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    /// Nothing, not before a moment.
    #[default]
    Idle,
    /// The store reads the next ones.
    Loading,
    /// They are on their way.
    Sent,
    /// The owner is no member any more: the store removes them.
    Forgetting,
}

/// One owner's hints.
#[derive(Debug, Default)]
struct Debt {
    owed: HintCount,
    phase: Phase,
    /// Idle: when to go on. Sent: when to stop waiting for answers.
    at: MonoUs,
    /// Where the pass through the hints is.
    after: Option<HintId>,
    sent: BTreeMap<Tag, (HintId, u64)>,
    /// Answered, to be removed from the store.
    settled: Vec<(HintId, u64)>,
    /// Something of this window was refused or lost: the next pass starts over, after a pause.
    pause: bool,
    /// Changes that the store has not confirmed.
    changing: usize,
}

/// What a job of the store was for.
#[derive(Debug)]
enum For {
    Count,
    Keep(HintId, u64),
    Load(NodeId),
    Drop(NodeId, Vec<(HintId, u64)>),
    Forget(NodeId),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Counted {
    #[default]
    No,
    Asked,
    /// The store could not: again at this moment.
    Again(MonoUs),
    Yes,
}

/// All hints of this node.
#[derive(Debug, Default)]
pub(super) struct Hints {
    debts: BTreeMap<NodeId, Debt>,
    bytes: u64,
    counted: Counted,
    jobs: BTreeMap<JobId, For>,
    /// Whose hint went out under which tag.
    tags: BTreeMap<Tag, NodeId>,
    needs_sync: NeedsSync,
}

impl Hints {
    /// When something is due, given who can be reached.
    pub(super) fn next_wake(&self, linked: impl Fn(NodeId) -> bool) -> Option<MonoUs> {
        let due = |(owner, debt): (&NodeId, &Debt)| match debt.phase {
            Phase::Idle => (debt.owed.count > 0 && linked(*owner)).then_some(debt.at),
            Phase::Sent => Some(debt.at),
            Phase::Loading | Phase::Forgetting => None,
        };
        let count = if let Counted::Again(at) = self.counted { Some(at) } else { None };
        self.debts.iter().filter_map(due).chain(count).min()
    }

    /// Work that the store has not answered.
    pub(super) fn jobs(&self) -> usize {
        self.jobs.len()
    }

    fn forget(&mut self, owner: NodeId, bytes: u64) {
        let Some(debt) = self.debts.get_mut(&owner) else { return };
        debt.owed.count = debt.owed.count.saturating_sub(1);
        let bytes = if debt.owed.count == 0 { debt.owed.bytes } else { bytes.min(debt.owed.bytes) };
        debt.owed.bytes -= bytes;
        self.bytes -= bytes;
    }
}

impl Node {
    /// What this node owes to other owners, for people.
    pub fn hints(&self) -> impl Iterator<Item = (NodeId, HintCount)> + '_ {
        self.hints.debts.iter().filter(|(_, debt)| debt.owed.count > 0).map(|(owner, debt)| (*owner, debt.owed))
    }

    /// Places where writes are missing that no hint stands for; they are not told twice.
    pub fn take_needs_sync(&mut self) -> NeedsSync {
        core::mem::take(&mut self.hints.needs_sync)
    }

    /// Bounded by [`crate::limits::Limits::needs_sync_max`].
    fn note_needs_sync(&mut self, place: (NodeId, PartitionId, Epoch)) {
        let NeedsSync { places, everything } = &mut self.hints.needs_sync;
        if places.len() < self.limits.needs_sync_max || places.contains(&place) {
            places.insert(place);
        } else {
            *everything = true;
        }
    }

    fn hint_dropped(&mut self, id: &HintId, why: HintDropped) {
        self.figures.hints_dropped[why as usize] += 1;
        self.note_needs_sync((id.owner, id.partition, id.epoch));
    }

    fn hint_job(&mut self, step: &mut Step<'_>, whose: For, work: HintWork) {
        self.serial += 1;
        let job = JobId(self.serial);
        self.hints.jobs.insert(job, whose);
        step.out.push(Effect::Hint(HintJob { job, work }));
    }

    /// A write is over: whoever does not hold it and would take it is owed a hint.
    pub(super) fn owe(&mut self, step: &mut Step<'_>, tag: Tag, after: After) {
        let Some(Op { kind: Kind::Write { op, .. }, .. }) = self.ops.get(&tag) else { return };
        // Without an ack the version may be nowhere, and the client was told so, unless it was told that nobody knows.
        let unacked = op.acks() == 0 && after != After::Deadline;
        if unacked || op.is_nameless() || op.owed().next().is_none() {
            return;
        }
        let (key, version, past) = (op.key.clone(), op.version.clone(), op.past.clone());
        // Our own disk still does what it was asked, unless it refused.
        let still = op.unanswered().any(|o| o == self.me);
        let owed: Vec<NodeId> = op.owed().filter(|o| *o != self.me || !still).collect();
        for owner in owed {
            self.keep_hint(step, owner, &key, (&version, &past));
        }
    }

    fn keep_hint(&mut self, step: &mut Step<'_>, owner: NodeId, key: &Key, (version, past): (&Version, &Context)) {
        let (partition, epoch, written) =
            (key.place(self.state.partition_bits).partition, version.epoch, version.written);
        let id = HintId {
            owner,
            partition,
            epoch,
            written,
            incarnation: version.dot.incarnation,
            counter: version.dot.counter,
        };
        if owner == self.me {
            self.hint_dropped(&id, HintDropped::Store);
            return;
        }
        let hint = Hint { id, key: key.clone(), version: version.clone(), past: past.clone() };
        let bytes = hint.bytes();
        let total = self.hints.bytes + bytes;
        let debt = self.hints.debts.entry(owner).or_default();
        let full = debt.owed.bytes + bytes > self.limits.hint_bytes_per_owner_max || total > self.limits.hint_bytes_max;
        if full || self.hints.jobs.len() >= self.limits.disk_jobs_max {
            self.hint_dropped(&id, HintDropped::NoRoom);
            return;
        }
        if debt.owed.count == 0 {
            debt.owed.oldest = written;
            debt.at = debt.at.max(step.now.mono_us + self.limits.hint_retry_ms * 1_000);
        }
        debt.owed.count += 1;
        debt.owed.bytes += bytes;
        debt.owed.oldest = debt.owed.oldest.min(written);
        debt.changing += 1;
        self.hints.bytes = total;
        self.hint_job(step, For::Keep(id, bytes), HintWork::Keep(hint));
    }

    /// Work on the hints is done.
    pub(super) fn hinted(&mut self, step: &mut Step<'_>, job: JobId, outcome: HintOutcome) {
        let Some(whose) = self.hints.jobs.remove(&job) else { return };
        match (whose, outcome) {
            (For::Count, HintOutcome::Counted(counts)) => self.hints_counted(step, counts),
            (For::Count, _) => {
                self.hints.counted = Counted::Again(step.now.mono_us + self.limits.hint_retry_ms * 1_000);
            }
            (For::Keep(id, bytes), outcome) => {
                self.changed(id.owner);
                if outcome == HintOutcome::Done {
                    self.figures.hints_kept += 1;
                } else {
                    self.hints.forget(id.owner, bytes);
                    self.hint_dropped(&id, HintDropped::Store);
                }
            }
            (For::Load(owner), HintOutcome::Loaded { hints, damaged }) => self.loaded(step, owner, hints, damaged),
            (For::Load(owner), _) => self.rest(step, owner),
            (For::Drop(owner, ids), outcome) => {
                self.changed(owner);
                // Where the store could not, they are there still, and go out once more.
                if outcome == HintOutcome::Done {
                    ids.into_iter().for_each(|(_, bytes)| self.hints.forget(owner, bytes));
                }
            }
            (For::Forget(owner), HintOutcome::Forgotten { more: false }) => self.forgotten(step, owner),
            // And so on, unless the store can't: then when the roster changes, or this node starts.
            (For::Forget(owner), HintOutcome::Forgotten { more: true }) => {
                self.hint_job(step, For::Forget(owner), HintWork::Forget { owner });
            }
            (For::Forget(owner), _) => {
                if let Some(debt) = self.hints.debts.get_mut(&owner) {
                    debt.phase = Phase::Idle;
                }
            }
        }
    }

    fn changed(&mut self, owner: NodeId) {
        if let Some(debt) = self.hints.debts.get_mut(&owner) {
            debt.changing = debt.changing.saturating_sub(1);
        }
    }

    /// What the store holds from the process before: whatever was kept since came after it was counted.
    fn hints_counted(&mut self, step: &mut Step<'_>, counts: BTreeMap<NodeId, HintCount>) {
        self.hints.counted = Counted::Yes;
        for (owner, HintCount { count, bytes, oldest }) in counts {
            let owed = &mut self.hints.debts.entry(owner).or_default().owed;
            owed.oldest = if owed.count == 0 { oldest } else { owed.oldest.min(oldest) };
            owed.count += count;
            owed.bytes += bytes;
            self.hints.bytes += bytes;
        }
        self.hints_of_members(step);
    }

    /// The roster is known, or changed: hints of nodes that left are removed.
    pub(super) fn hints_of_members(&mut self, step: &mut Step<'_>) {
        if self.hints.counted == Counted::No {
            self.hints.counted = Counted::Asked;
            self.hint_job(step, For::Count, HintWork::Count);
        }
        let gone = |(owner, debt): (&NodeId, &Debt)| {
            let gone = !self.state.members.contains_key(owner) && matches!(debt.phase, Phase::Idle | Phase::Sent);
            gone.then_some(*owner)
        };
        let gone: Vec<NodeId> = self.hints.debts.iter().filter_map(gone).collect();
        for owner in gone {
            self.window_lost(step, owner);
            if let Some(debt) = self.hints.debts.get_mut(&owner) {
                debt.phase = Phase::Forgetting;
                self.hint_job(step, For::Forget(owner), HintWork::Forget { owner });
            }
        }
    }

    fn forgotten(&mut self, step: &mut Step<'_>, owner: NodeId) {
        if self.state.members.contains_key(&owner) {
            self.rest(step, owner);
        } else if let Some(debt) = self.hints.debts.remove(&owner) {
            self.hints.bytes -= debt.owed.bytes;
            self.figures.hints_dropped[HintDropped::Removed as usize] += debt.owed.count;
        }
    }

    /// Goes on with an owner's hints, if it can be reached and it is time.
    fn pay(&mut self, step: &mut Step<'_>, owner: NodeId) {
        let linked = self.is_linked(owner) && self.state.members.contains_key(&owner);
        let Some(debt) = self.hints.debts.get_mut(&owner) else { return };
        if debt.phase != Phase::Idle || debt.owed.count == 0 || debt.at > step.now.mono_us || !linked {
            return;
        }
        debt.phase = Phase::Loading;
        let (after, count_max, bytes_max) =
            (debt.after, self.limits.hint_window_max, self.limits.hint_window_bytes_max);
        self.hint_job(step, For::Load(owner), HintWork::Load { owner, after, count_max, bytes_max });
    }

    fn loaded(&mut self, step: &mut Step<'_>, owner: NodeId, hints: Vec<Hint>, damaged: Vec<HintId>) {
        if !self.state.members.contains_key(&owner) || !self.is_linked(owner) {
            self.rest(step, owner);
            return;
        }
        if hints.is_empty() && damaged.is_empty() {
            self.passed(step, owner);
            return;
        }
        for id in &damaged {
            self.hint_dropped(id, HintDropped::Damaged);
        }
        let tags: Vec<Tag> = hints.iter().map(|_| self.tag()).collect();
        let Some(debt) = self.hints.debts.get_mut(&owner) else { return };
        debt.phase = Phase::Sent;
        debt.at = step.now.mono_us + self.limits.hint_retry_ms * 1_000;
        debt.after = hints.iter().map(|hint| &hint.id).chain(&damaged).max().copied();
        debt.settled.extend(damaged.into_iter().map(|id| (id, 0)));
        for (tag, hint) in tags.into_iter().zip(hints) {
            debt.sent.insert(tag, (hint.id, hint.bytes()));
            self.hints.tags.insert(tag, owner);
            // Its ack ends the debt: it must be as good as the disk.
            let (fresh, durability) = (false, Durability::Sync);
            let Hint { key, version, past, .. } = hint;
            let message = Message::Write { tag, key, version, past, fresh, durability };
            step.out.push(Effect::Send { to: owner, message });
        }
        self.window_ends(step, owner);
    }

    /// There is nothing after the last hint that was read.
    fn passed(&mut self, step: &mut Step<'_>, owner: NodeId) {
        let Some(debt) = self.hints.debts.get_mut(&owner) else { return };
        if debt.after.is_none() && debt.changing == 0 {
            // A whole pass found nothing: whatever the count says, all is paid.
            self.hints.bytes -= debt.owed.bytes;
            debt.owed = HintCount::default();
        }
        debt.after = None;
        debt.phase = Phase::Idle;
        let pause_ms = if debt.changing == 0 { 0 } else { self.limits.hint_retry_ms };
        debt.at = step.now.mono_us + pause_ms * 1_000;
        self.pay(step, owner);
    }

    /// An owner answered a hint. False when it was none.
    pub(super) fn hint_answered(
        &mut self,
        step: &mut Step<'_>,
        tag: Tag,
        from: NodeId,
        outcome: &WriteOutcome,
    ) -> bool {
        if self.hints.tags.get(&tag) != Some(&from) {
            return false;
        }
        self.hints.tags.remove(&tag);
        let Some(debt) = self.hints.debts.get_mut(&from) else { return true };
        let Some((id, bytes)) = debt.sent.remove(&tag) else { return true };
        match outcome {
            WriteOutcome::Held | WriteOutcome::Minted { .. } => {
                debt.settled.push((id, bytes));
                self.figures.hints_replayed += 1;
            }
            WriteOutcome::Refused(refused) if refused.passes() => debt.pause = true,
            WriteOutcome::Refused(Refused::NotOwner) => {
                // Somebody else is the owner now, and got it otherwise: nothing needs sync here.
                debt.settled.push((id, bytes));
                self.figures.hints_dropped[HintDropped::Refused as usize] += 1;
            }
            WriteOutcome::Refused(_) | WriteOutcome::StaleStamp { .. } | WriteOutcome::StaleEpoch { .. } => {
                debt.settled.push((id, bytes));
                self.hint_dropped(&id, HintDropped::Refused);
            }
        }
        self.window_ends(step, from);
        true
    }

    /// Once everything of a window is answered, what is settled is removed and the next window follows.
    fn window_ends(&mut self, step: &mut Step<'_>, owner: NodeId) {
        let Some(debt) = self.hints.debts.get_mut(&owner) else { return };
        if debt.phase != Phase::Sent || !debt.sent.is_empty() {
            return;
        }
        debt.phase = Phase::Idle;
        debt.at = step.now.mono_us;
        if core::mem::take(&mut debt.pause) {
            debt.after = None;
            debt.at += self.limits.hint_retry_ms * 1_000;
        }
        let settled = core::mem::take(&mut debt.settled);
        if !settled.is_empty() {
            debt.changing += 1;
            let ids = settled.iter().map(|(id, _)| *id).collect();
            self.hint_job(step, For::Drop(owner, settled), HintWork::Drop(ids));
        }
        self.pay(step, owner);
    }

    /// What is on its way will not be answered.
    fn window_lost(&mut self, step: &mut Step<'_>, owner: NodeId) {
        let Some(debt) = self.hints.debts.get_mut(&owner) else { return };
        for tag in core::mem::take(&mut debt.sent).into_keys() {
            self.hints.tags.remove(&tag);
        }
        debt.pause = true;
        self.window_ends(step, owner);
    }

    /// Not now: from the start, after a pause.
    fn rest(&mut self, step: &mut Step<'_>, owner: NodeId) {
        if let Some(debt) = self.hints.debts.get_mut(&owner) {
            debt.phase = Phase::Idle;
            debt.after = None;
            debt.at = step.now.mono_us + self.limits.hint_retry_ms * 1_000;
        }
        self.hints_of_members(step);
    }

    /// The way to an owner opened or broke.
    pub(super) fn hints_link(&mut self, step: &mut Step<'_>, owner: NodeId, up: bool) {
        let Some(debt) = self.hints.debts.get_mut(&owner) else { return };
        match (up, debt.phase) {
            (true, Phase::Idle) => {
                debt.at = step.now.mono_us;
                self.pay(step, owner);
            }
            (false, Phase::Sent) => self.window_lost(step, owner),
            _ => {}
        }
    }

    pub(super) fn hints_tick(&mut self, step: &mut Step<'_>) {
        if matches!(self.hints.counted, Counted::Again(at) if at <= step.now.mono_us) {
            self.hints.counted = Counted::No;
            self.hints_of_members(step);
        }
        let due = |(owner, debt): (&NodeId, &Debt)| (debt.at <= step.now.mono_us).then_some((*owner, debt.phase));
        let due: Vec<(NodeId, Phase)> = self.hints.debts.iter().filter_map(due).collect();
        for (owner, phase) in due {
            match phase {
                Phase::Idle => self.pay(step, owner),
                Phase::Sent => self.window_lost(step, owner),
                Phase::Loading | Phase::Forgetting => {}
            }
        }
    }

    /// Nothing is on its way, and nothing is owed.
    #[cfg(test)]
    pub(super) fn owes_nothing(&self) -> bool {
        let Hints { debts, bytes, jobs, tags, .. } = &self.hints;
        *bytes == 0 && jobs.is_empty() && tags.is_empty() && debts.values().all(|d| d.owed.count == 0)
    }
}

impl HintCount {
    /// How old the oldest is at most, by the clock of this node, milliseconds.
    #[must_use]
    pub fn age_ms(&self, wall_ms: u64) -> u64 {
        if self.oldest == Hlc::ZERO { 0 } else { wall_ms.saturating_sub(self.oldest.ms()) }
    }
}
