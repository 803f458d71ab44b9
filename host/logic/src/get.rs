//! One read as its coordinator sees it: a record from one owner, digests from R - 1 others, and whatever it takes to
//! make R of them agree. More owners are asked when one refuses, its link breaks, or the answers are late (a hedge).
//!
//! After the reply the differences that it met are mended: owners that hold something else than the merged record get
//! what they lack (DDIA chapter 5, read repair).

use crate::context::Context;
use crate::id::{Key, NodeId};
use crate::message::{ReadOutcome, Refused, Want};
use crate::port::{Policy, Resolve};
use crate::put::reasons;
use crate::quorum::{Spread, Tally, Verdict};
use crate::record::Record;
use crate::replica;
use crate::request::{Answer, OpError, Reply};
use crate::time::MonoUs;
use crate::version::Version;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use bytes::Bytes;

/// The digest of the empty record.
const ABSENT: u64 = 0;

/// What one owner said so far.
#[derive(Clone, Debug)]
enum Heard {
    Nothing,
    Digest(u64),
    Record(u64, Record),
    Refused,
}

#[derive(Clone, Debug)]
struct Owner {
    node: NodeId,
    heard: Heard,
    /// The last question; `None`: not asked.
    asked: Option<Want>,
    /// Its link broke while the answer was under way.
    lost: bool,
    /// The merged record that it was sent what it lacks of, by digest.
    mended: Option<u64>,
}

impl Owner {
    /// The digest of what this owner holds, as far as it told. Nothing while a record that it shall still show is on
    /// its way: that will tell more.
    fn told(&self) -> Option<u64> {
        match self.heard {
            Heard::Record(digest, _) => Some(digest),
            Heard::Digest(digest) => (self.lost || !self.owes(Want::Record)).then_some(digest),
            Heard::Nothing | Heard::Refused => None,
        }
    }

    /// What this owner lacks of a merged record, and the past that goes with it. If that is nothing it holds more than
    /// the merge left: then all of it, so that its own resolver is asked once more.
    ///
    /// Each version travels by itself, and one of them may get lost: with the past of all of them, the others would
    /// take away what the lost one had taken the place of, and the owner would have neither. So the past goes with the
    /// last one that is missing, to be found by a later read.
    fn lacks(&self, merged: &Record) -> (Vec<Version>, Context) {
        let all = merged.versions();
        let is_missing = |v: &&Version| !matches!(&self.heard, Heard::Record(_, record) if record.holds(v));
        let missing: Vec<Version> = all.iter().filter(is_missing).cloned().collect();
        let past = if missing.len() > 1 { Context::default() } else { merged.past().clone() };
        (if missing.is_empty() { all.to_vec() } else { missing }, past)
    }

    /// The digest of the record that we hold of this owner.
    fn held(&self) -> Option<u64> {
        match self.heard {
            Heard::Record(digest, _) => Some(digest),
            Heard::Nothing | Heard::Digest(_) | Heard::Refused => None,
        }
    }

    fn owes(&self, want: Want) -> bool {
        let open = match self.heard {
            Heard::Nothing => true,
            Heard::Digest(_) => want == Want::Record,
            Heard::Record(..) | Heard::Refused => false,
        };
        open && self.asked == Some(want)
    }
}

/// A read under way.
#[derive(Clone, Debug)]
pub struct ReadOp {
    /// Which record.
    pub key: Key,
    policy: Policy,
    needed: u8,
    owners: Vec<Owner>,
    refusals: BTreeSet<Refused>,
    spread: Spread,
    began_us: MonoUs,
    tells_deletes: bool,
    quorum: Option<u8>,
}

/// What one owner lacks, found by a read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repair {
    /// Who.
    pub owner: NodeId,
    /// True when it holds nothing of the key.
    pub absent: bool,
    /// To be merged into its record as they are: nothing of them is new.
    pub versions: Vec<Version>,
    /// Dots that those supersede.
    pub past: Context,
}

/// What an answer leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Wait for more answers.
    Wait,
    /// Ask these owners.
    Ask(Vec<(NodeId, Want)>),
    /// It is over.
    Done(Reply),
}

