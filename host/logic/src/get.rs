//! One read as its coordinator sees it: a record from one owner, digests from the others, and whatever it takes to
//! make R of them agree.

use crate::id::{Key, NodeId};
use crate::message::{ReadOutcome, Refused, Want};
use crate::port::{Resolve, ResolverHash};
use crate::put::reasons;
use crate::quorum::{Tally, Verdict};
use crate::record::Record;
use crate::replica;
use crate::request::{Answer, OpError, Reply};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// What one owner said so far.
#[derive(Clone, Debug)]
enum Heard {
    Nothing,
    Digest(u64),
    Record(u64, Record),
    Refused,
}

/// A read under way.
#[derive(Clone, Debug)]
pub struct ReadOp {
    /// Which record.
    pub key: Key,
    resolver: ResolverHash,
    needed: u8,
    owners: Vec<Owner>,
    refusals: BTreeSet<Refused>,
}

#[derive(Clone, Debug)]
struct Owner {
    node: NodeId,
    heard: Heard,
    /// Asked for the whole record, not heard yet.
    record_asked: bool,
}

/// What an answer leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Wait for more answers.
    Wait,
    /// Ask these owners for their whole records.
    Ask(Vec<NodeId>),
    /// It is over.
    Done(Reply),
}

impl ReadOp {
    /// A read of `key` that needs `needed` of `owners`; the first one is asked for the record.
    #[must_use]
    pub fn new(key: Key, owners: impl IntoIterator<Item = NodeId>, needed: u8, resolver: ResolverHash) -> Self {
        let owner = |(i, node)| Owner { node, heard: Heard::Nothing, record_asked: i == 0 };
        let owners = owners.into_iter().enumerate().map(owner).collect();
        Self { key, resolver, needed, owners, refusals: BTreeSet::new() }
    }

    /// Whom to ask, and for what: everybody who has not answered. With R = 1 only the first owner, at first.
    pub fn unanswered(&self) -> impl Iterator<Item = (NodeId, Want)> + '_ {
        let want = |o: &Owner| if o.record_asked { Want::Record } else { Want::Digest };
        let open = |o: &&Owner| match o.heard {
            Heard::Nothing => self.needed > 1 || o.record_asked,
            Heard::Digest(_) => o.record_asked,
            Heard::Record(..) | Heard::Refused => false,
        };
        self.owners.iter().filter(open).map(move |o| (o.node, want(o)))
    }

    /// Takes in one owner's answer.
    pub fn answered(&mut self, node: NodeId, outcome: ReadOutcome, resolve: &dyn Resolve, wall_ms: u64) -> Next {
        let Some(owner) = self.owners.iter_mut().find(|o| o.node == node) else { return Next::Wait };
        match outcome {
            ReadOutcome::Record(record) => {
                owner.heard = Heard::Record(record.digest(), record);
                owner.record_asked = false;
            }
            ReadOutcome::Digest(digest) if matches!(owner.heard, Heard::Nothing | Heard::Refused) => {
                owner.heard = Heard::Digest(digest);
            }
            ReadOutcome::Digest(_) => {}
            ReadOutcome::Refused(refused) => {
                owner.heard = Heard::Refused;
                owner.record_asked = false;
                self.refusals.insert(refused);
            }
        }
        self.next(resolve, wall_ms)
    }

    /// An owner whose answer will not come: its link broke.
    pub fn lost(&mut self, node: NodeId, resolve: &dyn Resolve, wall_ms: u64) -> Next {
        match self.owners.iter_mut().find(|o| o.node == node) {
            Some(owner) if owner.record_asked => {
                owner.record_asked = false;
                self.next(resolve, wall_ms)
            }
            _ => Next::Wait,
        }
    }

    /// Owners whose record we hold, or whose digest equals a record that we hold, count.
    fn tally(&self) -> Tally {
        let mut tally = Tally::new(self.owners.len(), self.needed);
        for (i, owner) in self.owners.iter().enumerate() {
            match &owner.heard {
                Heard::Record(..) => tally.ack(i),
                Heard::Digest(digest) if self.holds(*digest) => tally.ack(i),
                Heard::Refused => tally.refuse(i),
                Heard::Nothing | Heard::Digest(_) => {}
            }
        }
        tally
    }

    fn holds(&self, digest: u64) -> bool {
        self.owners.iter().any(|o| matches!(o.heard, Heard::Record(d, _) if d == digest))
    }

    fn next(&mut self, resolve: &dyn Resolve, wall_ms: u64) -> Next {
        let tally = self.tally();
        match tally.verdict() {
            Verdict::Won => Next::Done(Ok(self.answer(resolve, wall_ms))),
            Verdict::Lost => Next::Done(Err(OpError::QuorumLost {
                write: false,
                acks: tally.acks(),
                needed: tally.needed(),
                owners: tally.owners(),
                refused: reasons(&self.refusals),
            })),
            Verdict::Pending => self.ask(),
        }
    }

    /// Digests that match nothing we hold have to be looked at; one record at least must be on its way.
    fn ask(&mut self) -> Next {
        let waiting = self.owners.iter().any(|o| o.record_asked);
        let holding = self.owners.iter().any(|o| matches!(o.heard, Heard::Record(..)));
        if waiting && !holding {
            return Next::Wait;
        }
        let mut asked = Vec::new();
        for i in 0..self.owners.len() {
            let digest = match self.owners[i].heard {
                Heard::Digest(digest) => digest,
                // With nothing held and nothing on its way, anybody silent is asked as well.
                Heard::Nothing if !holding => 0,
                _ => continue,
            };
            if !self.owners[i].record_asked && !(holding && self.holds(digest)) {
                self.owners[i].record_asked = true;
                asked.push(self.owners[i].node);
            }
        }
        if asked.is_empty() { Next::Wait } else { Next::Ask(asked) }
    }

    fn answer(&self, resolve: &dyn Resolve, wall_ms: u64) -> Answer {
        let mut records = self.owners.iter().filter_map(|o| match &o.heard {
            Heard::Record(_, record) => Some(record),
            _ => None,
        });
        let (first, rest) = (records.next(), records);
        let merged = replica::merge(resolve, self.resolver, first.into_iter().chain(rest).cloned());
        let versions = merged.into_versions().into_iter().filter(|v| !v.is_absent(wall_ms)).collect();
        Answer::Found { versions }
    }

    /// The error at the deadline.
    #[must_use]
    pub fn timed_out(&self) -> OpError {
        let heard = |o: &&Owner| matches!(o.heard, Heard::Digest(_) | Heard::Record(..));
        OpError::Timeout {
            write: false,
            acks: self.owners.iter().filter(heard).count() as u8,
            needed: self.needed,
            owners: self.owners.len() as u8,
        }
    }
}
