//! One write (a put or a delete) as its coordinator sees it, from the stamp to the quorum.

use crate::cluster::Tables;
use crate::context::Context;
use crate::event::{Apply, Deed};
use crate::id::{Epoch, Key, NodeId};
use crate::message::{Refused, WriteOutcome};
use crate::port::{Durability, Policy};
use crate::quorum::{OWNERS_MAX, Spread, Tally, Verdict};
use crate::replica::SIBLINGS_MAX;
use crate::request::{Answer, OpError, Reply};
use crate::retry::Name;
use crate::time::Hlc;
use crate::version::{Version, value_digest};
use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;

/// A node outside the owner list that may keep a write for an owner (the Dynamo paper, 4.6).
#[derive(Clone, Debug)]
struct StandIn {
    node: NodeId,
    zone: u8,
    /// The owner it was asked to stand in for, as a position; `None`: not asked.
    seat: Option<usize>,
    answer: Option<bool>,
}

/// Who shall hold a write, while it may be that its partition moves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seats {
    /// All owners.
    pub owners: Vec<NodeId>,
    /// See [`Tally::tables`].
    pub tables: [u16; 2],
    /// How many of each table must take it; where there is one, the first.
    pub needed: [u8; 2],
    /// How far apart those must be who take it.
    pub spread: Spread,
    /// Nodes that may stand in for owners, each with its zone, the first before the others.
    pub stand_ins: Vec<(NodeId, u8)>,
}

