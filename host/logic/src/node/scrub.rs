//! When this node looks at its own disk, and how it gets back what that damaged: the schedule, the bounds and the way
//! to the other owners. The rules are in [`crate::scrub`].

#[cfg(test)]
mod tests;

use super::budget::Budget;
use super::{JobFor, Node, Step};
use crate::digest::key_hash;
use crate::event::{Checked, Effect, JobId, Looked, ScrubJob, ScrubOutcome, ScrubWork};
use crate::id::{BUCKETS, Key, NodeId, PartitionId, Place};
use crate::message::{Message, ReadOutcome, Refused, Tag, Want};
use crate::record::Record;
use crate::replica;
use crate::scrub::SUSPECTS_MAX;
use crate::time::MonoUs;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

/// Faults of the disk that are remembered for people.
const FAULTS_KEPT: usize = 16;
/// Damaged records that are remembered until the other owners have told what they hold; the next pass finds the rest.
const DAMAGED_KEPT: usize = 1_024;
/// Damaged records that the other owners are asked about at the same time.
const FETCHES_MAX: usize = 8;
/// What a look costs at least, bytes: finding its place.
const LOOK_BYTES_MIN: usize = 4 << 10;

/// Figures of scrubbing since the start, for metrics and for whoever asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubFigures {
    /// Times that all records of this node were looked at.
    pub passes: u64,
    /// Partitions of this node that the pass under way has done, and how many there are.
    pub partitions_done: u64,
    /// See [`Self::partitions_done`].
    pub partitions: u64,
    /// Partitions that an operator wants looked at and that are not done yet.
    pub demanded: u64,
    /// Records looked at.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records that were found damaged, each once.
    pub damaged: u64,
    /// Buckets whose records were not those that were written, although each of them can be read.
    pub altered: u64,
    /// Buckets that the engine could not read.
    pub unreadable: u64,
    /// Damaged records that are what the other owners hold again.
    pub mended: u64,
    /// Damaged records that are not served again yet: they wait for the other owners, or for writes to end that these
    /// had not heard of.
    pub waiting: u64,
}

/// What is wrong with a place on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// A record that fails its checksum.
    Damaged,
    /// Records of a bucket that are not those that were written.
    Altered,
    /// The engine can't read the bucket: a file of its own is damaged.
    Unreadable,
}

impl FaultKind {
    /// For people and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Altered => "altered",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A lie of this node's disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskFault {
    /// Where.
    pub place: Place,
    /// [`key_hash`] of the record's engine key, where it is known which record it is.
    pub key: Option<u64>,
    /// What.
    pub kind: FaultKind,
    /// When it was found, Unix milliseconds.
    pub found_ms: u64,
    /// When the other owners had replaced it; `None`: not yet.
    pub mended_ms: Option<u64>,
}

/// The other owners are asked what they hold of a damaged record.
#[derive(Debug)]
struct Fetch {
    key: Key,
    left: BTreeSet<NodeId>,
    found: Vec<Record>,
    until: MonoUs,
}

/// A partition in which the disk lied: until it is compared with these owners, their records win over namesakes here.
#[derive(Debug)]
struct Distrust {
    buckets: BTreeSet<u16>,
    left: BTreeSet<NodeId>,
    /// When those that are left are asked again.
    again: MonoUs,
}

/// A record that was mended while a write that had counted here may still have been on its way to the owners that told
/// what they hold.
#[derive(Debug)]
struct Unsure {
    key: Key,
    /// When the last such write is over, and the owners can be compared.
    over: MonoUs,
    /// They are being compared.
    compared: bool,
}

