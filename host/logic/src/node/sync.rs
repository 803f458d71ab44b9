//! When this node compares its partitions with their other owners, and what it answers those that compare with it.
//!
//! The rules of a comparison are in [`crate::sync`]; here are its schedule, its bounds, and its way to peers and disk.

mod missing;
mod serve;
#[cfg(test)]
mod tests;

use super::budget::Budget;
use super::own::WriteAsked;
use super::{Cause, JobFor, Node, Step};
use crate::cluster::Keyspace;
use crate::context::Context;
use crate::digest::{Age, Range};
use crate::event::Effect;
use crate::exchange::{Found, SyncAnswer, SyncAsk, SyncRefused, Work};
use crate::id::{Epoch, Key, NodeId, PartitionId};
use crate::message::{Message, Tag, WriteOutcome};
use crate::port::{Durability, Resolve, ResolverHash, Role};
use crate::record::Record;
use crate::sync::{End, Session, Tally, Turn};
use crate::time::MonoUs;
use crate::version::Version;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use serve::Served;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A partition and another owner of it.
pub(super) type Pair = (PartitionId, NodeId);

/// How often a comparison on demand that took all its steps is started again.
const ROUNDS_MAX: u8 = 64;

/// Figures of comparisons since the start, for metrics and for whoever asked for a repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SyncFigures {
    /// Pairs of (partition, other owner) that somebody asked for and that are not compared yet.
    pub demanded: u64,
    /// Comparisons under way.
    pub running: u64,
    /// Comparisons that found no difference.
    pub clean: u64,
    /// Comparisons that mended all differences they saw.
    pub mended: u64,
    /// Comparisons that did not end well: refused, timed out, a link lost. They are made again.
    pub failed: u64,
    /// Comparisons that found other resolver code on the other side: an operator must look.
    pub plugin_drift: u64,
    /// Bytes sent and received, about.
    pub bytes: u64,
    /// Records sent to other owners.
    pub records_sent: u64,
    /// Records received from other owners.
    pub records_received: u64,
}

/// One comparison of this node's own.
#[derive(Debug)]
struct Running {
    pair: Pair,
    /// Ages that come after this one.
    ages: VecDeque<Age>,
    demanded: Option<u8>,
    /// The partition moves, or shall be sealed.
    mover: Option<Mover>,
    session: Session,
    /// Versions of the last answer that were not taken.
    missed: usize,
    waits: Waits,
    /// When it is given up, if nothing comes.
    deadline: MonoUs,
}

/// Why a partition is compared in all its epochs: that it moves, mostly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mover {
    /// This node fetches it.
    In,
    /// This node hands over what it has of keyspaces of at least so many copies.
    Out(u8),
    /// It shall be sealed, up to this closing.
    Seal(Epoch),
}

/// What a comparison waits for.
#[derive(Debug)]
enum Waits {
    /// The disk's reading, or so many writes.
    Disk(usize),
    /// Bytes that it may send.
    Budget(SyncAsk),
    /// The other owner.
    Answer(SyncAsk),
}

/// See [`Comparing::missing`].
const UNDER_WAY: MonoUs = MonoUs::MAX;

/// The node's part of it.
#[derive(Debug, Default)]
pub(super) struct Comparing {
    /// With the copies that a keyspace needs to be on both.
    pairs: BTreeMap<Pair, u8>,
    due: BTreeSet<(MonoUs, Pair)>,
    /// On demand, with the rounds that are left.
    demanded: VecDeque<(Pair, u8)>,
    /// Where hints were dropped: before all others, from that moment on, once the other owner can be reached. They stay
    /// until a comparison of theirs has ended well; [`UNDER_WAY`] while one goes on.
    missing: BTreeMap<Pair, MonoUs>,
    running: BTreeMap<Tag, Running>,
    served: BTreeMap<Tag, Served>,
    budget: Budget,
    /// When a client's write came last.
    wrote: BTreeMap<PartitionId, MonoUs>,
    figures: SyncFigures,
}

impl Node {
    /// Figures of comparisons since the start.
    #[must_use]
    pub fn sync_figures(&self) -> SyncFigures {
        let under_way = self.sync.running.values().filter(|running| running.demanded.is_some()).count();
        let demanded = (self.sync.demanded.len() + under_way) as u64;
        SyncFigures { demanded, running: self.sync.running.len() as u64, ..self.sync.figures }
    }

