//! Deliberate bugs, to prove that the simulator bites. The harness carries out what the logic decides, so it can lie.

use crate::site::Site;
use crate::world::World;
use bytes::Bytes;
use mks_logic::cluster::{Copies, State};
use mks_logic::context::Context;
use mks_logic::event::{AskJob, Deed, JobId, Question, Told, WriteJob};
use mks_logic::id::{KeyspaceId, NodeId};
use mks_logic::port::Merged;
use std::sync::Arc;

macro_rules! mutations {
    ($($(#[$doc:meta])* $mutation:ident, $name:literal;)*) => {
        /// See the module's own words.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutation { $($(#[$doc])* $mutation,)* }

        impl Mutation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$mutation,)*];

            /// As people write it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$mutation => $name,)* }
            }
        }
    };
}

mutations! {
    /// An owner says that it holds a write before its disk does.
    AckBeforeCommit, "ack-before-commit";
    /// A refusal is taken for an acknowledgement.
    RefusalAsAck, "refusal-as-ack";
    /// Nobody restamps: writes lose the mark that says that they are of this moment.
    NoFreshMark, "no-fresh-mark";
    /// A node that starts again keeps its incarnation, and counts its dots from 1.
    SameIncarnation, "same-incarnation";
    /// One owner's acknowledgement counts for two.
    AckTwice, "ack-twice";
    /// Owners take writes of any epoch.
    AnyEpoch, "any-epoch";
    /// Reads ask one owner less.
    ReadQuorumShort, "read-quorum-short";
    /// Writes ask one owner less.
    WriteQuorumShort, "write-quorum-short";
    /// What a process remembers of its records outlives a power cut.
    StaleOutline, "stale-outline";
    /// The disk says that it synced, and did not.
    NoSync, "no-sync";
    /// One node's resolver keeps the first write.
    WrongWinner, "wrong-winner";
    /// One node misses entries of the epoch log.
    LogGap, "log-gap";
    /// A reply is given twice.
    ReplyTwice, "reply-twice";
    /// Deadlines are not kept: ticks come late.
    LateTick, "late-tick";
    /// What a version supersedes gets lost on its way to other owners.
    WriteWithoutPast, "write-without-past";
    /// A context is the highest counter of each coordinator: it covers writes that its reader never saw.
    PlainMaximum, "plain-maximum";
    /// A coordinator sends a write under the name of the one before it.
    OldName, "old-name";
    /// The scrub looks away.
    NoScrub, "no-scrub";
    /// Hints count towards W although nobody asked for it.
    HintsCount, "hints-count";
    /// A hint that counts is kept without being synced, and a power cut takes it.
    HintNotSynced, "hint-not-synced";
    /// A node says that it keeps a hint, and does not.
    HintNotKept, "hint-not-kept";
    /// A node that starts again does not look for the hints that it kept.
    HintsForgotten, "hints-forgotten";
    /// A hint is removed although its owner did not take it.
    HintDroppedEarly, "hint-dropped-early";
    /// While a partition moves, one quorum over the owners of both tables is enough.
    UnionQuorum, "union-quorum";
    /// A node says that it holds a partition before it has fetched it.
    CutoverBeforeSync, "cutover-before-sync";
    /// What an owner tells before it is in the epoch of a change counts for that change.
    DeadSession, "dead-session";
    /// An owner does an operation on a data type twice.
    ApplyTwice, "apply-twice";
    /// An operation starts from what its coordinator read, whatever its own disk holds.
    ApplyBlind, "apply-blind";
    /// An operation starts from what its coordinator's own disk holds, whatever other owners do.
    ApplyUnread, "apply-unread";
    /// A retry of an operation does it once more.
    ApplyAgain, "apply-again";
    /// A view shows one of the siblings.
    ViewUnjoined, "view-unjoined";
    /// A resolver that merges for readers hears of one of the siblings.
    MergeOne, "merge-one";
    /// Where a resolver fails a reader, the reader gets nothing.
    MergeNothing, "merge-nothing";
    /// A node that lost a partition keeps what it holds of it.
    NothingDropped, "nothing-dropped";
    /// An owner purges what is closed before all have confirmed it.
    PurgeEarly, "purge-early";
    /// A node says that it is drained of an epoch while it keeps hints of it.
    DrainedWithHints, "drained-with-hints";
    /// An owner confirms a partition, and has compared nothing.
    ConfirmUnseen, "confirm-unseen";
    /// Owners take late copies of what is closed.
    ClosedTaken, "closed-taken";
    /// A node says that it is rid of what it does not own while it holds it.
    RidEarly, "rid-early";
    /// A purge goes by epochs alone: whatever was stamped in a closed one goes.
    EpochAlone, "epoch-alone";
    /// Another number of copies is in force as soon as it is begun: quorums are of the next table alone, and nobody
    /// fetches anything.
    CopiesAtOnce, "copies-at-once";
    /// A node goes on adding up its sums, and listing its records, by the number of copies that a keyspace had at
    /// first.
    UngroupedSums, "ungrouped-sums";
}