/// The node's part of it.
#[derive(Debug, Default)]
pub(super) struct Scrubbing {
    mine: BTreeSet<PartitionId>,
    /// Where the pass goes on, and how many partitions it has left; `None` between two passes.
    at: Option<((PartitionId, u16), usize)>,
    /// When the next pass begins.
    due: MonoUs,
    /// Where it begins: not always at the same place, so that frequent restarts leave nothing out.
    first: PartitionId,
    /// Looked at before the pass goes on, the first one from this bucket on.
    demanded: VecDeque<PartitionId>,
    demanded_from: u16,
    /// An operator waits.
    on_demand: bool,
    suspects: VecDeque<Place>,
    /// What the disk does now: at most one look or check, and mends.
    jobs: BTreeMap<JobId, ScrubWork>,
    looks: bool,
    budget: Budget,
    /// Damaged records, and when the other owners shall be asked about them.
    damaged: VecDeque<(MonoUs, Key)>,
    fetches: BTreeMap<Tag, Fetch>,
    distrusted: BTreeMap<PartitionId, Distrust>,
    unsure: VecDeque<Unsure>,
    faults: VecDeque<DiskFault>,
    figures: ScrubFigures,
}

impl Scrubbing {
    /// Whether this disk is known to have lied about this place.
    pub(super) fn distrusts(&self, place: Place) -> bool {
        self.distrusted.get(&place.partition).is_some_and(|distrust| distrust.buckets.contains(&place.bucket))
    }

    /// Whether a write of this record that was counted here may be missing although the record can be read.
    pub(super) fn lacks(&self, key: &Key) -> bool {
        let mending = |work: &ScrubWork| matches!(work, ScrubWork::Mend { key: known, .. } if known == key);
        self.unsure.iter().any(|unsure| unsure.key == *key) || self.jobs.values().any(mending)
    }

    /// Whether something that was written to this partition may be missing here, because the disk lied.
    pub(super) fn doubts(&self, partition: PartitionId, partition_bits: u8) -> bool {
        let there = |key: &Key| key.place(partition_bits).partition == partition;
        let mending = |work: &ScrubWork| matches!(work, ScrubWork::Mend { key, .. } if there(key));
        self.distrusted.contains_key(&partition)
            || self.damaged.iter().any(|(_, key)| there(key))
            || self.fetches.values().any(|fetch| there(&fetch.key))
            || self.unsure.iter().any(|unsure| there(&unsure.key))
            || self.jobs.values().any(mending)
    }

    /// The partition of this node that comes after `partition`, round and round.
    fn after(&self, partition: PartitionId) -> Option<PartitionId> {
        let later = (core::ops::Bound::Excluded(partition), core::ops::Bound::Unbounded);
        self.mine.range(later).next().or_else(|| self.mine.first()).copied()
    }

    fn knows(&self, key: &Key) -> bool {
        let mending = |work: &ScrubWork| matches!(work, ScrubWork::Mend { key: known, .. } if known == key);
        self.damaged.iter().any(|(_, known)| known == key)
            || self.fetches.values().any(|fetch| fetch.key == *key)
            || self.jobs.values().any(mending)
    }

    fn later(&mut self, at: MonoUs, key: Key) {
        if self.damaged.len() < DAMAGED_KEPT {
            self.damaged.push_back((at, key));
        }
    }

    fn note(&mut self, fault: DiskFault) {
        let open = |known: &DiskFault| DiskFault { found_ms: fault.found_ms, ..*known };
        if self.faults.iter().any(|known| open(known) == fault) {
            return;
        }
        match fault.kind {
            FaultKind::Damaged => self.figures.damaged += 1,
            FaultKind::Altered => self.figures.altered += 1,
            FaultKind::Unreadable => self.figures.unreadable += 1,
        }
        if self.faults.len() == FAULTS_KEPT {
            self.faults.pop_front();
        }
        self.faults.push_back(fault);
    }
}

impl Node {
    /// Figures of scrubbing since the start.
    #[must_use]
    pub fn scrub_figures(&self) -> ScrubFigures {
        let scrub = &self.scrub;
        let partitions = scrub.mine.len() as u64;
        let left = scrub.at.map_or(0, |(_, left)| left as u64);
        let mending = scrub.jobs.values().filter(|work| matches!(work, ScrubWork::Mend { .. })).count();
        ScrubFigures {
            partitions,
            partitions_done: partitions.saturating_sub(left),
            demanded: if scrub.on_demand { scrub.demanded.len().max(1) as u64 } else { 0 },
            waiting: (scrub.damaged.len() + scrub.fetches.len() + mending + scrub.unsure.len()) as u64,
            ..scrub.figures
        }
    }