    /// When [`Self::sync_tick`] has something to do.
    pub(super) fn sync_wake(&self) -> Option<MonoUs> {
        let free = self.sync.running.len() < self.limits.sync_sessions_max;
        let due = self.sync.due.first().map(|(at, _)| *at).filter(|_| free);
        let demanded = (free && self.sync.demanded.iter().any(|(pair, _)| self.is_ripe(pair))).then_some(0);
        let missing = self.sync_missing_next().map(|(at, _)| at).filter(|_| free);
        let waits = self.sync.running.values().map(|running| match running.waits {
            Waits::Budget(_) => self.sync.budget.ready_at(self.limits.sync_bytes_per_second),
            Waits::Disk(_) | Waits::Answer(_) => running.deadline,
        });
        due.into_iter().chain(demanded).chain(missing).chain(waits).min()
    }

    /// A client's write came to a partition: its open epoch is not quiet.
    pub(super) fn sync_noted(&mut self, now: MonoUs, partition: PartitionId) {
        self.sync.wrote.insert(partition, now);
    }

    /// The ring or the keyspaces may have changed: who is compared with whom.
    pub(super) fn sync_cluster(&mut self, step: &mut Step<'_>) {
        let widest = self.state.widest();
        let mut pairs = BTreeMap::new();
        for partition in 0..self.state.ring.as_ref().map_or(0, |ring| ring.partitions()) {
            let partition = PartitionId(partition as u16);
            let owners = self.state.all_owners(partition, widest);
            if !owners.contains(&self.me) {
                continue;
            }
            for owner in owners.into_iter().filter(|owner| *owner != self.me) {
                if let Some(copies) = self.copies_shared_with(partition, owner) {
                    pairs.insert((partition, owner), copies);
                }
            }
        }
        self.sync_epoch(step);
        if pairs == self.sync.pairs {
            return;
        }
        self.sync.due.retain(|(_, pair)| pairs.contains_key(pair));
        self.sync.missing.retain(|pair, _| pairs.contains_key(pair));
        self.sync.wrote.retain(|partition, _| pairs.keys().any(|(p, _)| p == partition));
        let known: BTreeSet<Pair> = self.sync.pairs.keys().copied().collect();
        for pair in pairs.keys().filter(|pair| !known.contains(pair)) {
            // Spread over a period, so that nodes that start together do not compare together.
            let after = self.sync_dice(self.limits.sync_period_ms * 1_000);
            self.sync.due.insert((step.now.mono_us + after, *pair));
        }
        self.sync.pairs = pairs;
    }

    /// A comparison ends with its epoch, and when its partition is sealed further: one that is demanded begins anew,
    /// others come again.
    fn sync_epoch(&mut self, step: &mut Step<'_>) {
        let epoch = self.state.epoch;
        let old = |(tag, running): (&Tag, &Running)| {
            let (range, hands_over) = (running.session.range(), matches!(running.mover, Some(Mover::Out(_))));
            // What is removed from here must not come back.
            let sealed = range.purged != self.state.sealed(range.partition).epoch && !hands_over;
            (range.epoch != epoch || sealed).then_some(*tag)
        };
        for tag in self.sync.running.iter().filter_map(old).collect::<Vec<_>>() {
            if let Some(rounds) = self.sync.running.get(&tag).and_then(|running| running.demanded)
                && let Some(running) = self.sync.running.remove(&tag)
            {
                self.sync.demanded.push_back((running.pair, rounds));
                self.sync_missing_ended(step.now.mono_us, running.pair, false);
            } else {
                self.sync_ended(step, tag);
            }
        }
    }

    /// Whether what is demanded of a pair can begin now, or never will. What goes on for another reason, or waits for a
    /// purge, is soon over.
    fn is_ripe(&self, pair: &Pair) -> bool {
        !self.is_linked(pair.1) || !self.is_compared(*pair) && self.comparable(pair.0).is_some()
    }

    /// Whether a comparison of the pair goes on.
    fn is_compared(&self, pair: Pair) -> bool {
        self.sync.running.values().any(|running| running.pair == pair)
    }

    /// An operator wants to see everything equal now.
    pub(super) fn sync_demanded(&mut self, step: &mut Step<'_>, partition: Option<PartitionId>) {
        let wanted = |pair: &&Pair| partition.is_none_or(|partition| pair.0 == partition);
        for pair in self.sync.pairs.keys().filter(wanted) {
            if self.sync.demanded.iter().all(|(known, _)| known != pair) {
                self.sync.demanded.push_back((*pair, ROUNDS_MAX));
            }
        }
        self.sync_tick(step);
    }

