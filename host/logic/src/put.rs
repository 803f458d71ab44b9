//! One write (a put or a delete) as its coordinator sees it, from the stamp to the quorum.

use crate::context::Context;
use crate::id::{Epoch, Key, NodeId};
use crate::message::{Refused, WriteOutcome};
use crate::port::{Durability, Policy};
use crate::quorum::{Tally, Verdict};
use crate::replica::SIBLINGS_MAX;
use crate::request::{Answer, OpError, Reply};
use crate::time::Hlc;
use crate::version::Version;
use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A write under way.
#[derive(Clone, Debug)]
pub struct WriteOp {
    /// Which record.
    pub key: Key,
    /// The version that this attempt sends. In a causal keyspace its dot has no counter until this node's own disk has
    /// taken it, and nobody else hears of it before.
    pub version: Version,
    /// Dots that it supersedes.
    pub past: Context,
    /// Our own disk was asked to take it, name it, and has not answered.
    pub naming: bool,
    /// Who shall hold it.
    pub owners: Vec<NodeId>,
    /// What an ack promises.
    pub durability: Durability,
    /// How versions of the keyspace supersede one another.
    pub policy: Policy,
    tally: Tally,
    refusals: BTreeSet<Refused>,
    /// Owners that refused for a reason that does not pass, one bit each.
    never: u16,
}

/// What an answer leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Wait for more answers.
    Wait,
    /// An owner holds a later stamp: write a new version, stamped above it.
    Restamp {
        /// The latest stamp there.
        above: Hlc,
    },
    /// An owner is in a later epoch: write again once this node is there too.
    AwaitEpoch {
        /// The owner's epoch.
        epoch: Epoch,
    },
    /// It is over.
    Done(Reply),
}

impl WriteOp {
    /// A write of `version` that needs `needed` of `owners`.
    #[must_use]
    pub fn new(
        key: Key,
        (version, past): (Version, Context),
        owners: Vec<NodeId>,
        needed: u8,
        durability: Durability,
        policy: Policy,
    ) -> Self {
        let (tally, refusals) = (Tally::new(owners.len(), needed), BTreeSet::new());
        Self { key, version, past, naming: false, owners, durability, policy, tally, refusals, never: 0 }
    }

    /// True while the version has no name: our own disk has not taken it.
    #[must_use]
    pub fn is_nameless(&self) -> bool {
        self.version.dot.counter == 0
    }

    /// Owners that have not answered this attempt.
    pub fn unanswered(&self) -> impl Iterator<Item = NodeId> + '_ {
        let open = |(i, node): (usize, &NodeId)| (!self.tally.answered(i)).then_some(*node);
        self.owners.iter().enumerate().filter_map(open)
    }

    /// Owners that are not known to hold this attempt's version and may take it yet.
    pub fn owed(&self) -> impl Iterator<Item = NodeId> + '_ {
        let owed = |(i, node): (usize, &NodeId)| (!self.tally.acked(i) && self.never & 1 << i == 0).then_some(*node);
        self.owners.iter().enumerate().filter_map(owed)
    }

    /// Owners that certainly hold this attempt's version, or one that supersedes it.
    #[must_use]
    pub fn acks(&self) -> u8 {
        self.tally.acks()
    }

    /// Takes in an owner's answer that came after the reply. True when the owner would take the version if it did not
    /// come as a write of this moment.
    pub fn late(&mut self, owner: NodeId, outcome: &WriteOutcome) -> bool {
        matches!(self.answered(owner, outcome), Next::Restamp { .. } | Next::AwaitEpoch { .. })
    }

    /// Takes in one owner's answer to this attempt.
    pub fn answered(&mut self, owner: NodeId, outcome: &WriteOutcome) -> Next {
        let Some(i) = self.owners.iter().position(|o| *o == owner) else { return Next::Wait };
        match outcome {
            WriteOutcome::Held => self.tally.ack(i),
            WriteOutcome::Minted { counter } => {
                self.version.dot.counter = *counter;
                self.tally.ack(i);
            }
            WriteOutcome::Refused(refused) if self.is_nameless() => {
                self.refusals.insert(*refused);
                return Next::Done(Err(self.not_named(*refused)));
            }
            // No ack. Where the later write was acknowledged, every write quorum meets an owner that says so: an
            // attempt that wins all the same was above everything acknowledged before it began.
            WriteOutcome::StaleStamp { latest } => return Next::Restamp { above: *latest },
            WriteOutcome::StaleEpoch { current } => return Next::AwaitEpoch { epoch: *current },
            WriteOutcome::Refused(refused) => {
                self.tally.refuse(i);
                self.never |= u16::from(!refused.passes()) << i;
                self.refusals.insert(*refused);
            }
        }
        match self.tally.verdict() {
            Verdict::Pending => Next::Wait,
            Verdict::Won => Next::Done(Ok(self.answer())),
            Verdict::Lost => Next::Done(Err(self.lost())),
        }
    }

    fn answer(&self) -> Answer {
        let context = self.policy.causal.then(|| {
            let mut context = self.past.clone();
            context.add(self.version.dot);
            context
        });
        Answer::Written { written: self.version.written, acks: self.tally.acks(), context }
    }

    /// Starts over with another version: answers to the one before no longer count.
    pub fn again(&mut self, version: Version) {
        self.version = version;
        self.tally = Tally::new(self.owners.len(), self.tally.needed());
        self.refusals.clear();
        self.never = 0;
    }

    /// The error at the deadline.
    #[must_use]
    pub fn timed_out(&self) -> OpError {
        OpError::Timeout {
            write: true,
            acks: self.tally.acks(),
            needed: self.tally.needed(),
            owners: self.tally.owners(),
        }
    }

    fn not_named(&self, refused: Refused) -> OpError {
        match refused {
            // After some failures of a store nobody knows what it holds: another owner would name the write once more.
            Refused::Store | Refused::TooManySiblings => self.lost(),
            refused => OpError::NotNamed { refused: refused.to_string() },
        }
    }

    fn too_many_siblings(&self) -> OpError {
        let (acks, needed, owners) = (self.tally.acks(), self.tally.needed(), self.tally.owners());
        OpError::TooManySiblings { max: SIBLINGS_MAX as u32, acks, needed, owners }
    }

    fn lost(&self) -> OpError {
        if self.refusals.contains(&Refused::TooManySiblings) {
            return self.too_many_siblings();
        }
        OpError::QuorumLost {
            write: true,
            acks: self.tally.acks(),
            needed: self.tally.needed(),
            owners: self.tally.owners(),
            refused: reasons(&self.refusals),
        }
    }
}