    /// The latest lies of this node's disk, the oldest first.
    pub fn disk_faults(&self) -> impl Iterator<Item = &DiskFault> {
        self.scrub.faults.iter()
    }

    /// When [`Self::scrub_tick`] has something to do.
    pub(super) fn scrub_wake(&self) -> Option<MonoUs> {
        let scrub = &self.scrub;
        let rate = self.limits.scrub_bytes_per_second;
        let look = if scrub.looks || scrub.mine.is_empty() {
            None
        } else if !scrub.suspects.is_empty() || !scrub.demanded.is_empty() {
            Some(0)
        } else if scrub.at.is_some() {
            Some(scrub.budget.ready_at(rate))
        } else {
            Some(scrub.due.max(scrub.budget.ready_at(rate)))
        };
        let free = scrub.fetches.len() < FETCHES_MAX;
        let fetch = scrub.damaged.front().map(|(at, _)| *at).filter(|_| free);
        let fetched = scrub.fetches.values().map(|fetch| fetch.until);
        let again = scrub.distrusted.values().map(|distrust| distrust.again);
        let over = self.scrub.unsure.iter().find(|unsure| !unsure.compared).map(|unsure| unsure.over);
        look.into_iter().chain(fetch).chain(fetched).chain(again).chain(over).filter(|at| *at < MonoUs::MAX).min()
    }

    /// The ring or the keyspaces may have changed: which partitions are looked at.
    pub(super) fn scrub_cluster(&mut self, step: &Step<'_>) {
        let widest = self.state.widest();
        let mine: BTreeSet<_> = self.state.partitions().filter(|p| self.state.holds(self.me, *p, widest)).collect();
        let state = &self.state;
        for (partition, distrust) in &mut self.scrub.distrusted {
            // Whoever is no owner any more is not compared with: then with those who are.
            if !distrust.left.iter().all(|owner| state.holds(*owner, *partition, widest)) {
                distrust.left.clear();
                distrust.again = step.now.mono_us;
            }
        }
        if mine == self.scrub.mine {
            return;
        }
        if self.scrub.mine.is_empty() {
            let after = self.sync_dice(self.limits.scrub_period_ms * 1_000);
            self.scrub.due = step.now.mono_us + after;
            self.scrub.first = PartitionId(self.sync_dice(1 << 16) as u16);
        }
        self.scrub.demanded.retain(|partition| mine.contains(partition));
        self.scrub.suspects.retain(|place| mine.contains(&place.partition));
        self.scrub.distrusted.retain(|partition, _| mine.contains(partition));
        let bits = self.state.partition_bits;
        self.scrub.unsure.retain(|unsure| mine.contains(&unsure.key.place(bits).partition));
        self.scrub.mine = mine;
    }

    /// An operator wants to know now.
    pub(super) fn scrub_demanded(&mut self, step: &mut Step<'_>, partition: Option<PartitionId>) {
        let wanted: Vec<_> =
            self.scrub.mine.iter().copied().filter(|p| partition.is_none_or(|one| one == *p)).collect();
        for partition in wanted {
            if !self.scrub.demanded.contains(&partition) {
                self.scrub.demanded.push_back(partition);
                self.scrub.on_demand = true;
            }
        }
        self.scrub_tick(step);
    }

    /// A read or a write met a damaged record.
    pub(super) fn scrub_met(&mut self, step: &mut Step<'_>, key: &Key) {
        let place = key.place(self.state.partition_bits);
        if !self.scrub.knows(key) {
            self.suspect(place);
            self.scrub_tick(step);
        }
    }

    fn suspect(&mut self, place: Place) {
        let scrub = &mut self.scrub;
        if scrub.suspects.len() < SUSPECTS_MAX
            && !scrub.suspects.contains(&place)
            && scrub.mine.contains(&place.partition)
        {
            scrub.suspects.push_back(place);
        }
    }

