//! Hinted handoff: what this node owes to owners that did not take a write, and how it pays (DDIA chapter 5; the Dynamo
//! paper, 4.6).
//!
//! The hints lie in the store ([`crate::hint`]); here are only counts, and the window of those that are on their way.
//! A hint is paid when the owner holds it durably. One that can't be kept, or that can't be paid, is dropped: the place
//! is remembered as needing sync, and anti-entropy mends it. A hint that counted towards a quorum is a promise: it is
//! refused where there is no room, and otherwise stays until an owner of the key holds it.

use super::linger::After;
use super::{Cause, Kind, Node, Op, SOON, Step};
use crate::event::{Effect, Hint, HintCount, HintId, HintJob, HintOutcome, HintWork, JobId};
use crate::id::{Epoch, NodeId, PartitionId};
use crate::message::{Message, Refused, Tag, WriteOutcome};
use crate::port::Durability;
use crate::time::{Hlc, MonoUs};
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

/// No fewer go out to an owner that is busy, so that those that it never takes do not keep back the rest.
const WINDOW_MIN: usize = 8;

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

/// What is remembered of a hint while the store or the owner has it in hand.
#[derive(Clone, Copy, Debug)]
struct Kept {
    id: HintId,
    bytes: u64,
    counted: bool,
}

/// Who waits for a hint to be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum KeepFor {
    /// Nobody: what can't be kept is dropped.
    Nobody,
    /// A write of this node, which stands in for the owner.
    Own(Tag),
    /// A write of that node, for which this node stands in for the owner.
    Peer { node: NodeId, tag: Tag },
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
    sent: BTreeMap<Tag, Kept>,
    /// Answered, to be removed from the store.
    settled: Vec<Kept>,
    /// Something of this window was refused or lost: the next pass starts over, after a pause.
    pause: bool,
    /// Changes that the store has not confirmed.
    changing: usize,
    /// Some were kept since the store was last asked for the next ones: it may not have seen those.
    grown: bool,
    /// Some of this window were refused because the owner is busy.
    busy: bool,
    /// How many may go out at once, of an owner that was busy lately; zero: as many as ever.
    window: usize,
}

/// What a job of the store was for.
#[derive(Debug)]
enum For {
    Count,
    Keep(Kept, KeepFor),
    Load(NodeId),
    Drop(NodeId, Vec<Kept>),
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
    /// Whose hint went out under which tag, and to whom: the same, unless it owns the key no more.
    tags: BTreeMap<Tag, (NodeId, NodeId)>,
    needs_sync: NeedsSync,
}

