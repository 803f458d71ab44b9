//! Anti-entropy: two owners of a partition find every difference between them and mend it (DESIGN section 9).
//!
//! One owner asks, the other one answers and keeps nothing between two questions but the records that it is just
//! writing. A [`Session`] is the asker's side for one [`Range`], a pure state machine:
//!
//! 1. *Root.* Equal: done, with one small message each way and no record read. Otherwise the answer brings the sums of
//!    all buckets (8 KiB).
//! 2. *Sketches.* For buckets that differ, the asker reads its records there and sends sums of slices of about
//!    [`SLICE_KEYS`] keys; the answer lists 4 bytes per key of the slices that differ.
//! 3. *Mend.* The asker sends the records that are not listed and asks for those that only the list has. The other one
//!    merges what it got, and answers with what the asker lacks: what was asked for, and records that became something
//!    else than what was sent. So a difference is mended in three round trips, and a record travels twice only where
//!    both sides had something to add.
//!
//! Buckets of which one side holds nothing need no sketch: their records are sent as they lie, page by page, many
//! buckets to a page. A replica that lost everything, or a new one, gets it all that way.
//!
//! Live writes change records meanwhile. Nothing here depends on their staying: a print that is gone is not sent, a
//! record that came is merged like any other. Whatever is not equal afterwards is found by the next session, and
//! each session ends after [`crate::limits::Limits::sync_steps_max`] questions.

#[cfg(test)]
mod tests;
mod work;

pub use work::{SLICE_KEYS, found};

use crate::digest::{Age, Range, Sums, root};
use crate::exchange::{Found, List, SyncAnswer, SyncAsk, SyncRefused, Work};
use crate::id::{Key, Place};
use crate::record::Record;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;

/// What a session wants next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Ask the other owner: then [`Session::answered`].
    Ask(SyncAsk),
    /// Read: then [`Session::found`].
    Work(Work),
    /// Merge these into our own records: then [`Session::absorbed`].
    Absorb(Vec<(Key, Record)>),
    /// Nothing more.
    Done(End),
}

/// How a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// There was no difference.
    Clean,
    /// Every difference that it saw was sent and taken.
    Mended,
    /// A partition that moves was compared, and some of it was not taken: by the other owner, or by our own disk.
    Partial,
    /// It took as many steps as it may: the next one goes on.
    Cut,
    /// The other owner settles siblings with other code: an operator must look.
    PluginDrift,
    /// The other owner can't now.
    Refused(SyncRefused),
    /// Our own store can't read, or our sums can't be told apart: see [`SyncRefused::Unready`].
    Unready,
    /// An answer made no sense.
    Nonsense,
}

/// What a session did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Questions: round trips.
    pub steps: u32,
    /// Bytes both ways, about.
    pub bytes: u64,
    /// Records sent.
    pub sent: u64,
    /// Records received.
    pub received: u64,
    /// Buckets that differed.
    pub buckets: u32,
}

/// One comparison with another owner, as the asker sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    range: Range,
    code: u64,
    nonce: u64,
    steps_max: u32,
    /// What lies here, while the root is compared.
    mine: Sums,
    /// Buckets that differ and that both of us have something in.
    plan: VecDeque<u16>,
    /// Buckets that only one of us has something in, and the key after which the first one goes on.
    bulk: Bulk,
    /// The buckets of this page of the plan.
    page: Vec<u16>,
    tally: Tally,
    /// Nothing is taken from the other owner, only given.
    gives: bool,
    /// Versions that one of us did not take.
    missed: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Push,
    Pull,
}

/// See [`Session::bulk`]. What is pushed goes first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Bulk {
    /// In order.
    push: VecDeque<u16>,
    /// In order.
    pull: VecDeque<u16>,
    after: Bytes,
}