    /// Ends what waited too long, sends what may be sent, starts what is due.
    pub(super) fn sync_tick(&mut self, step: &mut Step<'_>) {
        let now = step.now.mono_us;
        self.sync_missing(now);
        let (rate, ready) = (self.limits.sync_bytes_per_second, |waits: &Waits| matches!(waits, Waits::Budget(_)));
        let tags: Vec<Tag> = self.sync.running.keys().copied().collect();
        for tag in tags {
            let Some(running) = self.sync.running.get_mut(&tag) else { continue };
            if ready(&running.waits) && self.sync.budget.is_ready(now, rate) {
                if let Waits::Budget(ask) = core::mem::replace(&mut running.waits, Waits::Disk(0)) {
                    self.sync_ask(step, tag, ask);
                }
            } else if running.deadline <= now && !ready(&running.waits) {
                self.sync_failed(step, tag);
            }
        }
        while self.sync.running.len() < self.limits.sync_sessions_max {
            if let Some((_, pair)) = self.sync_missing_next().filter(|(at, _)| *at <= now) {
                self.sync.missing.insert(pair, UNDER_WAY);
                self.sync_start(step, pair, Some(ROUNDS_MAX));
                continue;
            }
            let ripe = self.sync.demanded.iter().position(|(pair, _)| self.is_ripe(pair));
            if let Some((pair, rounds)) = ripe.and_then(|at| self.sync.demanded.remove(at)) {
                if self.is_linked(pair.1) {
                    self.sync_start(step, pair, Some(rounds));
                } else {
                    self.sync.figures.failed += 1;
                    self.sync_missing_ended(now, pair, false);
                }
                continue;
            }
            let Some((at, pair)) = self.sync.due.first().copied().filter(|(at, _)| *at <= now) else { break };
            self.sync.due.remove(&(at, pair));
            if self.is_linked(pair.1) && self.is_ripe(&pair) {
                self.sync_start(step, pair, None);
            } else {
                self.sync_later(step, pair);
            }
        }
    }

    /// The pair is due again after about a period.
    fn sync_later(&mut self, step: &Step<'_>, pair: Pair) {
        let period = self.limits.sync_period_ms * 1_000;
        let after = period - period / 8 + self.sync_dice(period / 4);
        if self.sync.pairs.contains_key(&pair) && self.sync.due.iter().all(|(_, known)| *known != pair) {
            self.sync.due.insert((step.now.mono_us + after, pair));
        }
    }

    fn sync_start(&mut self, step: &mut Step<'_>, pair: Pair, demanded: Option<u8>) {
        // It would only hear that the other owner has other code.
        if demanded.is_none() && self.state.keyspaces.values().any(|keyspace| lacks_code(keyspace, step.resolve)) {
            return self.sync_later(step, pair);
        }
        let now = step.now.mono_us;
        let quiet = self.limits.sync_quiet_ms * 1_000;
        let wrote = self.sync.wrote.get(&pair.0);
        let mut ages: VecDeque<Age> = Age::ALL.into();
        if demanded.is_none() && wrote.is_some_and(|at| at + quiet > now) {
            ages.pop_back();
        }
        self.sync_age(step, pair, ages, demanded);
    }

    fn sync_age(&mut self, step: &mut Step<'_>, pair: Pair, mut ages: VecDeque<Age>, demanded: Option<u8>) {
        let (Some(age), Some(&copies_min)) = (ages.pop_front(), self.sync.pairs.get(&pair)) else {
            self.sync_missing_ended(step.now.mono_us, pair, true);
            self.sync_later(step, pair);
            return;
        };
        let Some(purged) = self.comparable(pair.0) else {
            self.sync_missing_ended(step.now.mono_us, pair, false);
            self.sync_later(step, pair);
            return;
        };
        let (epoch, closed) = (self.state.epoch, Epoch(0));
        let range = Range { partition: pair.0, copies_min, epoch, age, purged, closed };
        self.sync_session(step, pair, range, (ages, demanded, None));
    }