    /// Asks the disk and the other owners what is due to be asked.
    pub(super) fn scrub_tick(&mut self, step: &mut Step<'_>) {
        let now = step.now.mono_us;
        self.scrub_fetch(step);
        let due = |(partition, distrust): (&PartitionId, &Distrust)| (distrust.again <= now).then_some(*partition);
        for partition in self.scrub.distrusted.iter().filter_map(due).collect::<Vec<_>>() {
            self.compare_distrusted(step, partition);
        }
        let over = |unsure: &&mut Unsure| !unsure.compared && unsure.over <= now;
        let bits = self.state.partition_bits;
        let places = self.scrub.unsure.iter_mut().filter(over).map(|unsure| {
            unsure.compared = true;
            unsure.key.place(bits)
        });
        for place in places.collect::<Vec<_>>() {
            self.distrust(step, place);
        }
        if !self.scrub.looks
            && let Some(work) = self.scrub_next(now)
        {
            self.scrub.looks = true;
            self.scrub_job(step, work);
        }
        let scrub = &mut self.scrub;
        let busy = scrub.looks || !scrub.suspects.is_empty() || !scrub.demanded.is_empty();
        scrub.on_demand &= busy || !scrub.jobs.is_empty() || !scrub.fetches.is_empty();
    }

    fn scrub_job(&mut self, step: &mut Step<'_>, work: ScrubWork) {
        let job = self.job(JobFor::Scrub);
        self.scrub.jobs.insert(job, work.clone());
        step.out.push(Effect::Scrub(ScrubJob { job, work }));
    }

    /// What is looked at next: what is suspect, what an operator wants, the pass.
    fn scrub_next(&mut self, now: MonoUs) -> Option<ScrubWork> {
        let (rate, period) = (self.limits.scrub_bytes_per_second, self.limits.scrub_period_ms * 1_000);
        let scrub = &mut self.scrub;
        if let Some(Place { partition, bucket }) = scrub.suspects.pop_front() {
            return Some(ScrubWork::Check { partition, bucket });
        }
        if let Some(partition) = scrub.demanded.front().copied() {
            return Some(ScrubWork::Look { partition, bucket: scrub.demanded_from });
        }
        if !scrub.budget.is_ready(now, rate) {
            return None;
        }
        if scrub.at.is_none() && scrub.due <= now {
            let first = scrub.after(scrub.first)?;
            scrub.due = now + period;
            scrub.at = Some(((first, 0), scrub.mine.len()));
        }
        let ((partition, bucket), _) = scrub.at?;
        Some(ScrubWork::Look { partition, bucket })
    }

    /// The disk has done it.
    pub(super) fn scrubbed(&mut self, step: &mut Step<'_>, job: JobId, outcome: ScrubOutcome) {
        let Some(work) = self.scrub.jobs.remove(&job) else { return };
        let now = step.now.mono_us;
        match work {
            ScrubWork::Look { partition, bucket } => {
                self.scrub.looks = false;
                match outcome {
                    ScrubOutcome::Looked(looked) => self.looked(step, (partition, bucket), &looked),
                    ScrubOutcome::Unreadable { bucket } => {
                        self.fault(step, Place { partition, bucket }, None, FaultKind::Unreadable);
                        let next = Some(bucket + 1).filter(|next| u32::from(*next) < BUCKETS);
                        self.looked(step, (partition, bucket), &Looked { next, ..Looked::default() });
                    }
                    // The disk has other trouble: what an operator asked for ends here, the pass goes on later.
                    _ => {
                        self.scrub.demanded.clear();
                        self.scrub.demanded_from = 0;
                        self.scrub.budget.spend(now, LOOK_BYTES_MIN << 8, self.limits.scrub_bytes_per_second);
                    }
                }
            }
            ScrubWork::Check { partition, bucket } => {
                self.scrub.looks = false;
                match outcome {
                    ScrubOutcome::Checked(checked) => self.checked(step, Place { partition, bucket }, checked),
                    ScrubOutcome::Unreadable { bucket } => {
                        self.fault(step, Place { partition, bucket }, None, FaultKind::Unreadable);
                    }
                    _ => {}
                }
            }
            ScrubWork::Mend { key, .. } if outcome == ScrubOutcome::Mended => {
                self.scrub.figures.mended += 1;
                // Whoever writes may have heard from here before the damage, and from no owner that was asked.
                let over = now + (self.limits.deadline_max_ms + self.limits.sync_answer_ms) * 1_000;
                self.scrub.unsure.push_back(Unsure { key: key.clone(), over, compared: false });
                let hash = key_hash(&key.engine_key(self.state.partition_bits));
                let open = |fault: &&mut DiskFault| fault.key == Some(hash) && fault.mended_ms.is_none();
                for fault in self.scrub.faults.iter_mut().filter(open) {
                    fault.mended_ms = Some(step.now.wall_ms);
                }
            }
            ScrubWork::Mend { key, .. } => self.scrub.later(now + self.limits.sync_answer_ms * 1_000, key),
        }
        self.scrub_tick(step);
    }

