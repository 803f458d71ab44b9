//! What a node answers an owner that compares with it. It keeps nothing between two questions.

use super::Node;
use crate::digest::{Age, root};
use crate::event::{Effect, MoveJob, MoveOutcome, MoveWork};
use crate::exchange::{Found, SyncAnswer, SyncAsk, SyncRefused, Work};
use crate::id::{Epoch, Key, NodeId};
use crate::message::{Message, Tag, WriteOutcome};
use crate::node::{JobFor, Step};
use crate::port::Resolve;
use alloc::vec::Vec;

/// A question that the disk works on.
#[derive(Debug)]
pub(super) struct Served {
    peer: NodeId,
    /// From the question.
    tag: Tag,
    root: u128,
    /// Writes that are not done yet, and what is read after them.
    left: usize,
    then: Option<Work>,
    /// A partition moves: what is told is as durable as what the asker had to say before.
    moves: bool,
    /// Versions that were not taken.
    refused: u32,
    /// Waits for what it tells to be durable.
    answer: Option<SyncAnswer>,
}

impl Served {
    pub(super) fn peer(&self) -> NodeId {
        self.peer
    }
}

impl Node {
    /// Another owner compares with us.
    pub(in crate::node) fn sync_asked(&mut self, step: &mut Step<'_>, peer: NodeId, tag: Tag, ask: SyncAsk) {
        if let Some(answer) = self.answer_at_once(step.resolve, peer, &ask) {
            self.send(step, peer, Message::Synced { tag, answer });
            return;
        }
        let moves = ask.range().age == Age::Any && ask.range().closed == Epoch(0);
        let served = |root| Served { peer, tag, root, left: 0, then: None, moves, refused: 0, answer: None };
        let own = self.tag();
        let (root, work) = match ask {
            SyncAsk::Root { range, root, .. } => (root, Work::Sums(range)),
            SyncAsk::Sketches { range, nonce, sketches } => (0, Work::List { range, nonce, sketches }),
            SyncAsk::Pull { range, buckets, after } => {
                let whole = range.age == Age::Any;
                (0, Work::Page { range, buckets, after, whole })
            }
            SyncAsk::Mend { range, nonce, records, wants } => {
                let sent: Vec<(Key, u64)> = records.iter().map(|(key, r)| (key.clone(), r.digest())).collect();
                let fetch = Work::Fetch { range, nonce, sent, wants };
                self.sync.served.insert(own, served(0));
                let (left, refused) = self.sync_absorb(step, own, range, records);
                let refused = refused as u32;
                if left > 0 {
                    self.sync.served.insert(own, Served { left, then: Some(fetch), refused, ..served(0) });
                    return;
                }
                self.sync.served.insert(own, Served { refused, ..served(0) });
                (0, fetch)
            }
        };
        self.sync.served.entry(own).or_insert(served(root));
        self.compare(step, own, work);
    }

    /// The answer, where nothing must be looked up for it.
    fn answer_at_once(&self, resolve: &dyn Resolve, peer: NodeId, ask: &SyncAsk) -> Option<SyncAnswer> {
        let range = ask.range();
        if range.epoch != self.state.epoch {
            return Some(SyncAnswer::Refused(SyncRefused::OtherEpoch(self.state.epoch)));
        }
        let shared = self.copies_shared_with(range.partition, peer);
        // Whoever owns it no more may hand over what it holds, to those who hold all of that.
        let hands_over = || {
            let mine = self.state.copies_at(self.me, range.partition);
            range.age == Age::Any && mine.is_some_and(|mine| mine <= range.copies_min)
        };
        if shared != Some(range.copies_min) && !hands_over() {
            return Some(SyncAnswer::Refused(SyncRefused::NotOwner));
        }
        // Whoever has purged less would give back what is gone here, or get it.
        let is_even = shared != Some(range.copies_min) || self.comparable(range.partition) == Some(range.purged);
        if !is_even || !self.has_closed(range.closed) {
            return Some(SyncAnswer::Refused(SyncRefused::Busy));
        }
        let doubts = self.scrub.doubts(range.partition, self.state.partition_bits);
        if range.age == Age::Any && (doubts || !self.is_drained()) {
            return Some(SyncAnswer::Refused(SyncRefused::Busy));
        }
        if self.sync.served.len() >= self.limits.sync_served_max || self.jobs.len() >= self.limits.disk_jobs_max {
            return Some(SyncAnswer::Refused(SyncRefused::Busy));
        }
        match ask {
            SyncAsk::Root { code, .. } if *code != self.code(resolve, range.copies_min) => Some(SyncAnswer::Drift),
            _ => None,
        }
    }

    pub(super) fn serve_written(&mut self, step: &mut Step<'_>, own: Tag, outcome: &WriteOutcome) {
        let Some(served) = self.sync.served.get_mut(&own) else { return };
        served.refused += u32::from(!outcome.is_held());
        served.left = served.left.saturating_sub(1);
        if served.left == 0
            && let Some(work) = served.then.take()
        {
            self.compare(step, own, work);
        }
    }

    pub(super) fn serve_found(&mut self, step: &mut Step<'_>, own: Tag, found: Found) {
        let Some(served) = self.sync.served.remove(&own) else { return };
        let Served { peer, tag, root: theirs, refused, .. } = served;
        let answer = match found {
            Found::Sums(None) => SyncAnswer::Refused(SyncRefused::Unready),
            Found::Sums(Some(sums)) if root(&sums) == theirs => SyncAnswer::Same,
            Found::Sums(Some(sums)) => SyncAnswer::Sums(sums.into_iter().map(|sum| sum as u64).collect()),
            Found::Lists { lists, covered } => SyncAnswer::Lists { lists, covered },
            Found::Records { records, more, next } => SyncAnswer::Records { records, more, next, refused },
            Found::Sketches(_) | Found::Differences { .. } | Found::Failed => SyncAnswer::Refused(SyncRefused::Store),
        };
        if served.moves {
            // The asker may remove what we hold as well, or count on it: a power cut must not take it from here.
            self.sync.served.insert(own, Served { answer: Some(answer), ..served });
            let job = self.job(JobFor::Sync(own));
            step.out.push(Effect::Move(MoveJob { job, work: MoveWork::Flush }));
        } else {
            self.send(step, peer, Message::Synced { tag, answer });
        }
    }

    /// What is told is durable.
    pub(in crate::node) fn serve_flushed(&mut self, step: &mut Step<'_>, own: Tag, outcome: &MoveOutcome) {
        let Some(Served { peer, tag, answer: Some(answer), .. }) = self.sync.served.remove(&own) else { return };
        let failed = *outcome != MoveOutcome::Flushed;
        let answer = if failed { SyncAnswer::Refused(SyncRefused::Store) } else { answer };
        self.send(step, peer, Message::Synced { tag, answer });
    }
}