    fn sync_session(
        &mut self,
        step: &mut Step<'_>,
        pair: Pair,
        range: Range,
        (ages, demanded, mover): (VecDeque<Age>, Option<u8>, Option<Mover>),
    ) {
        let tag = self.tag();
        let nonce = self.sync_dice(u64::MAX);
        let (session, turn) =
            Session::new(range, self.code(step.resolve, range.copies_min), nonce, self.limits.sync_steps_max);
        let session = if matches!(mover, Some(Mover::Out(_))) { session.giving() } else { session };
        let deadline = step.now.mono_us + self.limits.sync_answer_ms * 1_000;
        let (missed, waits) = (0, Waits::Disk(0));
        self.sync.running.insert(tag, Running { pair, ages, demanded, mover, session, missed, waits, deadline });
        self.sync_turn(step, tag, turn);
    }

    /// Compares a partition that moves, or shall be sealed, with an owner, if there is a place for one more comparison.
    pub(super) fn sync_move(&mut self, step: &mut Step<'_>, pair: Pair, mover: Mover) -> bool {
        let (shared, comparable) = (self.sync.pairs.get(&pair).copied(), self.comparable(pair.0));
        let (copies_min, purged, closed) = match mover {
            Mover::In => (shared, comparable, Epoch(0)),
            // What it takes from nobody it can't get back either.
            Mover::Out(copies) => (Some(copies), Some(Epoch(0)), Epoch(0)),
            Mover::Seal(closed) => (shared, comparable, closed),
        };
        let may = copies_min.zip(purged).filter(|_| !self.is_compared(pair) && self.sync_has_room());
        let Some((copies_min, purged)) = may else { return false };
        let (epoch, age) = (self.state.epoch, Age::Any);
        let range = Range { partition: pair.0, copies_min, epoch, age, purged, closed };
        self.sync_session(step, pair, range, (VecDeque::new(), None, Some(mover)));
        true
    }

    /// Whether one more comparison may go on.
    pub(super) fn sync_has_room(&self) -> bool {
        self.sync.running.len() < self.limits.sync_sessions_max
    }

    fn sync_turn(&mut self, step: &mut Step<'_>, tag: Tag, turn: Turn) {
        let Some(running) = self.sync.running.get_mut(&tag) else { return };
        running.deadline = step.now.mono_us + self.limits.sync_answer_ms * 1_000;
        let range = running.session.range();
        match turn {
            Turn::Ask(ask) => {
                if self.sync.budget.is_ready(step.now.mono_us, self.limits.sync_bytes_per_second) {
                    self.sync_ask(step, tag, ask);
                } else {
                    running.waits = Waits::Budget(ask);
                }
            }
            Turn::Work(work) => {
                running.waits = Waits::Disk(0);
                self.compare(step, tag, work);
            }
            Turn::Absorb(records) => {
                running.waits = Waits::Disk(0);
                let (jobs, missed) = self.sync_absorb(step, tag, range, records);
                match self.sync.running.get_mut(&tag) {
                    Some(running) if jobs > 0 => (running.waits, running.missed) = (Waits::Disk(jobs), missed),
                    Some(running) => {
                        let turn = running.session.absorbed(missed);
                        self.sync_turn(step, tag, turn);
                    }
                    None => {}
                }
            }
            Turn::Done(end) => self.sync_done(step, tag, end),
        }
    }

    fn sync_ask(&mut self, step: &mut Step<'_>, tag: Tag, ask: SyncAsk) {
        let Some(running) = self.sync.running.get_mut(&tag) else { return };
        self.sync.budget.spend(step.now.mono_us, ask.bytes(), self.limits.sync_bytes_per_second);
        running.deadline = step.now.mono_us + self.limits.sync_answer_ms * 1_000;
        running.waits = Waits::Answer(ask.clone());
        let peer = running.pair.1;
        self.send(step, peer, Message::Sync { tag, ask });
    }

    fn compare(&mut self, step: &mut Step<'_>, tag: Tag, work: Work) {
        let job = self.job(JobFor::Sync(tag));
        step.out.push(Effect::Compare { job, work });
    }

    /// The other owner answered. What nobody waits for (any more) is nothing.
    pub(super) fn sync_answered(&mut self, step: &mut Step<'_>, from: NodeId, tag: Tag, answer: SyncAnswer) {
        let Some(running) = self.sync.running.get_mut(&tag).filter(|running| running.pair.1 == from) else { return };
        if !matches!(running.waits, Waits::Answer(_)) {
            return;
        }
        let Waits::Answer(ask) = core::mem::replace(&mut running.waits, Waits::Disk(0)) else { return };
        self.sync.budget.spend(step.now.mono_us, answer.bytes(), self.limits.sync_bytes_per_second);
        let turn = running.session.answered(&ask, answer);
        self.retag(step, tag, turn);
    }