    fn looked(&mut self, step: &Step<'_>, (partition, bucket): (PartitionId, u16), looked: &Looked) {
        let (now, rate) = (step.now.mono_us, self.limits.scrub_bytes_per_second);
        for bucket in &looked.suspects {
            self.suspect(Place { partition, bucket: *bucket });
        }
        let scrub = &mut self.scrub;
        scrub.figures.records += looked.records;
        scrub.figures.bytes += looked.bytes;
        scrub.budget.spend(now, LOOK_BYTES_MIN.max(looked.bytes as usize), rate);
        if scrub.demanded.front() == Some(&partition) && scrub.demanded_from == bucket {
            scrub.demanded_from = looked.next.unwrap_or(0);
            if looked.next.is_none() {
                scrub.demanded.pop_front();
            }
            return;
        }
        let Some((_, left)) = scrub.at.filter(|(at, _)| *at == (partition, bucket)) else { return };
        let next = match looked.next {
            Some(next) => Some(((partition, next), left)),
            None if left > 1 => scrub.after(partition).map(|next| ((next, 0), left - 1)),
            None => None,
        };
        if next.is_none() {
            scrub.figures.passes += 1;
            scrub.first = partition;
        }
        scrub.at = next;
    }

    fn checked(&mut self, step: &mut Step<'_>, place: Place, checked: Checked) {
        let (now, rate) = (step.now.mono_us, self.limits.scrub_bytes_per_second);
        self.scrub.budget.spend(now, checked.bytes as usize, rate);
        if checked.differed {
            if checked.damaged.is_empty() {
                self.fault(step, place, None, FaultKind::Altered);
            }
            self.distrust(step, place);
        }
        for engine_key in checked.damaged {
            self.fault(step, place, Some(key_hash(&engine_key)), FaultKind::Damaged);
            if let Some(key) = Key::from_engine_key(&engine_key).filter(|key| !self.scrub.knows(key)) {
                self.scrub.later(now, key);
            }
        }
    }

    fn fault(&mut self, step: &Step<'_>, place: Place, key: Option<u64>, kind: FaultKind) {
        self.scrub.note(DiskFault { place, key, kind, found_ms: step.now.wall_ms, mended_ms: None });
    }

    /// What this place holds is compared with all other owners, beginning now.
    fn distrust(&mut self, step: &Step<'_>, place: Place) {
        let fresh = || Distrust { buckets: BTreeSet::new(), left: BTreeSet::new(), again: step.now.mono_us };
        let distrust = self.scrub.distrusted.entry(place.partition).or_insert_with(fresh);
        distrust.buckets.insert(place.bucket);
        distrust.left.clear();
        self.compare_distrusted(step, place.partition);
    }

    /// The other owners of a partition in which the disk lied are compared with; those that were not (yet) are once
    /// more.
    fn compare_distrusted(&mut self, step: &Step<'_>, partition: PartitionId) {
        let others = self.sync_all_of(partition);
        let again = step.now.mono_us + self.limits.sync_answer_ms * 1_000;
        let Some(distrust) = self.scrub.distrusted.get_mut(&partition) else { return };
        distrust.again = again;
        if distrust.left.is_empty() {
            distrust.left = others;
        }
        // Nobody else holds any of it: there is nothing to wait for.
        if distrust.left.is_empty() {
            self.trusted(partition);
        }
    }

    fn trusted(&mut self, partition: PartitionId) {
        let bits = self.state.partition_bits;
        self.scrub.distrusted.remove(&partition);
        self.scrub.unsure.retain(|unsure| !unsure.compared || unsure.key.place(bits).partition != partition);
    }