impl Seats {
    /// The owners of these tables. The client may say how many of them must take it: as many as a table has at most.
    #[must_use]
    pub fn of(tables: Tables<'_>, quorum: Option<u8>) -> Self {
        let owners = tables.all();
        let most = [tables.old, tables.next.unwrap_or(tables.old)].map(|table| table.len().max(1) as u8);
        let needed = [0, 1].map(|i| quorum.unwrap_or(tables.w[i]).min(most[i]));
        let bits = |table: &[NodeId]| {
            owners.iter().enumerate().fold(0, |bits, (i, owner)| bits | u16::from(table.contains(owner)) << i)
        };
        let tables = tables.next.map_or([0; 2], |next| [bits(tables.old), bits(next)]);
        Self { owners, tables, needed, ..Self::default() }
    }
}

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
    /// Of an operation on a data type, until our own disk has done it: the version has no value before.
    pub apply: Option<Apply>,
    /// Our own disk was asked to take it, name it, and has not answered.
    pub naming: bool,
    /// Who shall hold it.
    pub owners: Vec<NodeId>,
    /// What an ack promises.
    pub durability: Durability,
    /// How versions of the keyspace supersede one another.
    pub policy: Policy,
    /// The client allows other nodes to stand in for owners.
    pub sloppy: bool,
    /// How many owners must take it, where the client has said so.
    pub quorum: Option<u8>,
    tables: [u16; 2],
    tally: Tally,
    refusals: BTreeSet<Refused>,
    /// Owners that refused for a reason that does not pass, one bit each.
    never: u16,
    /// Of a sloppy quorum only, in the order in which they are asked.
    stand_ins: Vec<StandIn>,
    spread: Spread,
    late: bool,
    /// What the data type said.
    said: Option<Bytes>,
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
    /// A write of `version`.
    #[must_use]
    pub fn new(
        key: Key,
        (version, past): (Version, Context),
        seats: Seats,
        durability: Durability,
        policy: Policy,
    ) -> Self {
        let mut op = Self {
            key,
            version,
            past,
            apply: None,
            naming: false,
            owners: Vec::new(),
            durability,
            policy,
            sloppy: false,
            quorum: None,
            tables: [0; 2],
            tally: Tally::new(0, 0),
            refusals: BTreeSet::new(),
            never: 0,
            stand_ins: Vec::new(),
            spread: Spread::default(),
            late: false,
            said: None,
        };
        op.sit(seats);
        op
    }

    fn sit(&mut self, Seats { owners, tables, needed, spread, stand_ins }: Seats) {
        self.tally = Tally::new(owners.len(), 0).tables(tables, needed).spread(spread);
        let stand_in = |(node, zone)| StandIn { node, zone, seat: None, answer: None };
        self.stand_ins = stand_ins.into_iter().filter(|(node, _)| !owners.contains(node)).map(stand_in).collect();
        self.stand_ins.truncate(OWNERS_MAX);
        self.tally.spare(self.stand_ins.len());
        (self.owners, self.tables, self.spread) = (owners, tables, spread);
    }

    /// Whether these are the owners that it needs, table by table.
    #[must_use]
    pub fn is_for(&self, seats: &Seats) -> bool {
        self.owners == seats.owners && self.tables == seats.tables
    }

    /// Distinct zones that those must lie in who take it.
    #[must_use]
    pub fn zones_min(&self) -> u8 {
        self.spread.zones_min
    }

    /// True while the version has no name: our own disk has not taken it.
    #[must_use]
    pub fn is_nameless(&self) -> bool {
        self.version.dot.counter == 0
    }

    /// What a retry of this write goes by. An operation that was done before stays done when a retry of it gets no
    /// name.
    #[must_use]
    pub fn name(&self) -> Name {
        let name = Name::of(&self.version);
        match self.apply {
            Some(Apply { deed: Deed::Again(dot), .. }) if self.is_nameless() => Name { dot, ..name },
            _ => name,
        }
    }

    /// True when this retry can't say that nothing was written.
    #[must_use]
    pub fn is_again(&self) -> bool {
        matches!(self.apply, Some(Apply { deed: Deed::Again(_), .. }))
    }

    /// True when other nodes may stand in for owners.
    #[must_use]
    pub fn is_sloppy(&self) -> bool {
        !self.stand_ins.is_empty()
    }

    /// From now on owners that have not answered are taken for absent.
    pub fn is_late(&mut self) {
        self.late = true;
    }

    /// Asks as many nodes to stand in for owners that are away, late or not willing as the quorum lacks, and no more:
    /// pairs of such a node and the owner.
    pub fn call_stand_ins(&mut self, is_there: impl Fn(NodeId) -> bool) -> Vec<(NodeId, NodeId)> {
        let mut called = Vec::new();
        let nobody = self.stand_ins.is_empty() || self.is_nameless();
        if nobody || self.tally.verdict() != Verdict::Pending {
            return called;
        }
        let (mut seats, mut spread) = (0u16, self.spread);
        for (i, owner) in self.owners.iter().enumerate() {
            let comes = !self.tally.answered(i) && !self.late && is_there(*owner);
            seats |= u16::from(comes || self.tally.acked(i)) << i;
        }
        for StandIn { node, zone, seat, answer } in &self.stand_ins {
            let Some(seat) = seat.filter(|seat| seats & 1 << seat == 0) else { continue };
            if *answer == Some(true) || answer.is_none() && is_there(*node) {
                seats |= 1 << seat;
                spread.zones[seat] = *zone;
            }
        }
        while !self.tally.suffices(seats, &spread) {
            // While the partition moves, an owner in both tables is worth two.
            let free = (0..self.owners.len()).filter(|i| seats & 1 << i == 0);
            let worth = |i: &usize| core::cmp::Reverse(self.tally.lacking(*i, seats, &spread));
            let seat = free.min_by_key(worth);
            let known = |zone: u8| (0..self.owners.len()).any(|i| seats & 1 << i != 0 && spread.zones[i] == zone);
            let free = |s: &&mut StandIn| s.seat.is_none() && is_there(s.node);
            // Where zones count, one that is not there yet comes first; `min_by_key` keeps the order otherwise.
            let next = self.stand_ins.iter_mut().filter(free).min_by_key(|s| spread.zones_min > 1 && known(s.zone));
            let (Some(seat), Some(next)) = (seat, next) else { break };
            next.seat = Some(seat);
            seats |= 1 << seat;
            spread.zones[seat] = next.zone;
            called.push((next.node, self.owners[seat]));
        }
        called
    }

    /// Nodes that were asked to stand in for an owner and have not answered, and that owner.
    pub fn unanswered_stand_ins(&self) -> impl Iterator<Item = (NodeId, NodeId)> + '_ {
        let open = |s: &StandIn| s.seat.filter(|_| s.answer.is_none()).map(|seat| (s.node, self.owners[seat]));
        self.stand_ins.iter().filter_map(open)
    }

    /// Owners that have not answered this attempt.
    pub fn unanswered(&self) -> impl Iterator<Item = NodeId> + '_ {
        let open = |(i, node): (usize, &NodeId)| (!self.tally.answered(i)).then_some(*node);
        self.owners.iter().enumerate().filter_map(open)
    }

    /// Owners that are not known to hold this attempt's version, may take it yet, and whom nobody stands in for.
    pub fn owed(&self) -> impl Iterator<Item = NodeId> + '_ {
        let settled = |i| self.tally.acked(i) || self.tally.kept(i) || self.never & 1 << i != 0;
        self.owners.iter().enumerate().filter(move |(i, _)| !settled(*i)).map(|(_, node)| *node)
    }

    /// Nodes that certainly hold this attempt's version, or one that supersedes it: owners, and those that stand in for
    /// others.
    #[must_use]
    pub fn holders(&self) -> u8 {
        self.tally.acks() + self.tally.hints()
    }

    /// Takes in an owner's answer that came after the reply. True when the owner would take the version if it did not
    /// come as a write of this moment.
    pub fn late(&mut self, owner: NodeId, outcome: &WriteOutcome) -> bool {
        matches!(self.answered(owner, outcome), Next::Restamp { .. } | Next::AwaitEpoch { .. })
    }

    /// Takes in the answer to this attempt of an owner, or of a node that stands in for one.
    pub fn answered(&mut self, node: NodeId, outcome: &WriteOutcome) -> Next {
        let Some(i) = self.owners.iter().position(|o| *o == node) else { return self.stood_in(node, outcome) };
        match outcome {
            WriteOutcome::Held => self.tally.ack(i),
            WriteOutcome::Minted { counter } => {
                self.version.dot.counter = *counter;
                self.tally.ack(i);
            }
            WriteOutcome::Applied { counter, state, past, reply } => {
                self.version.dot.counter = *counter;
                self.version.digest = value_digest(Some(state));
                self.version.value = Some(state.clone());
                self.past = past.clone();
                self.said = reply.clone();
                self.apply = None;
                self.tally.ack(i);
            }
            WriteOutcome::NotApplied(error) => return Next::Done(Err(OpError::Type { error: error.clone() })),
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
        self.next()
    }

    fn stood_in(&mut self, node: NodeId, outcome: &WriteOutcome) -> Next {
        let asked = self.stand_ins.iter_mut().find(|s| s.node == node);
        let Some((stand_in, seat)) = asked.and_then(|s| s.seat.map(|seat| (s, seat))) else { return Next::Wait };
        match outcome {
            WriteOutcome::Held => {
                stand_in.answer = Some(true);
                self.tally.keep(seat, stand_in.zone);
            }
            WriteOutcome::StaleEpoch { current } => return Next::AwaitEpoch { epoch: *current },
            WriteOutcome::Refused(refused) => {
                stand_in.answer.get_or_insert(false);
                self.refusals.insert(*refused);
                self.tally.spare(self.stand_ins.iter().filter(|s| s.answer.is_none()).count());
            }
            // It keeps nothing below a clock that it has promised to be over.
            WriteOutcome::StaleStamp { latest } => return Next::Restamp { above: *latest },
            WriteOutcome::Minted { .. } | WriteOutcome::Applied { .. } | WriteOutcome::NotApplied(_) => {}
        }
        self.next()
    }

    fn next(&self) -> Next {
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
        let (acks, hints) = (self.tally.acks(), self.tally.hints());
        if self.policy.typed() {
            return Answer::Applied { written: self.version.written, acks, hints, reply: self.said.clone() };
        }
        Answer::Written { written: self.version.written, acks, hints, context }
    }

    /// Starts over with another version, and with those who own its key now: answers to the one before no longer count.
    pub fn again(&mut self, version: Version, seats: Seats) {
        self.version = version;
        self.sit(seats);
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
            hints: self.tally.hints(),
        }
    }

    fn not_named(&self, refused: Refused) -> OpError {
        match refused {
            // After some failures of a store nobody knows what it holds: another owner would name the write once more.
            Refused::Store | Refused::TooManySiblings => self.lost(),
            _ if self.is_again() => self.lost(),
            refused => OpError::NotNamed { refused: refused.to_string() },
        }
    }

    fn too_many_siblings(&self) -> OpError {
        let (acks, needed, owners) = (self.tally.acks(), self.tally.needed(), self.tally.owners());
        OpError::TooManySiblings { max: SIBLINGS_MAX as u32, acks, needed, owners, causal: self.policy.causal }
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
            hints: self.tally.hints(),
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
    use crate::port::{ResolverHash, Role};

    fn op(needed: u8) -> WriteOp {
        seated(Seats { needed: [needed; 2], ..three() })
    }

    fn three() -> Seats {
        Seats { owners: [1, 2, 3].map(NodeId).to_vec(), needed: [2; 2], ..Seats::default() }
    }

    fn seated(seats: Seats) -> WriteOp {
        let key = Key { keyspace: KeyspaceId(1), partition_key: Bytes::from_static(b"k"), sort_key: Bytes::new() };
        let version = Version {
            dot: Dot { counter: 1, ..Dot::default() },
            written: Hlc(9),
            epoch: Epoch(1),
            expires_ms: 0,
            digest: 0,
            value: None,
        };
        let policy = Policy { resolver: ResolverHash([0; 32]), causal: false, role: Role::Resolver };
        WriteOp::new(key, (version, Context::default()), seats, Durability::Sync, policy)
    }

    #[test]
    fn w_distinct_owners_make_the_ack() {
        let mut op = op(2);
        assert_eq!(op.answered(NodeId(1), &WriteOutcome::Held), Next::Wait);
        assert_eq!(op.answered(NodeId(1), &WriteOutcome::Held), Next::Wait);
        assert_eq!(op.answered(NodeId(9), &WriteOutcome::Held), Next::Wait);
        let done = op.answered(NodeId(3), &WriteOutcome::Held);
        assert_eq!(done, Next::Done(Ok(Answer::Written { written: Hlc(9), acks: 2, hints: 0, context: None })));
    }

    #[test]
    fn a_later_stamp_is_no_ack() {
        let mut op = op(2);
        op.answered(NodeId(1), &WriteOutcome::Held);
        let stale = WriteOutcome::StaleStamp { latest: Hlc(50) };
        assert_eq!(op.answered(NodeId(2), &stale), Next::Restamp { above: Hlc(50) });
        let version = Version { written: Hlc(51), ..op.version.clone() };
        op.again(version, three());
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

    #[test]
    fn too_many_siblings_say_how_they_become_one() {
        for (causal, way) in [(true, "write with the context"), (false, "mks plugin alter NAME --release")] {
            let mut op = op(2);
            op.policy.causal = causal;
            let refused = WriteOutcome::Refused(Refused::TooManySiblings);
            op.answered(NodeId(1), &refused);
            let Next::Done(Err(error)) = op.answered(NodeId(2), &refused) else {
                panic!("one of three can't make two")
            };
            assert!(error.to_string().contains(way), "{error}");
        }
    }

    fn sloppy() -> WriteOp {
        let stand_ins = vec![(NodeId(4), 16), (NodeId(5), 17), (NodeId(1), 0)];
        seated(Seats { stand_ins, ..three() })
    }

    fn away(node: NodeId) -> bool {
        ![2, 3].contains(&node.0)
    }

    #[test]
    fn a_stand_in_is_called_only_for_what_the_quorum_lacks() {
        let mut op = sloppy();
        assert_eq!(op.call_stand_ins(|_| true), [], "all owners are there");
        assert_eq!(op.call_stand_ins(away), [(NodeId(4), NodeId(2))]);
        assert_eq!(op.call_stand_ins(away), [], "it is on its way");
        assert_eq!(op.unanswered_stand_ins().collect::<Vec<_>>(), [(NodeId(4), NodeId(2))]);
        assert_eq!(op.answered(NodeId(4), &WriteOutcome::Held), Next::Wait);
        let done = op.answered(NodeId(1), &WriteOutcome::Held);
        assert_eq!(done, Next::Done(Ok(Answer::Written { written: Hlc(9), acks: 1, hints: 1, context: None })));
        assert_eq!(op.owed().collect::<Vec<_>>(), [NodeId(3)], "whoever is stood in for is owed nothing more");
    }

    #[test]
    fn late_and_unwilling_owners_are_stood_in_for_until_nobody_is_left() {
        let mut op = sloppy();
        op.is_late();
        op.answered(NodeId(1), &WriteOutcome::Held);
        assert_eq!(op.call_stand_ins(|_| true), [(NodeId(4), NodeId(2))]);
        let full = WriteOutcome::Refused(Refused::HintsFull);
        assert_eq!(op.answered(NodeId(4), &full), Next::Wait);
        assert_eq!(op.call_stand_ins(|_| true), [(NodeId(5), NodeId(2))]);
        assert_eq!(op.answered(NodeId(5), &full), Next::Wait, "the owners may answer yet");
        assert_eq!(op.call_stand_ins(|_| true), []);
        op.answered(NodeId(2), &WriteOutcome::Refused(Refused::Busy));
        let Next::Done(Err(error)) = op.answered(NodeId(3), &WriteOutcome::Refused(Refused::Busy)) else {
            panic!("nobody is left");
        };
        assert!(error.to_string().contains("keeps as many writes"), "{error}");
    }

    #[test]
    fn the_owner_itself_takes_its_stand_ins_place_and_does_not_count_beside_it() {
        let mut op = sloppy();
        op.call_stand_ins(away);
        assert_eq!(op.answered(NodeId(4), &WriteOutcome::Held), Next::Wait);
        assert_eq!(op.answered(NodeId(2), &WriteOutcome::Held), Next::Wait, "one seat");
        assert_eq!(op.holders(), 1);
    }

    #[test]
    fn a_node_that_was_not_asked_stands_in_for_nobody() {
        let mut op = sloppy();
        for node in [4, 5, 9] {
            assert_eq!(op.answered(NodeId(node), &WriteOutcome::Held), Next::Wait);
        }
        assert_eq!(op.holders(), 0);
    }

    /// Owned by 1, 2, 3 so far, and by 1, 2, 4 from now on.
    fn moving() -> Seats {
        let (old, next) = ([1, 2, 3].map(NodeId), [1, 2, 4].map(NodeId));
        Seats::of(Tables { read: &old, old: &old, next: Some(&next), r: 2, w: [2; 2] }, None)
    }

    #[test]
    fn while_a_partition_moves_each_table_has_its_own_quorum_and_a_node_in_both_counts_in_both() {
        let held = |op: &mut WriteOp, node| op.answered(NodeId(node), &WriteOutcome::Held);
        let mut op = seated(moving());
        assert_eq!(op.owners, [1, 2, 3, 4].map(NodeId));
        assert_eq!((held(&mut op, 1), held(&mut op, 3)), (Next::Wait, Next::Wait), "one of the next table");
        assert!(matches!(held(&mut op, 4), Next::Done(Ok(Answer::Written { acks: 3, .. }))));
        let mut both = seated(moving());
        held(&mut both, 1);
        assert!(matches!(held(&mut both, 2), Next::Done(Ok(Answer::Written { acks: 2, .. }))));
        let mut lost = seated(moving());
        let full = WriteOutcome::Refused(Refused::DiskFull);
        assert_eq!(lost.answered(NodeId(3), &full), Next::Wait);
        assert!(matches!(lost.answered(NodeId(2), &full), Next::Done(Err(_))), "the old table has 1 alone");
    }

    #[test]
    fn whoever_stands_in_takes_the_seat_that_is_worth_most() {
        let mut op = seated(Seats { stand_ins: vec![(NodeId(7), 16), (NodeId(8), 17)], ..moving() });
        op.answered(NodeId(1), &WriteOutcome::Held);
        let away = |node: NodeId| ![2, 3, 4].contains(&node.0);
        assert_eq!(op.call_stand_ins(away), [(NodeId(7), NodeId(2))], "its seat is in both tables");
    }
}