    /// The next question of the session has a tag of its own, so that a late or doubled answer meets nobody.
    fn retag(&mut self, step: &mut Step<'_>, tag: Tag, turn: Turn) {
        let next = self.tag();
        if let Some(running) = self.sync.running.remove(&tag) {
            self.sync.running.insert(next, running);
        }
        self.sync_turn(step, next, turn);
    }

    /// The disk has read.
    pub(super) fn compared(&mut self, step: &mut Step<'_>, tag: Tag, found: Found) {
        if self.sync.served.contains_key(&tag) {
            self.serve_found(step, tag, found);
        } else if let Some(running) = self.sync.running.get_mut(&tag) {
            let turn = running.session.found(found);
            self.sync_turn(step, tag, turn);
        }
    }

    /// The disk has merged one version of a record that a comparison brought.
    pub(super) fn sync_written(&mut self, step: &mut Step<'_>, tag: Tag, outcome: &WriteOutcome) {
        if self.sync.served.contains_key(&tag) {
            self.serve_written(step, tag, outcome);
        } else if let Some(running) = self.sync.running.get_mut(&tag)
            && let Waits::Disk(left @ 1..) = &mut running.waits
        {
            running.missed += usize::from(!outcome.is_held());
            *left -= 1;
            if *left == 0 {
                let turn = running.session.absorbed(core::mem::take(&mut running.missed));
                self.sync_turn(step, tag, turn);
            }
        }
    }

    /// Hands records to the disk: how many jobs that makes, and how many versions were left out that may not be here.
    fn sync_absorb(
        &mut self,
        step: &mut Step<'_>,
        tag: Tag,
        range: Range,
        records: Vec<(Key, Record)>,
    ) -> (usize, usize) {
        let latest = step.now.wall_ms + self.limits.clock_offset_max_ms;
        let (mut jobs, mut left_out) = (0, 0);
        for (key, record) in records {
            let place = key.place(self.state.partition_bits);
            let durability = self.state.keyspaces.get(&key.keyspace).map(|keyspace| keyspace.durability);
            let admitted = if place.partition == range.partition { self.admit(&key).ok() } else { None };
            let Some((policy, durability)) = admitted.zip(durability) else {
                left_out += record.versions().len();
                continue;
            };
            // Whoever fetches a partition says so to everybody, and whoever hands it over removes it.
            let durability = if range.age == Age::Any { Durability::Sync } else { durability };
            let replaces = self.scrub.distrusts(place);
            let (versions, past) = record.into_parts();
            let all = versions.len();
            let may_be = |v: &Version| v.epoch <= self.state.epoch && v.written.ms() <= latest;
            let taken: Vec<Version> = versions.into_iter().filter(may_be).collect();
            left_out += all - taken.len();
            jobs += taken.len();
            let mut beside = Vec::new();
            for version in taken {
                let (key, dot) = (key.clone(), version.dot);
                let plain = WriteAsked::plain(key, version, Context::default(), false, durability);
                // The past comes when all of them are here: what they took the place of must not go before.
                let asked = if beside.len() + 1 == all && !past.is_empty() {
                    WriteAsked { replaces, past: past.clone(), beside: beside.clone(), ..plain }
                } else {
                    WriteAsked { replaces, ..plain }
                };
                beside.push(dot);
                self.write_here(step, JobFor::Sync(tag), asked, policy);
            }
        }
        (jobs, left_out)
    }