    /// A partition was compared with another owner, all ages of it.
    pub(super) fn scrub_compared(&mut self, step: &Step<'_>, (partition, owner): (PartitionId, NodeId)) {
        let Some(distrust) = self.scrub.distrusted.get_mut(&partition) else { return };
        distrust.left.remove(&owner);
        if !distrust.left.is_empty() {
            return;
        }
        self.trusted(partition);
        let of = |fault: &&mut DiskFault| fault.place.partition == partition && fault.kind == FaultKind::Altered;
        for fault in self.scrub.faults.iter_mut().filter(of).filter(|fault| fault.mended_ms.is_none()) {
            fault.mended_ms = Some(step.now.wall_ms);
        }
    }

    /// Asks the other owners about damaged records, and gives up on answers that did not come.
    fn scrub_fetch(&mut self, step: &mut Step<'_>) {
        let (now, answer) = (step.now.mono_us, self.limits.sync_answer_ms * 1_000);
        let late = |(tag, fetch): (&Tag, &Fetch)| (fetch.until <= now).then_some(*tag);
        for tag in self.scrub.fetches.iter().filter_map(late).collect::<Vec<_>>() {
            self.fetch_failed(step, tag);
        }
        // Times are not quite in order, which costs a late one a moment.
        while self.scrub.fetches.len() < FETCHES_MAX
            && let Some((_, key)) = self.scrub.damaged.pop_front_if(|(at, _)| *at <= now)
        {
            let owners = self.state.tables(key.place(self.state.partition_bits).partition, key.keyspace).all();
            let left: BTreeSet<NodeId> = owners.iter().copied().filter(|owner| *owner != self.me).collect();
            // Where there is no other owner, nothing can be done: reads say so, and the next write replaces it.
            if !owners.contains(&self.me) || left.is_empty() {
                continue;
            }
            if !left.iter().all(|owner| self.is_linked(*owner)) {
                self.scrub.later(now + self.limits.hint_retry_ms * 1_000, key);
                continue;
            }
            let (tag, epoch) = (self.tag(), self.state.epoch);
            for owner in &left {
                self.send(step, *owner, Message::Read { tag, key: key.clone(), epoch, want: Want::Record });
            }
            self.scrub.fetches.insert(tag, Fetch { key, left, found: Vec::new(), until: now + answer });
        }
    }

    fn fetch_failed(&mut self, step: &Step<'_>, tag: Tag) {
        if let Some(fetch) = self.scrub.fetches.remove(&tag) {
            self.scrub.later(step.now.mono_us + self.limits.hint_retry_ms * 1_000, fetch.key);
        }
    }

    /// Another owner tells what it holds of a damaged record. Gives the outcome back if nobody here asked for it.
    pub(super) fn scrub_found(
        &mut self,
        step: &mut Step<'_>,
        tag: Tag,
        from: NodeId,
        outcome: ReadOutcome,
    ) -> Option<ReadOutcome> {
        let Some(fetch) = self.scrub.fetches.get_mut(&tag) else { return Some(outcome) };
        match outcome {
            ReadOutcome::Record(record) if fetch.left.remove(&from) => fetch.found.push(record),
            // Its disk lied about the same record: nothing will come from there.
            ReadOutcome::Refused(Refused::DamagedRecord) => drop(fetch.left.remove(&from)),
            ReadOutcome::Record(_) | ReadOutcome::Digest(_) => {}
            ReadOutcome::Refused(_) | ReadOutcome::StaleEpoch { .. } => self.fetch_failed(step, tag),
        }
        if let Some(fetch) = self.scrub.fetches.get(&tag).filter(|fetch| fetch.left.is_empty())
            && let Ok(policy) = self.keyspace(fetch.key.keyspace).map(|keyspace| keyspace.policy())
            && let Some(Fetch { key, found, .. }) = self.scrub.fetches.remove(&tag)
        {
            let record = replica::merge(step.resolve, policy, found);
            self.scrub_job(step, ScrubWork::Mend { key, record });
        }
        None
    }
}