impl Bulk {
    /// The buckets of the next page.
    fn page(&self) -> Option<(Way, Vec<u16>)> {
        let (way, queue) = if self.push.is_empty() { (Way::Pull, &self.pull) } else { (Way::Push, &self.push) };
        let buckets: Vec<u16> = queue.iter().take(PAGE_BUCKETS).copied().collect();
        (!buckets.is_empty()).then_some((way, buckets))
    }

    /// The page was that of `way`. It goes on after `next`, or is done.
    fn turn(&mut self, way: Way, more: bool, next: Bytes) {
        let queue = if way == Way::Push { &mut self.push } else { &mut self.pull };
        let page = queue.len().min(PAGE_BUCKETS);
        let at = Place::of_engine_key(&next).filter(|_| more && next > self.after);
        let done = at.map_or(page, |at| queue.iter().take(page).take_while(|bucket| **bucket < at.bucket).count());
        queue.drain(..done);
        self.after = if done < page { next } else { Bytes::new() };
    }
}

/// Buckets that one page tries, of sketches or of records: as many as fit in it.
const PAGE_BUCKETS: usize = 64;

impl Session {
    /// A comparison of `range`. `code` is the hash of the resolvers of its keyspaces, `nonce` a random number.
    #[must_use]
    pub fn new(range: Range, code: u64, nonce: u64, steps_max: u32) -> (Self, Turn) {
        let session = Self {
            range,
            code,
            nonce,
            steps_max,
            mine: Vec::new(),
            plan: VecDeque::new(),
            bulk: Bulk::default(),
            page: Vec::new(),
            tally: Tally::default(),
            gives: false,
            missed: 0,
        };
        (session, Turn::Work(Work::Sums(range)))
    }

    /// The same of somebody who owns nothing of it any more: it hands over what it has, and takes nothing.
    #[must_use]
    pub fn giving(self) -> Self {
        Self { gives: true, ..self }
    }

    /// What it compares.
    #[must_use]
    pub fn range(&self) -> Range {
        self.range
    }