    fn sync_done(&mut self, step: &mut Step<'_>, tag: Tag, end: End) {
        let Some(running) = self.sync.running.remove(&tag) else { return };
        let (tally, figures) = (running.session.tally(), &mut self.sync.figures);
        figures.bytes += tally.bytes;
        figures.records_sent += tally.sent;
        figures.records_received += tally.received;
        self.figures.repairs[Cause::Sync as usize] += tally.sent + tally.received;
        let comes_again = running.mover.is_some() || matches!(running.demanded, Some(1..));
        match end {
            End::Clean => figures.clean += 1,
            End::Mended => figures.mended += 1,
            End::PluginDrift => figures.plugin_drift += 1,
            End::Cut | End::Refused(SyncRefused::Busy) | End::Unready if comes_again => {}
            End::Partial | End::Cut | End::Refused(_) | End::Unready | End::Nonsense => figures.failed += 1,
        }
        if let Some(mover) = running.mover {
            self.mover_compared(step, running.pair, mover, (Some(end), tally));
            return;
        }
        if matches!(end, End::Clean | End::Mended) && running.demanded.is_some() && running.ages.is_empty() {
            self.scrub_compared(step, running.pair);
        }
        match (end, running.demanded) {
            (End::Clean | End::Mended, demanded) => self.sync_age(step, running.pair, running.ages, demanded),
            (End::Cut | End::Refused(SyncRefused::Busy) | End::Unready, Some(rounds @ 1..)) => {
                self.sync.demanded.push_back((running.pair, rounds - 1));
                self.sync_later(step, running.pair);
            }
            _ => {
                self.sync_missing_ended(step.now.mono_us, running.pair, false);
                self.sync_later(step, running.pair);
            }
        }
    }

    fn sync_failed(&mut self, step: &Step<'_>, tag: Tag) {
        self.sync.figures.failed += u64::from(self.sync.running.contains_key(&tag));
        self.sync_ended(step, tag);
    }

    fn sync_ended(&mut self, step: &Step<'_>, tag: Tag) {
        if let Some(running) = self.sync.running.remove(&tag) {
            if let Some(mover) = running.mover {
                self.mover_compared(step, running.pair, mover, (None, running.session.tally()));
                return;
            }
            self.sync_missing_ended(step.now.mono_us, running.pair, false);
            self.sync_later(step, running.pair);
        }
    }

    fn mover_compared(&mut self, step: &Step<'_>, pair: Pair, mover: Mover, (end, tally): (Option<End>, Tally)) {
        match mover {
            Mover::In | Mover::Out(_) => self.move_compared(step, pair, mover, end, tally),
            Mover::Seal(_) => self.seal_compared(step, pair, end),
        }
    }

    /// Questions to this peer, or from it, are lost: comparisons with it end, and leave nothing behind.
    pub(super) fn sync_lost(&mut self, step: &Step<'_>, peer: NodeId) {
        self.sync.served.retain(|_, served| served.peer() != peer);
        let with = |(tag, running): (&Tag, &Running)| (running.pair.1 == peer).then_some(*tag);
        for tag in self.sync.running.iter().filter_map(with).collect::<Vec<_>>() {
            self.sync_failed(step, tag);
        }
    }

    /// Hash of the code that settles the keyspaces of at least so many copies, as far as it is here: without it we are
    /// like nobody else.
    ///
    /// All of them, and not only those that have data in the partition: both owners are in the same epoch, so their
    /// definitions are the same ones, and no count of records per keyspace is needed.
    fn code(&self, resolve: &dyn Resolve, copies_min: u8) -> u64 {
        let shared = self.state.keyspaces.iter().filter(|(id, _)| self.state.copies_max(**id) >= copies_min);
        shared.fold(0, |hash, (id, keyspace)| {
            let resolver = keyspace.policy().resolver;
            let hash =
                if lacks_code(keyspace, resolve) { xxh3_64_with_seed(&self.me.0.to_le_bytes(), hash) } else { hash };
            xxh3_64_with_seed(&resolver.0, hash ^ u64::from(id.0))
        })
    }

    /// A number below `below`, from the node's seed.
    pub(super) fn sync_dice(&mut self, below: u64) -> u64 {
        self.serial += 1;
        xxh3_64_with_seed(&self.serial.to_le_bytes(), self.seed) % below.max(1)
    }

    /// Copies that a keyspace needs to lie on us and on `peer`; `None` when one of us is no owner.
    fn copies_shared_with(&self, partition: PartitionId, peer: NodeId) -> Option<u8> {
        let copies = |node| self.state.copies_at(node, partition);
        Some(copies(self.me)?.max(copies(peer)?))
    }
}

/// Whether a keyspace is settled by code that is not here. Data types change no record by themselves, and neither do
/// resolvers that merge for readers.
fn lacks_code(keyspace: &Keyspace, resolve: &dyn Resolve) -> bool {
    let resolver = keyspace.policy().resolver;
    keyspace.role == Role::Resolver && resolver != ResolverHash::NOBODY && !resolve.has(resolver)
}