/// The distinct reasons of refusals, for people.
#[must_use]
pub fn reasons(refusals: &BTreeSet<Refused>) -> String {
    let mut out = String::new();
    for refused in refusals {
        if !out.is_empty() {
            out.push_str(", ");
        }
        out.push_str(&refused.to_string());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Dot, KeyspaceId};
    use crate::port::ResolverHash;
    use bytes::Bytes;

    fn op(needed: u8) -> WriteOp {
        let key = Key { keyspace: KeyspaceId(1), partition_key: Bytes::from_static(b"k"), sort_key: Bytes::new() };
        let version = Version {
            dot: Dot { counter: 1, ..Dot::default() },
            written: Hlc(9),
            epoch: Epoch(1),
            expires_ms: 0,
            digest: 0,
            value: None,
        };
        let owners = [1, 2, 3].map(NodeId).to_vec();
        let policy = Policy { resolver: ResolverHash([0; 32]), causal: false };
        WriteOp::new(key, (version, Context::default()), owners, needed, Durability::Sync, policy)
    }

    #[test]
    fn w_distinct_owners_make_the_ack() {
        let mut op = op(2);
        assert_eq!(op.answered(NodeId(1), &WriteOutcome::Held), Next::Wait);
        assert_eq!(op.answered(NodeId(1), &WriteOutcome::Held), Next::Wait);
        assert_eq!(op.answered(NodeId(9), &WriteOutcome::Held), Next::Wait);
        let done = op.answered(NodeId(3), &WriteOutcome::Held);
        assert_eq!(done, Next::Done(Ok(Answer::Written { written: Hlc(9), acks: 2, context: None })));
    }

    #[test]
    fn a_later_stamp_is_no_ack() {
        let mut op = op(2);
        op.answered(NodeId(1), &WriteOutcome::Held);
        let stale = WriteOutcome::StaleStamp { latest: Hlc(50) };
        assert_eq!(op.answered(NodeId(2), &stale), Next::Restamp { above: Hlc(50) });
        let version = Version { written: Hlc(51), ..op.version.clone() };
        op.again(version);
        assert_eq!(op.unanswered().count(), 3, "acks of the first attempt do not count for the second");
    }

    #[test]
    fn a_lost_quorum_says_who_holds_it_and_why_not_more() {
        let mut op = op(3);
        op.answered(NodeId(1), &WriteOutcome::Held);
        let Next::Done(Err(error)) = op.answered(NodeId(2), &WriteOutcome::Refused(Refused::DiskFull)) else {
            panic!("two of three can't make three");
        };
        let text = error.to_string();
        assert!(text.contains("only 1 of the 3") && text.contains("disk is full"), "{text}");
    }
}