impl Site {
    /// How many owners keyspaces have, as the sums of a node in that state go by it.
    pub(crate) fn copies_known(&self, state: &State) -> Vec<(KeyspaceId, u8)> {
        let state = if self.plan.mutation == Some(Mutation::UngroupedSums) { &self.birth } else { state };
        state.all_copies_max().collect()
    }
}

impl World {
    /// What deliberate bugs make of a question to the code of a keyspace.
    pub(crate) fn twist_question(&self, job: &mut AskJob) {
        match (&mut job.question, self.site.plan.mutation) {
            (Question::View { states, .. }, Some(Mutation::ViewUnjoined)) => states.truncate(1),
            (Question::Merge(siblings), Some(Mutation::MergeOne)) => siblings.values.truncate(1),
            _ => {}
        }
    }

    /// And of the answer.
    pub(crate) fn twist_answer(&self, told: Told) -> Told {
        match (told, self.site.plan.mutation) {
            (Told::Merge(Err(_)), Some(Mutation::MergeNothing)) => Told::Merge(Ok(Merged::Value(Bytes::new()))),
            (told, _) => told,
        }
    }

    /// What deliberate bugs make of the state that a node hears of.
    pub(crate) fn copy_at_once(&self, state: &mut Arc<State>) {
        let begun = state.change.iter().flat_map(|change| change.copies.clone()).collect::<Vec<_>>();
        if self.site.plan.mutation != Some(Mutation::CopiesAtOnce) || begun.is_empty() {
            return;
        }
        let keyspaces = &mut Arc::make_mut(state).keyspaces;
        for (id, Copies { n, r, w }) in begun {
            if let Some(keyspace) = keyspaces.get_mut(&id) {
                (keyspace.n, keyspace.r, keyspace.w) = (n, r, w);
            }
        }
    }

    /// What deliberate bugs make of an operation on a data type.
    pub(crate) fn twist(&mut self, id: NodeId, job: &mut WriteJob) {
        let Some(apply) = &mut job.apply else { return };
        match self.site.plan.mutation {
            Some(Mutation::ApplyTwice) => {
                let mint = job.mint.map(|clock| clock + 1);
                // The second one finds a stamp that is no earlier than its own.
                (job.fresh, job.mint) = (false, mint);
                let twin = WriteJob { job: JobId(u64::MAX), mint: mint.map(|clock| clock - 1), ..job.clone() };
                self.machine(id).waiting.push(twin);
            }
            Some(Mutation::ApplyBlind) => {
                let machine = self.machine(id);
                let held = machine.disk.record(&job.key.engine_key(machine.state.partition_bits));
                job.past.unite(&held.context());
            }
            Some(Mutation::ApplyUnread) => {
                apply.seen.clear();
                job.past = Context::default();
            }
            Some(Mutation::ApplyAgain) => {
                // What it was is found among those that were done.
                let done = &mut self.machine(id).done;
                match &apply.deed {
                    Deed::Operate(operation) => done.push(operation.clone()),
                    Deed::Again(_) => apply.deed = done.last().cloned().map_or(apply.deed.clone(), Deed::Operate),
                }
            }
            _ => {}
        }
    }
}
