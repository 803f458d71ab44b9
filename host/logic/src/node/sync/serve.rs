//! What a node answers an owner that compares with it. It keeps nothing between two questions.

use super::Node;
use crate::digest::root;
use crate::exchange::{Found, SyncAnswer, SyncAsk, SyncRefused, Work};
use crate::id::{Key, NodeId};
use crate::message::{Message, Tag};
use crate::node::Step;
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
}

impl Served {
    pub(super) fn peer(&self) -> NodeId {
        self.peer
    }
}

impl Node {
    /// Another owner compares with us.
    pub(in crate::node) fn sync_asked(&mut self, step: &mut Step<'_>, peer: NodeId, tag: Tag, ask: SyncAsk) {
        if let Some(answer) = self.answer_at_once(peer, &ask) {
            self.send(step, peer, Message::Synced { tag, answer });
            return;
        }
        let served = |root| Served { peer, tag, root, left: 0, then: None };
        let own = self.tag();
        let (root, work) = match ask {
            SyncAsk::Root { range, root, .. } => (root, Work::Sums(range)),
            SyncAsk::Sketches { range, nonce, sketches } => (0, Work::List { range, nonce, sketches }),
            SyncAsk::Pull { range, bucket, after } => (0, Work::Page { range, bucket, after }),
            SyncAsk::Mend { range, nonce, records, wants } => {
                let sent: Vec<(Key, u64)> = records.iter().map(|(key, r)| (key.clone(), r.digest())).collect();
                let fetch = Work::Fetch { range, nonce, sent, wants };
                self.sync.served.insert(own, served(0));
                let left = self.sync_absorb(step, own, range, records);
                if left > 0 {
                    self.sync.served.insert(own, Served { left, then: Some(fetch), ..served(0) });
                    return;
                }
                (0, fetch)
            }
        };
        self.sync.served.insert(own, served(root));
        self.compare(step, own, work);
    }

    /// The answer, where nothing must be looked up for it.
    fn answer_at_once(&self, peer: NodeId, ask: &SyncAsk) -> Option<SyncAnswer> {
        let range = ask.range();
        if range.epoch != self.state.epoch {
            return Some(SyncAnswer::Refused(SyncRefused::OtherEpoch(self.state.epoch)));
        }
        if self.copies_shared_with(range.partition, peer) != Some(range.copies_min) {
            return Some(SyncAnswer::Refused(SyncRefused::NotOwner));
        }
        if self.sync.served.len() >= self.limits.sync_served_max || self.jobs.len() >= self.limits.disk_jobs_max {
            return Some(SyncAnswer::Refused(SyncRefused::Busy));
        }
        match ask {
            SyncAsk::Root { code, .. } if *code != self.code(range.copies_min) => Some(SyncAnswer::Drift),
            _ => None,
        }
    }

    pub(super) fn serve_written(&mut self, step: &mut Step<'_>, own: Tag) {
        let Some(served) = self.sync.served.get_mut(&own) else { return };
        served.left = served.left.saturating_sub(1);
        if served.left == 0
            && let Some(work) = served.then.take()
        {
            self.compare(step, own, work);
        }
    }

    pub(super) fn serve_found(&mut self, step: &mut Step<'_>, own: Tag, found: Found) {
        let Some(Served { peer, tag, root: theirs, .. }) = self.sync.served.remove(&own) else { return };
        let answer = match found {
            Found::Sums(None) => SyncAnswer::Refused(SyncRefused::Unready),
            Found::Sums(Some(sums)) if root(&sums) == theirs => SyncAnswer::Same,
            Found::Sums(Some(sums)) => SyncAnswer::Sums(sums.into_iter().map(|sum| sum as u64).collect()),
            Found::Lists { lists, covered } => SyncAnswer::Lists { lists, covered },
            Found::Records { records, more, next } => SyncAnswer::Records { records, more, next },
            Found::Sketches(_) | Found::Differences { .. } | Found::Failed => SyncAnswer::Refused(SyncRefused::Store),
        };
        self.send(step, peer, Message::Synced { tag, answer });
    }
}