impl ReadOp {
    /// A read of `key` that needs `needed` of `owners`, the ones that will answer soonest first: the first is asked for
    /// its record, the next for their digests, and no more than are needed.
    #[must_use]
    pub fn new(key: Key, owners: impl IntoIterator<Item = NodeId>, needed: u8, policy: Policy) -> Self {
        let want = |i| match i {
            0 => Some(Want::Record),
            i if i < usize::from(needed) => Some(Want::Digest),
            _ => None,
        };
        let owner = |(i, node)| Owner { node, heard: Heard::Nothing, asked: want(i), lost: false, mended: None };
        let owners = owners.into_iter().enumerate().map(owner).collect();
        let (refusals, spread) = (BTreeSet::new(), Spread::default());
        Self { key, policy, needed, owners, refusals, spread, began_us: 0, tells_deletes: false, quorum: None }
    }

    /// The same, answered by owners that lie so far apart.
    #[must_use]
    pub fn spread(self, spread: Spread) -> Self {
        let mut op = Self { spread, ..self };
        if spread.zones_min > 1 {
            // Those in zones of their own first; they are asked for their digests when the first owner has answered.
            while let Some(i) = op.lacking() {
                op.owners[i].asked = Some(Want::Digest);
            }
        }
        op
    }

    /// The same, begun at that moment.
    #[must_use]
    pub fn began(self, began_us: MonoUs) -> Self {
        Self { began_us, ..self }
    }

    /// The same for somebody who wants to hear of deletes as well, among the versions of a good answer, if `tells`.
    #[must_use]
    pub fn telling_deletes(self, tells: bool) -> Self {
        Self { tells_deletes: tells, ..self }
    }

    /// Whether deletes are among the versions of a good answer.
    #[must_use]
    pub fn tells_deletes(&self) -> bool {
        self.tells_deletes
    }

    /// The same for a client that has said how many owners must answer, if it has.
    #[must_use]
    pub fn asked(self, quorum: Option<u8>) -> Self {
        Self { quorum, ..self }
    }

    /// Owners that must answer, if the client has said it, and the distinct zones that they must lie in.
    #[must_use]
    pub fn wants(&self) -> (Option<u8>, u8) {
        (self.quorum, self.spread.zones_min)
    }

    /// Whether these are the owners that it asks, in any order.
    #[must_use]
    pub fn is_for(&self, owners: &[NodeId]) -> bool {
        self.owners.len() == owners.len() && self.owners.iter().all(|owner| owners.contains(&owner.node))
    }

    /// When it began.
    #[must_use]
    pub fn began_us(&self) -> MonoUs {
        self.began_us
    }

    /// The owner to ask next, if those who were asked and may answer are too few, or too close together.
    fn lacking(&self) -> Option<usize> {
        let in_play = |o: &Owner| o.asked.is_some() && !o.lost && !matches!(o.heard, Heard::Refused);
        let seats = self.owners.iter().enumerate().fold(0, |seats, (i, o)| seats | u16::from(in_play(o)) << i);
        if self.tally().suffices(seats, &self.spread) {
            return None;
        }
        let zone = |i: usize| self.spread.zones[i];
        let known = |i: usize| (0..self.owners.len()).any(|j| seats & 1 << j != 0 && zone(j) == zone(i));
        let fresh = (0..self.owners.len()).filter(|i| self.owners[*i].asked.is_none());
        fresh.min_by_key(|i| self.spread.zones_min > 1 && known(*i))
    }

