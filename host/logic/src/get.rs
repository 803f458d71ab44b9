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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{LWW, Rules, formed, key, version};
    use crate::time::Hlc;

    const ME: NodeId = NodeId(1);
    const N2: NodeId = NodeId(2);
    const N3: NodeId = NodeId(3);

    fn op(needed: u8) -> ReadOp {
        let resolver = formed(1, (1, 1, 1)).keyspaces[&LWW].resolver_hash;
        ReadOp::new(key("k"), [ME, N2, N3], needed, resolver)
    }

    fn record(written: u64) -> Record {
        Record::of(version(written, 1, Hlc(written), Some("v")))
    }

    fn hear(op: &mut ReadOp, node: NodeId, outcome: ReadOutcome) -> Next {
        op.answered(node, outcome, &Rules::Work, 0)
    }

    fn holds(op: &mut ReadOp, node: NodeId, written: u64) -> Next {
        hear(op, node, ReadOutcome::Record(record(written)))
    }

    fn digest(op: &mut ReadOp, node: NodeId, written: u64) -> Next {
        hear(op, node, ReadOutcome::Digest(record(written).digest()))
    }

    fn refuses(op: &mut ReadOp, node: NodeId) -> Next {
        hear(op, node, ReadOutcome::Refused(Refused::Busy))
    }

    /// The stamp that the reader gets.
    fn sees(next: Next) -> u64 {
        match next {
            Next::Done(Ok(Answer::Found { versions })) => versions[0].written.0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_record_and_digests_that_equal_it_are_a_quorum() {
        let mut op = op(2);
        let asked: Vec<_> = op.unanswered().collect();
        assert_eq!(asked, [(ME, Want::Record), (N2, Want::Digest), (N3, Want::Digest)]);
        assert_eq!(digest(&mut op, N2, 5), Next::Wait, "a digest alone shows nothing to a reader");
        assert_eq!(sees(holds(&mut op, ME, 5)), 5);
    }

    #[test]
    fn with_r_1_others_are_asked_only_when_the_first_can_not() {
        let mut op = op(1);
        assert_eq!(op.unanswered().collect::<Vec<_>>(), [(ME, Want::Record)]);
        assert_eq!(refuses(&mut op, ME), Next::Ask(vec![N2, N3]));
        assert_eq!(sees(holds(&mut op, N3, 5)), 5);
    }

    #[test]
    fn a_digest_that_differs_is_looked_at_and_the_later_version_wins() {
        let mut op = op(2);
        assert_eq!(holds(&mut op, ME, 5), Next::Wait);
        assert_eq!(digest(&mut op, N2, 6), Next::Ask(vec![N2]));
        assert_eq!(op.unanswered().collect::<Vec<_>>(), [(N2, Want::Record), (N3, Want::Digest)]);
        assert_eq!(digest(&mut op, N2, 6), Next::Wait, "asked already");
        assert_eq!(sees(holds(&mut op, N2, 6)), 6);
    }

    #[test]
    fn owners_that_agree_with_what_is_held_need_not_be_waited_for() {
        let mut op = op(2);
        holds(&mut op, ME, 5);
        digest(&mut op, N2, 6);
        assert_eq!(sees(digest(&mut op, N3, 5)), 5, "two of three agree, whatever the third has");
    }

    #[test]
    fn without_the_first_owner_the_others_make_the_quorum() {
        let mut op = op(2);
        digest(&mut op, N2, 6);
        assert_eq!(op.lost(ME, &Rules::Work, 0), Next::Ask(vec![ME, N2, N3]));
        assert_eq!(holds(&mut op, N2, 6), Next::Wait);
        assert_eq!(sees(digest(&mut op, N3, 6)), 6);
    }

    #[test]
    fn a_quorum_that_refused_is_lost_with_its_reason() {
        let mut op = op(2);
        assert_eq!(refuses(&mut op, N2), Next::Wait);
        let Next::Done(Err(error)) = refuses(&mut op, N3) else { panic!("one of three can't make two") };
        let expected = OpError::QuorumLost { write: false, acks: 0, needed: 2, owners: 3, refused: "it is busy".into() };
        assert_eq!(error, expected);
    }

    #[test]
    fn who_refused_may_still_answer() {
        let mut op = op(3);
        holds(&mut op, ME, 5);
        digest(&mut op, N2, 5);
        assert!(matches!(refuses(&mut op, N3), Next::Done(Err(_))));
        assert_eq!(sees(digest(&mut op, N3, 5)), 5);
    }

    #[test]
    fn strangers_count_for_nothing() {
        let mut op = op(1);
        assert_eq!(holds(&mut op, NodeId(9), 5), Next::Wait);
    }

    #[test]
    fn expired_and_deleted_versions_are_not_shown() {
        let mut op = op(1);
        let mut expiring = version(1, 1, Hlc(5), Some("v"));
        expiring.expires_ms = 1_000;
        let outcome = || ReadOutcome::Record(Record::of(expiring.clone()));
        let shown = |op: &mut ReadOp, wall_ms| match op.answered(ME, outcome(), &Rules::Work, wall_ms) {
            Next::Done(Ok(Answer::Found { versions })) => versions.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!((shown(&mut op, 999), shown(&mut op, 1_000)), (1, 0));
        let deleted = Record::of(version(1, 2, Hlc(6), None));
        let next = hear(&mut op, ME, ReadOutcome::Record(deleted));
        assert_eq!(next, Next::Done(Ok(Answer::Found { versions: Vec::new() })));
    }
}