    /// What it did so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn ask(&mut self, ask: SyncAsk) -> Turn {
        self.tally.steps += 1;
        self.tally.bytes += ask.bytes() as u64;
        Turn::Ask(ask)
    }

    fn next(&mut self) -> Turn {
        let Self { range, nonce, .. } = *self;
        let bulk = self.bulk.page();
        if self.plan.is_empty() && bulk.is_none() {
            let partial = self.missed > 0 && range.age == Age::Any;
            return Turn::Done(if partial { End::Partial } else { End::Mended });
        }
        // A page of the plan is two questions.
        if self.tally.steps + 2 > self.steps_max {
            return Turn::Done(End::Cut);
        }
        if !self.plan.is_empty() {
            let buckets: Vec<u16> = self.plan.drain(..self.plan.len().min(PAGE_BUCKETS)).collect();
            self.page.clone_from(&buckets);
            return Turn::Work(Work::Sketch { range, nonce, buckets });
        }
        let after = self.bulk.after.clone();
        match bulk {
            Some((Way::Push, buckets)) => Turn::Work(Work::Page { range, buckets, after, whole: false }),
            Some((Way::Pull, buckets)) => self.ask(SyncAsk::Pull { range, buckets, after }),
            None => Turn::Done(End::Mended),
        }
    }

    /// [`Turn::Work`] is done.
    pub fn found(&mut self, found: Found) -> Turn {
        let Self { range, nonce, code, .. } = *self;
        match found {
            Found::Sums(Some(sums)) => {
                let root = root(&sums);
                self.mine = sums;
                self.ask(SyncAsk::Root { range, code, root })
            }
            Found::Sketches(sketches) => {
                // What did not fit comes first on the next page.
                for bucket in self.page.iter().skip(sketches.len().max(1)).rev() {
                    self.plan.push_front(*bucket);
                }
                self.ask(SyncAsk::Sketches { range, nonce, sketches })
            }
            Found::Differences { records, mut wants, more } => {
                if self.gives {
                    wants.clear();
                }
                if more {
                    // What is mended by then does not differ any more.
                    self.plan.extend(&self.page);
                }
                if records.is_empty() && wants.is_empty() {
                    return self.next();
                }
                self.tally.sent += records.len() as u64;
                self.ask(SyncAsk::Mend { range, nonce, records, wants })
            }
            Found::Records { records, more, next } => {
                self.bulk.turn(Way::Push, more, next);
                if records.is_empty() {
                    return self.next();
                }
                self.page.clear();
                self.tally.sent += records.len() as u64;
                self.ask(SyncAsk::Mend { range, nonce, records, wants: Vec::new() })
            }
            Found::Sums(None) | Found::Failed => Turn::Done(End::Unready),
            Found::Lists { .. } => Turn::Done(End::Nonsense),
        }
    }

    /// The other owner answered the last question, `asked`.
    pub fn answered(&mut self, asked: &SyncAsk, answer: SyncAnswer) -> Turn {
        self.tally.bytes += answer.bytes() as u64;
        match (asked, answer) {
            (_, SyncAnswer::Refused(refused)) => Turn::Done(End::Refused(refused)),
            (SyncAsk::Root { .. }, SyncAnswer::Same) => Turn::Done(End::Clean),
            (SyncAsk::Root { .. }, SyncAnswer::Drift) => Turn::Done(End::PluginDrift),
            (SyncAsk::Root { .. }, SyncAnswer::Sums(theirs)) if theirs.len() == self.mine.len() => {
                self.plan_for(&theirs);
                self.next()
            }
            (SyncAsk::Sketches { range, nonce, sketches }, SyncAnswer::Lists { lists, covered }) => {
                let covered = (covered as usize).clamp(1, sketches.len().max(1));
                for sketch in sketches.iter().skip(covered).rev() {
                    self.plan.push_front(sketch.bucket);
                }
                self.plan.extend(lists.iter().filter(|list| list.more).map(|list| list.bucket));
                self.page = lists.iter().map(|list| list.bucket).collect();
                let known = |list: &List| sketches.iter().any(|s| s.bucket == list.bucket && s.bits == list.bits);
                if !lists.iter().all(known) {
                    return Turn::Done(End::Nonsense);
                }
                if lists.is_empty() {
                    return self.next();
                }
                Turn::Work(Work::Differ { range: *range, nonce: *nonce, lists })
            }
            (SyncAsk::Mend { .. }, SyncAnswer::Records { records, more, refused, .. }) => {
                self.missed += refused as usize;
                if more {
                    self.plan.extend(&self.page);
                }
                self.take(records)
            }
            (SyncAsk::Pull { .. }, SyncAnswer::Records { records, more, next, .. }) => {
                self.bulk.turn(Way::Pull, more, next);
                self.take(records)
            }
            _ => Turn::Done(End::Nonsense),
        }
    }

    fn plan_for(&mut self, theirs: &[u64]) {
        for (bucket, (mine, theirs)) in (0..).zip(self.mine.iter().zip(theirs)) {
            match (*mine as u64, *theirs) {
                (mine, theirs) if mine == theirs => continue,
                (0, _) if self.gives => continue,
                (0, _) => self.bulk.pull.push_back(bucket),
                (_, 0) => self.bulk.push.push_back(bucket),
                _ => self.plan.push_back(bucket),
            }
            self.tally.buckets += 1;
        }
        self.mine = Vec::new();
    }

    fn take(&mut self, records: Vec<(Key, Record)>) -> Turn {
        if records.is_empty() || self.gives {
            return self.next();
        }
        self.tally.received += records.len() as u64;
        Turn::Absorb(records)
    }

    /// [`Turn::Absorb`] is done, but for so many versions: what failed is found by the next session.
    pub fn absorbed(&mut self, missed: usize) -> Turn {
        self.missed += missed;
        self.next()
    }
}