    /// Who owes an answer, and to which question.
    pub fn unanswered(&self) -> impl Iterator<Item = (NodeId, Want)> + '_ {
        self.owners.iter().filter_map(|o| o.asked.filter(|want| o.owes(*want)).map(|want| (o.node, want)))
    }

    /// Takes in one owner's answer.
    pub fn answered(&mut self, node: NodeId, outcome: ReadOutcome, resolve: &dyn Resolve, wall_ms: u64) -> Next {
        if self.hear(node, outcome) { self.next(resolve, wall_ms) } else { Next::Wait }
    }

    /// Takes in an answer that nobody waits for any more; [`Self::repairs`] says what it leads to.
    pub fn late(&mut self, node: NodeId, outcome: ReadOutcome) {
        self.hear(node, outcome);
    }

    /// False for a node that is no owner.
    fn hear(&mut self, node: NodeId, outcome: ReadOutcome) -> bool {
        let Some(owner) = self.owners.iter_mut().find(|o| o.node == node) else { return false };
        owner.lost = false;
        match outcome {
            ReadOutcome::Record(record) => owner.heard = Heard::Record(record.digest(), record),
            ReadOutcome::Digest(digest) if matches!(owner.heard, Heard::Nothing | Heard::Refused) => {
                owner.heard = Heard::Digest(digest);
            }
            ReadOutcome::Digest(_) => {}
            // Of a read that nobody waits for any more: the others are asked again in the owner's epoch.
            ReadOutcome::StaleEpoch { .. } => owner.heard = Heard::Refused,
            ReadOutcome::Refused(refused) => {
                owner.heard = Heard::Refused;
                self.refusals.insert(refused);
            }
        }
        true
    }

    /// The link to an owner broke: what it owes will not come, so somebody else is asked, if there is somebody.
    pub fn lost(&mut self, node: NodeId) -> Next {
        match self.owners.iter_mut().find(|o| o.node == node && o.asked.is_some_and(|want| o.owes(want))) {
            Some(owner) => {
                owner.lost = true;
                self.ask(false)
            }
            None => Next::Wait,
        }
    }

    /// The answers are late: everybody is asked.
    pub fn hedge(&mut self) -> Next {
        self.ask(true)
    }

    /// Owners whose record we hold, or whose digest equals a record that we hold, count.
    fn tally(&self) -> Tally {
        let mut tally = Tally::new(self.owners.len(), self.needed).spread(self.spread);
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
        self.owners.iter().any(|o| o.held() == Some(digest))
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
                hints: 0,
                refused: reasons(&self.refusals),
            })),
            Verdict::Pending => self.ask(false),
        }
    }

    /// Questions that the answers so far lead to; with `everybody` also to owners that nobody needs yet.
    fn ask(&mut self, everybody: bool) -> Next {
        let mut asks = Vec::new();
        let mut put = |owner: &mut Owner, want| {
            owner.asked = Some(want);
            asks.push((owner.node, want));
        };
        let held: Vec<u64> = self.owners.iter().filter_map(Owner::held).collect();
        if held.is_empty() {
            // One record at least must be on its way; where answers are late one more, for owners remember digests.
            if everybody || !self.owners.iter().any(|o| o.owes(Want::Record) && !o.lost) {
                let known = self.owners.iter().position(|o| matches!(o.heard, Heard::Digest(_)) && o.told().is_some());
                let fresh = || self.owners.iter().position(|o| o.asked.is_none());
                if let Some(i) = known.or_else(fresh) {
                    put(&mut self.owners[i], Want::Record);
                }
            }
        } else {
            // A digest that matches nothing we hold has to be looked at.
            let odd = |o: &&mut Owner| matches!(o.heard, Heard::Digest(d) if !held.contains(&d));
            self.owners
                .iter_mut()
                .filter(odd)
                .filter(|o| o.asked != Some(Want::Record))
                .for_each(|o| put(o, Want::Record));
        }
        if everybody {
            self.owners.iter_mut().filter(|o| o.asked.is_none()).for_each(|o| put(o, Want::Digest));
        }
        while let Some(i) = self.lacking() {
            let owner = &mut self.owners[i];
            owner.asked = Some(Want::Digest);
            asks.push((owner.node, Want::Digest));
        }
        if asks.is_empty() { Next::Wait } else { Next::Ask(asks) }
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        self.owners.iter().filter_map(|o| match &o.heard {
            Heard::Record(_, record) => Some(record),
            Heard::Nothing | Heard::Digest(_) | Heard::Refused => None,
        })
    }

    fn answer(&self, resolve: &dyn Resolve, wall_ms: u64) -> Answer {
        let merged = replica::merge(resolve, self.policy, self.records().cloned());
        let context = self.policy.causal.then(|| merged.context());
        let told = |v: &Version| if self.tells_deletes { !v.is_expired(wall_ms) } else { !v.is_absent(wall_ms) };
        let versions = merged.into_versions().into_iter().filter(told).collect();
        Answer::Found { versions, context }
    }

    /// Owners that hold something else than the merge of all records that were seen, each once per merged record.
    /// Tombstones and expired versions are mended like all others: whether they show is the business of readers.
    pub fn repairs(&mut self, resolve: &dyn Resolve) -> Vec<Repair> {
        let mut told = self.owners.iter().filter_map(Owner::told);
        let first = told.next();
        if told.all(|digest| Some(digest) == first) {
            return Vec::new();
        }
        let merged = replica::merge(resolve, self.policy, self.records().cloned());
        if merged.is_empty() {
            return Vec::new();
        }
        let digest = merged.digest();
        let differs = |o: &&mut Owner| o.mended != Some(digest) && o.told().is_some_and(|told| told != digest);
        let mend = |owner: &mut Owner| {
            owner.mended = Some(digest);
            let absent = owner.told() == Some(ABSENT);
            let (versions, past) = owner.lacks(&merged);
            Repair { owner: owner.node, absent, versions, past }
        };
        self.owners.iter_mut().filter(differs).map(mend).collect()
    }

    /// Bytes of the values that it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records().flat_map(Record::versions).filter_map(|v| v.value.as_ref()).map(Bytes::len).sum()
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
            hints: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CARTS, LWW, Rules, formed, key, version};
    use crate::time::Hlc;

    const ME: NodeId = NodeId(1);
    const N2: NodeId = NodeId(2);
    const N3: NodeId = NodeId(3);

    fn op(needed: u8) -> ReadOp {
        ReadOp::new(key("k"), [ME, N2, N3], needed, formed(1, (1, 1, 1)).keyspaces[&LWW].policy())
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
            Next::Done(Ok(Answer::Found { versions, context: None })) => versions[0].written.0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_record_and_digests_that_equal_it_are_a_quorum() {
        let mut op = op(2);
        let asked: Vec<_> = op.unanswered().collect();
        assert_eq!(asked, [(ME, Want::Record), (N2, Want::Digest)], "no more than are needed");
        assert_eq!(digest(&mut op, N2, 5), Next::Wait, "a digest alone shows nothing to a reader");
        assert_eq!(sees(holds(&mut op, ME, 5)), 5);
    }

    #[test]
    fn with_r_1_others_are_asked_only_when_the_first_can_not() {
        let mut op = op(1);
        assert_eq!(op.unanswered().collect::<Vec<_>>(), [(ME, Want::Record)]);
        assert_eq!(refuses(&mut op, ME), Next::Ask(vec![(N2, Want::Record)]));
        assert_eq!(sees(holds(&mut op, N2, 5)), 5);
    }

    #[test]
    fn a_digest_that_differs_is_looked_at_and_the_later_version_wins() {
        let mut op = op(2);
        assert_eq!(holds(&mut op, ME, 5), Next::Wait);
        assert_eq!(digest(&mut op, N2, 6), Next::Ask(vec![(N2, Want::Record)]));
        assert_eq!(op.unanswered().collect::<Vec<_>>(), [(N2, Want::Record)]);
        assert_eq!(digest(&mut op, N2, 6), Next::Wait, "asked already");
        assert_eq!(sees(holds(&mut op, N2, 6)), 6);
    }

    #[test]
    fn owners_that_agree_with_what_is_held_need_not_be_waited_for() {
        let mut op = op(2);
        assert_eq!(op.hedge(), Next::Ask(vec![(N3, Want::Record)]));
        assert_eq!(op.hedge(), Next::Wait, "everybody was asked");
        holds(&mut op, ME, 5);
        digest(&mut op, N2, 6);
        assert_eq!(sees(digest(&mut op, N3, 5)), 5, "two of three agree, whatever the third has");
    }

    #[test]
    fn where_a_record_is_late_another_owner_gives_one() {
        let mut op = op(2);
        let asks = vec![(N2, Want::Record), (N3, Want::Digest)];
        assert_eq!((digest(&mut op, N2, 5), op.hedge()), (Next::Wait, Next::Ask(asks)));
        assert_eq!([op.hedge(), holds(&mut op, N2, 5)], [Next::Wait, Next::Wait]);
        assert_eq!(sees(digest(&mut op, N3, 5)), 5);
    }

    #[test]
    fn without_the_first_owner_the_others_make_the_quorum() {
        let mut op = op(2);
        digest(&mut op, N2, 6);
        assert_eq!(op.lost(ME), Next::Ask(vec![(N2, Want::Record), (N3, Want::Digest)]));
        assert_eq!(holds(&mut op, N2, 6), Next::Wait);
        assert_eq!(sees(digest(&mut op, N3, 6)), 6);
    }

    #[test]
    fn a_quorum_that_refused_is_lost_with_its_reason() {
        let mut op = op(2);
        assert_eq!(refuses(&mut op, N2), Next::Ask(vec![(N3, Want::Digest)]));
        let Next::Done(Err(error)) = refuses(&mut op, N3) else { panic!("one of three can't make two") };
        let expected =
            OpError::QuorumLost { write: false, acks: 0, needed: 2, owners: 3, hints: 0, refused: "it is busy".into() };
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
            Next::Done(Ok(Answer::Found { versions, .. })) => versions.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!((shown(&mut op, 999), shown(&mut op, 1_000)), (1, 0));
        let deleted = Record::of(version(1, 2, Hlc(6), None));
        let next = hear(&mut op, ME, ReadOutcome::Record(deleted));
        assert_eq!(next, Next::Done(Ok(Answer::Found { versions: Vec::new(), context: None })));
    }

    fn mends(op: &mut ReadOp) -> Vec<(NodeId, bool, Vec<u64>)> {
        let repairs = op.repairs(&Rules::Work).into_iter();
        repairs.map(|r| (r.owner, r.absent, r.versions.iter().map(|v| v.written.0).collect())).collect()
    }

    #[test]
    fn owners_that_agree_need_no_repair() {
        let mut op = op(2);
        holds(&mut op, ME, 5);
        digest(&mut op, N2, 5);
        assert_eq!(mends(&mut op), []);
    }

    #[test]
    fn stale_and_absent_owners_get_what_they_lack_once() {
        let mut op = op(3);
        hear(&mut op, ME, ReadOutcome::Record(Record::default()));
        holds(&mut op, N2, 6);
        holds(&mut op, N3, 5);
        assert_eq!(mends(&mut op), [(ME, true, vec![6]), (N3, false, vec![6])]);
        assert_eq!(mends(&mut op), []);
    }

    #[test]
    fn a_late_answer_that_is_ahead_mends_those_who_made_the_quorum() {
        let mut op = op(2);
        op.hedge();
        holds(&mut op, ME, 5);
        digest(&mut op, N2, 6);
        holds(&mut op, N3, 5);
        assert_eq!(mends(&mut op), [], "what the second holds is on its way");
        op.late(N2, ReadOutcome::Record(record(6)));
        assert_eq!(mends(&mut op), [(ME, false, vec![6]), (N3, false, vec![6])]);
    }

    /// Otherwise the owner that lacks two might get one of them, and lose to it what the other one stands for.
    #[test]
    fn the_past_goes_with_the_last_version_that_is_missing() {
        let mut op = ReadOp::new(key("k"), [ME, N2, N3], 3, formed(1, (1, 1, 1)).keyspaces[&CARTS].policy());
        let old = version(1, 5, Hlc(5), Some("old"));
        let (one, two) = (version(2, 6, Hlc(6), Some("one")), version(3, 7, Hlc(7), Some("two")));
        let past: Context = [old.dot].into_iter().collect();
        let mut merged = Record::of(one.clone()).with_past(&past);
        merged.insert(two.clone());
        let mut half = Record::of(old.clone());
        half.insert(one.clone());
        for (node, record) in [(ME, merged), (N2, Record::of(old)), (N3, half)] {
            hear(&mut op, node, ReadOutcome::Record(record));
        }
        let mend = |owner, versions, past| Repair { owner, absent: false, versions, past };
        let expected = [mend(N2, vec![one, two.clone()], Context::default()), mend(N3, vec![two], past)];
        assert_eq!(op.repairs(&Rules::Work), expected);
    }

    #[test]
    fn a_tombstone_and_an_expired_version_are_mended_as_they_are() {
        let mut op = op(2);
        let mut expired = version(1, 1, Hlc(5), Some("v"));
        expired.expires_ms = 1;
        hear(&mut op, ME, ReadOutcome::Record(Record::of(expired.clone())));
        hear(&mut op, N2, ReadOutcome::Record(Record::default()));
        assert_eq!(
            op.repairs(&Rules::Work),
            [Repair { owner: N2, absent: true, versions: vec![expired], past: Context::default() }]
        );
        let deleted = version(3, 1, Hlc(6), None);
        op.late(N3, ReadOutcome::Record(Record::of(deleted.clone())));
        let repairs = op.repairs(&Rules::Work);
        assert!(repairs.len() == 2 && repairs.iter().all(|r| r.versions == [deleted.clone()]), "{repairs:?}");
    }
}