impl Hints {
    fn next_wake(&self, is_payable: impl Fn(NodeId, &HintCount) -> bool) -> Option<MonoUs> {
        let due = |(owner, debt): (&NodeId, &Debt)| match debt.phase {
            Phase::Idle => is_payable(*owner, &debt.owed).then_some(debt.at),
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

    fn forget(&mut self, owner: NodeId, Kept { bytes, counted, .. }: Kept) {
        let Some(debt) = self.debts.get_mut(&owner) else { return };
        debt.owed.count = debt.owed.count.saturating_sub(1);
        debt.owed.counted = debt.owed.counted.saturating_sub(u64::from(counted)).min(debt.owed.count);
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
        let unacked = op.holders() == 0 && after != After::Deadline;
        if unacked || op.is_nameless() || op.owed().next().is_none() {
            return;
        }
        let (key, version, past) = (op.key.clone(), op.version.clone(), op.past.clone());
        // Our own disk still does what it was asked, unless it refused.
        let still = op.unanswered().any(|o| o == self.me);
        // Who has left is owed nothing: what is removed of his hints is all that there will be.
        let takes = |o: &NodeId| self.state.members.contains_key(o) && (*o != self.me || !still);
        let owed: Vec<NodeId> = op.owed().filter(takes).collect();
        for owner in owed {
            let id = self.hint_id(owner, &key, &version);
            let hint = Hint { id, key: key.clone(), version: version.clone(), past: past.clone(), counted: false };
            if owner == self.me {
                self.hint_dropped(&id, HintDropped::Store);
            } else if self.keep_hint(step, hint, Durability::Os, KeepFor::Nobody).is_err() {
                self.hint_dropped(&id, HintDropped::NoRoom);
            }
        }
    }

    /// Keeps a hint, if there is room.
    pub(super) fn keep_hint(
        &mut self,
        step: &mut Step<'_>,
        hint: Hint,
        durability: Durability,
        whose: KeepFor,
    ) -> Result<(), Refused> {
        let Hint { id, counted, .. } = hint;
        let kept = Kept { id, bytes: hint.bytes(), counted };
        let total = self.hints.bytes + kept.bytes;
        let (max, of_one_max) = (self.limits.hint_bytes_max, self.limits.hint_bytes_per_owner_max);
        let owed_bytes = self.hints.debts.get(&id.owner).map_or(0, |debt| debt.owed.bytes);
        if owed_bytes + kept.bytes > of_one_max || total > max {
            return Err(Refused::HintsFull);
        }
        if self.hints.jobs.len() >= self.limits.disk_jobs_max {
            return Err(Refused::Busy);
        }
        let debt = self.hints.debts.entry(id.owner).or_default();
        if debt.owed.count == 0 {
            debt.owed.oldest = id.written;
            debt.at = debt.at.max(step.now.mono_us + self.limits.hint_retry_ms * 1_000);
        }
        debt.owed.count += 1;
        debt.owed.counted += u64::from(counted);
        debt.owed.bytes += kept.bytes;
        debt.owed.oldest = debt.owed.oldest.min(id.written);
        debt.changing += 1;
        debt.grown = true;
        self.hints.bytes = total;
        self.hint_job(step, For::Keep(kept, whose), HintWork::Keep(hint, durability));
        Ok(())
    }

    fn kept(&mut self, step: &mut Step<'_>, kept: Kept, whose: KeepFor, outcome: &HintOutcome) {
        self.changed(kept.id.owner);
        if *outcome == HintOutcome::Done {
            self.figures.hints_kept += 1;
            self.figures.hints_counted += u64::from(kept.counted);
            self.answer_keep(step, whose, WriteOutcome::Held);
            return;
        }
        self.hints.forget(kept.id.owner, kept);
        match (whose, outcome) {
            (KeepFor::Nobody, _) => self.hint_dropped(&kept.id, HintDropped::Store),
            (_, HintOutcome::Refused(refused)) => self.answer_keep(step, whose, WriteOutcome::Refused(*refused)),
            _ => self.answer_keep(step, whose, WriteOutcome::Refused(Refused::Store)),
        }
    }

    /// Work on the hints is done.
    pub(super) fn hinted(&mut self, step: &mut Step<'_>, job: JobId, outcome: HintOutcome) {
        let Some(whose) = self.hints.jobs.remove(&job) else { return };
        match (whose, outcome) {
            (For::Count, HintOutcome::Counted(counts)) => self.hints_counted(step, counts),
            (For::Count, _) => {
                self.hints.counted = Counted::Again(step.now.mono_us + self.limits.hint_retry_ms * 1_000);
            }
            (For::Keep(kept, whose), outcome) => self.kept(step, kept, whose, &outcome),
            (For::Load(owner), HintOutcome::Loaded { hints, damaged }) => self.loaded(step, owner, hints, damaged),
            (For::Load(owner), _) => self.rest(step, owner),
            (For::Drop(owner, ids), outcome) => {
                self.changed(owner);
                // Where the store could not, they are there still, and go out once more.
                if outcome == HintOutcome::Done {
                    ids.into_iter().for_each(|kept| self.hints.forget(owner, kept));
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
        for (owner, HintCount { count, bytes, oldest, counted }) in counts {
            let owed = &mut self.hints.debts.entry(owner).or_default().owed;
            owed.oldest = if owed.count == 0 { oldest } else { owed.oldest.min(oldest) };
            owed.count += count;
            owed.bytes += bytes;
            owed.counted += counted;
            self.hints.bytes += bytes;
        }
        self.hints_of_members(step);
    }

    /// The roster is known, or changed: hints of nodes that left are removed, once those of them that counted are paid.
    pub(super) fn hints_of_members(&mut self, step: &mut Step<'_>) {
        if self.hints.counted == Counted::No {
            self.hints.counted = Counted::Asked;
            self.hint_job(step, For::Count, HintWork::Count);
        }
        let gone = |(owner, debt): (&NodeId, &Debt)| {
            let gone = !self.state.members.contains_key(owner) && debt.owed.counted == 0;
            let gone = gone && matches!(debt.phase, Phase::Idle | Phase::Sent);
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

    /// Whether it makes sense to read an owner's hints now. Those of an owner that left go to others, if they counted.
    fn is_payable(&self, owner: NodeId, owed: &HintCount) -> bool {
        if self.state.members.contains_key(&owner) {
            owed.count > 0 && self.is_linked(owner)
        } else {
            owed.counted > 0 && self.peers.values().any(|peer| peer.linked)
        }
    }

    /// When something is due.
    pub(super) fn hints_wake(&self) -> Option<MonoUs> {
        self.hints.next_wake(|owner, owed| self.is_payable(owner, owed))
    }

    /// To whom a hint goes: to its owner; but where that owns the key no more, and the hint counted, to one that does.
    /// `None`: to nobody, now.
    fn hint_receiver(&self, hint: &Hint) -> Option<NodeId> {
        let owner = hint.id.owner;
        let owners = self.state.tables(hint.id.partition, hint.key.keyspace).all();
        if owners.is_empty() || owners.contains(&owner) {
            return self.state.members.contains_key(&owner).then_some(owner);
        }
        // Others hold what was acknowledged: whoever gained the partition fetched it.
        if !hint.counted {
            return None;
        }
        owners.iter().copied().find(|other| self.is_linked(*other))
    }

    /// Goes on with an owner's hints, if it can be reached and it is time.
    fn pay(&mut self, step: &mut Step<'_>, owner: NodeId) {
        let payable = self.hints.debts.get(&owner).is_some_and(|debt| self.is_payable(owner, &debt.owed));
        let Some(debt) = self.hints.debts.get_mut(&owner) else { return };
        if debt.phase != Phase::Idle || debt.at > step.now.mono_us || !payable {
            return;
        }
        (debt.phase, debt.grown) = (Phase::Loading, false);
        let most = self.limits.hint_window_max;
        let count_max = if debt.window == 0 { most } else { debt.window.min(most) };
        let (after, bytes_max) = (debt.after, self.limits.hint_window_bytes_max);
        self.hint_job(step, For::Load(owner), HintWork::Load { owner, after, count_max, bytes_max });
    }

    fn loaded(&mut self, step: &mut Step<'_>, owner: NodeId, hints: Vec<Hint>, damaged: Vec<HintId>) {
        if !self.hints.debts.get(&owner).is_some_and(|debt| self.is_payable(owner, &debt.owed)) {
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
        let routes: Vec<(Tag, Option<NodeId>)> =
            hints.iter().map(|hint| (self.tag(), self.hint_receiver(hint))).collect();
        let Some(debt) = self.hints.debts.get_mut(&owner) else { return };
        debt.phase = Phase::Sent;
        debt.at = step.now.mono_us + self.limits.hint_retry_ms * 1_000;
        debt.after = hints.iter().map(|hint| &hint.id).chain(&damaged).max().copied();
        debt.settled.extend(damaged.into_iter().map(|id| Kept { id, bytes: 0, counted: false }));
        for ((tag, to), hint) in routes.into_iter().zip(hints) {
            let kept = Kept { id: hint.id, bytes: hint.bytes(), counted: hint.counted };
            let Some(to) = to else {
                if kept.counted {
                    // No way now: the next pass starts over, after a pause.
                    debt.pause = true;
                } else {
                    debt.settled.push(kept);
                    self.figures.hints_dropped[HintDropped::Removed as usize] += 1;
                }
                continue;
            };
            debt.sent.insert(tag, kept);
            self.hints.tags.insert(tag, (owner, to));
            // Its ack ends the debt: it must be as good as the disk.
            let (fresh, durability) = (false, Durability::Sync);
            let Hint { key, version, past, .. } = hint;
            let message = Message::Write { tag, key, version, past, fresh, durability };
            step.out.push(Effect::Send { to, message });
        }
        self.window_ends(step, owner);
    }

    /// There is nothing after the last hint that was read.
    fn passed(&mut self, step: &mut Step<'_>, owner: NodeId) {
        let Some(debt) = self.hints.debts.get_mut(&owner) else { return };
        if debt.after.is_none() && debt.changing == 0 && !debt.grown {
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
        let Some((owner, _)) = self.hints.tags.get(&tag).copied().filter(|(_, to)| *to == from) else { return false };
        self.hints.tags.remove(&tag);
        let Some(debt) = self.hints.debts.get_mut(&owner) else { return true };
        let Some(kept) = debt.sent.remove(&tag) else { return true };
        match outcome {
            WriteOutcome::Held | WriteOutcome::Minted { .. } | WriteOutcome::Applied { .. } => {
                debt.settled.push(kept);
                self.figures.hints_replayed += 1;
                self.figures.repairs[Cause::Hint as usize] += 1;
            }
            WriteOutcome::Refused(refused) if refused.passes() => {
                debt.pause = true;
                debt.busy |= *refused == Refused::Busy;
            }
            // It was promised: whatever the reason, it stays, and shows as owed.
            _ if kept.counted => debt.pause = true,
            WriteOutcome::Refused(Refused::NotOwner) => {
                // Somebody else is the owner now, and got it otherwise: nothing needs sync here.
                debt.settled.push(kept);
                self.figures.hints_dropped[HintDropped::Refused as usize] += 1;
            }
            // No peer says the last one.
            WriteOutcome::Refused(_)
            | WriteOutcome::StaleStamp { .. }
            | WriteOutcome::StaleEpoch { .. }
            | WriteOutcome::NotApplied(_) => {
                debt.settled.push(kept);
                self.hint_dropped(&kept.id, HintDropped::Refused);
            }
        }
        self.window_ends(step, owner);
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
        let (busy, settled) = (core::mem::take(&mut debt.busy), core::mem::take(&mut debt.settled));
        if core::mem::take(&mut debt.pause) {
            debt.after = None;
            // It is busy, and took something all the same.
            let part = if busy && !settled.is_empty() { SOON } else { 1 };
            debt.at += self.limits.hint_retry_ms * 1_000 / part;
        }
        // As many as it had room for, and more again when it has.
        let grown = if 2 * debt.window < self.limits.hint_window_max { 2 * debt.window } else { 0 };
        debt.window = if busy { settled.len().max(WINDOW_MIN) } else { grown };
        if !settled.is_empty() {
            debt.changing += 1;
            let ids = settled.iter().map(|kept| kept.id).collect();
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
