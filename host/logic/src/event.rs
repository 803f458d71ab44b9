//! Everything that can wake a node, and everything it can do: two closed enums on one screen.

use crate::cluster::{Entry, Mark, State};
use crate::context::Context;
use crate::exchange::{Found, Work};
use crate::id::{Dot, Epoch, Incarnation, Key, KeyspaceId, NodeId, PartitionId};
use crate::message::{Message, ReadOutcome, Refused, Want, WriteOutcome};
use crate::port::{DataTypes, Durability, Merged, Policy, Resolve, ResolveError, ResolverHash, Siblings, TypeError};
use crate::record::Record;
pub use crate::request::{Answer, Item, OpError, Operation, Reply, Request};
use crate::time::Hlc;
use crate::version::Version;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

/// The shell's name for a client that waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// What comes in.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client asks. Exactly one [`Effect::Reply`] with the ticket follows.
    Client { ticket: Ticket, request: Request },
    /// A peer said something over its stream.
    Peer { from: NodeId, clock: Hlc, message: Message },
    /// A peer's frame without messages: its clock, sent when there is nothing else to say.
    Clock { from: NodeId, clock: Hlc },
    /// Our stream to a peer came up or broke: questions that were under way are lost.
    Link { peer: NodeId, up: bool },
    /// A peer opened its stream to us anew: answers that it sent over the one before may be lost.
    Arrived { peer: NodeId },
    /// A gossip datagram whose seal proved the sender.
    Datagram { from: NodeId, incarnation: Incarnation, data: Bytes },
    /// A write job is done: see [`Effect::Write`].
    Written { job: JobId, outcome: WriteOutcome },
    /// A read job is done: see [`Effect::Read`].
    Found { job: JobId, outcome: ReadOutcome },
    /// Work on the hints is done: see [`Effect::Hint`].
    Hinted { job: JobId, outcome: HintOutcome },
    /// The epoch log moved on.
    Cluster(Arc<State>),
    /// [`crate::node::Node::next_wake`] has come.
    Tick,
    /// A comparison's reading is done: see [`Effect::Compare`].
    Compared { job: JobId, found: Found },
    /// An operator wants this partition (`None`: all) compared with its other owners now, its open epoch as well.
    Repair { partition: Option<PartitionId> },
    /// A look at the disk is done: see [`Effect::Scrub`].
    Scrubbed { job: JobId, outcome: ScrubOutcome },
    /// An operator wants the records of this partition (`None`: of all that this node owns) looked at now.
    Scrub { partition: Option<PartitionId> },
    /// A read or a write met a record of ours that is damaged.
    Damaged { key: Key },
    /// Work for partitions that move is done: see [`Effect::Move`].
    Moved { job: JobId, outcome: MoveOutcome },
    /// Work for seals is done: see [`Effect::Seal`].
    Sealed { job: JobId, outcome: SealOutcome },
    /// The code of a keyspace has answered: see [`Effect::Ask`].
    Told { job: JobId, told: Told },
}

/// The node's name for a job that its disk does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobId(pub u64);

/// What goes out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Say this to a peer; it may be lost.
    Send { to: NodeId, message: Message },
    /// Send a gossip datagram; it may be lost.
    Datagram { to: NodeId, data: Bytes },
    /// Merge a version into a record of our own: [`crate::replica::absorb`], then [`Input::Written`].
    Write(WriteJob),
    /// Read a record of our own, then [`Input::Found`].
    Read(ReadJob),
    /// Ask the code of a keyspace something for a reader, where that may take its time: [`AskJob::ask`], then
    /// [`Input::Told`].
    Ask(AskJob),
    /// Work on the hints in our own store, in the order given, by whoever also carries out [`Effect::Write`]:
    /// [`crate::hint::work`], then [`Input::Hinted`].
    Hint(HintJob),
    /// Tell the client.
    Reply { ticket: Ticket, reply: Reply },
    /// Read for a comparison with another owner: `sync::found`, then [`Input::Compared`].
    Compare { job: JobId, work: Work },
    /// Look at what the disk really holds: `scrub::work`, then [`Input::Scrubbed`].
    Scrub(ScrubJob),
    /// Work on our own store for partitions that move, by whoever also carries out [`Effect::Write`]: `moves::work`,
    /// then [`Input::Moved`].
    Move(MoveJob),
    /// Work on our own store for seals, by whoever also carries out [`Effect::Write`] and [`Effect::Hint`], after those
    /// that were asked for before: `purge::work`, then [`Input::Sealed`].
    Seal(SealJob),
    /// Get this entry into the epoch log. It may fail or be late: it is asked for again until the state shows it.
    Propose { entry: Entry },
}

/// See [`Effect::Write`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteJob {
    /// Comes back in [`Input::Written`].
    pub job: JobId,
    /// Which record.
    pub key: Key,
    /// What to merge.
    pub version: Version,
    /// Dots that the version supersedes.
    pub past: Context,
    /// The version has no counter yet: give it one ([`crate::mint`]), this being our clock of the moment.
    pub mint: Option<u64>,
    /// Refuse it if the record holds a later stamp.
    pub fresh: bool,
    /// What must be true before [`Input::Written`].
    pub durability: Durability,
    /// How versions of this keyspace supersede one another.
    pub policy: Policy,
    /// The record here is known to be another one than was written: a version takes the place of its namesake.
    pub replaces: bool,
    /// Versions of the record that must be here: without one of them the past would take away what that one had taken
    /// the place of, and neither would be left. Empty where the past is the version's own.
    pub beside: Vec<Dot>,
    /// The version has no value yet: what it says makes one of what is here.
    pub apply: Option<Apply>,
}

/// An operation on a data type, done where the record lies, by whoever alone changes it: so the state that it starts
/// from holds all that this node did before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Apply {
    /// What a quorum of the owners held; the job's past is all that those knew.
    pub seen: Vec<Version>,
    /// What to do.
    pub deed: Deed,
}

/// See [`Apply`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deed {
    /// Change the state.
    Operate(Bytes),
    /// The operation was done before, under this dot, and who holds it is not known: the state that holds it is written
    /// once more.
    Again(Dot),
}

/// See [`Effect::Ask`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AskJob {
    /// Comes back in [`Input::Told`].
    pub job: JobId,
    /// What it is about.
    pub key: Key,
    /// The code.
    pub code: ResolverHash,
    /// What it is asked.
    pub question: Question,
}

/// See [`AskJob`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// Of a data type: a client's question about the join of these states, one at least.
    View {
        /// What R owners hold.
        states: Vec<Bytes>,
        /// The client's.
        text: Bytes,
    },
    /// Of a resolver: what a reader is shown in the place of these siblings, two at least.
    Merge(Siblings),
}

/// See [`Input::Told`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// The answer to [`Question::View`].
    View(Result<Bytes, TypeError>),
    /// The answer to [`Question::Merge`].
    Merge(Result<Merged, ResolveError>),
}

impl AskJob {
    /// Asks.
    #[must_use]
    pub fn ask(&self, types: &dyn DataTypes, resolve: &dyn Resolve) -> Told {
        match &self.question {
            Question::View { states, text } => Told::View(types.view(self.code, states, text)),
            Question::Merge(siblings) => Told::Merge(resolve.merge(self.code, siblings)),
        }
    }
}

/// See [`Effect::Read`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadJob {
    /// Comes back in [`Input::Found`].
    pub job: JobId,
    /// Which record.
    pub key: Key,
    /// How much of it.
    pub want: Want,
}

/// The name of a hint. Hints of one owner, and of one place there, are one range of names, in the order of the writes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HintId {
    /// Who shall have it.
    pub owner: NodeId,
    /// Where its key falls.
    pub partition: PartitionId,
    /// The version's own epoch.
    pub epoch: Epoch,
    /// The version's clock.
    pub written: Hlc,
    /// The version's dot: tells equal clocks apart.
    pub dot: Dot,
}

/// A write kept for an owner that did not take it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint {
    /// Its name.
    pub id: HintId,
    /// Which record.
    pub key: Key,
    /// What to merge.
    pub version: Version,
    /// Dots that the version supersedes.
    pub past: Context,
    /// It counts towards the quorum of a write: it is there until the owner holds the version.
    pub counted: bool,
}

/// See [`Effect::Hint`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HintJob {
    /// Comes back in [`Input::Hinted`].
    pub job: JobId,
    /// What to do.
    pub work: HintWork,
}

/// What is done with hints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HintWork {
    /// Say how many there are: asked once, before anything else.
    Count,
    /// Keep one, as durable as that.
    Keep(Hint, Durability),
    /// Read the next ones of an owner.
    Load {
        /// Whose.
        owner: NodeId,
        /// The last one that was read; `None`: from the start.
        after: Option<HintId>,
        /// Most hints.
        count_max: usize,
        /// Most bytes, but one hint at least.
        bytes_max: usize,
    },
    /// Remove these.
    Drop(Vec<HintId>),
    /// Remove some of an owner.
    Forget {
        /// Whose.
        owner: NodeId,
    },
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HintOutcome {
    /// What is there per owner.
    Counted(BTreeMap<NodeId, HintCount>),
    /// Kept, or removed.
    Done,
    /// The next ones; none of either: there are no more.
    Loaded {
        /// In order.
        hints: Vec<Hint>,
        /// Those between them that can't be read.
        damaged: Vec<HintId>,
    },
    /// Some were removed.
    Forgotten {
        /// True when there may be more.
        more: bool,
    },
    /// The store could not: nothing was done.
    Refused(Refused),
}

/// What is owed to one owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HintCount {
    /// Hints.
    pub count: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// No hint is older than this clock. It moves on when all that was owed is paid.
    pub oldest: Hlc,
    /// Hints among them that counted towards the quorum of a write.
    pub counted: u64,
}

/// See [`Effect::Scrub`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScrubJob {
    /// Comes back in [`Input::Scrubbed`].
    pub job: JobId,
    /// What to do.
    pub work: ScrubWork,
}

/// What is done with records that nobody asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScrubWork {
    /// Compare records with the sums kept, from this bucket of a partition on, as many as are looked at in one go.
    /// Records may change meanwhile.
    Look {
        /// Which partition.
        partition: PartitionId,
        /// The first bucket.
        bucket: u16,
    },
    /// Compare one bucket for certain, and set its sums right.
    Check {
        /// Which partition.
        partition: PartitionId,
        /// Which bucket.
        bucket: u16,
    },
    /// Put what the other owners hold in the place of a damaged record.
    Mend {
        /// Which record.
        key: Key,
        /// What they hold; empty: nothing.
        record: Record,
    },
}

impl ScrubWork {
    /// True for work that must be done by whoever carries out [`Effect::Write`], between two groups.
    #[must_use]
    pub const fn is_for_the_writer(&self) -> bool {
        match self {
            Self::Look { .. } => false,
            Self::Check { .. } | Self::Mend { .. } => true,
        }
    }
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScrubOutcome {
    /// See [`ScrubWork::Look`].
    Looked(Looked),
    /// See [`ScrubWork::Check`].
    Checked(Checked),
    /// The record is what the other owners hold, and is served again.
    Mended,
    /// The engine can't read this bucket: its file is damaged.
    Unreadable {
        /// Which one.
        bucket: u16,
    },
    /// The store could not now; nothing was done.
    Failed,
}

/// What a look at some buckets saw.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Looked {
    /// Records looked at.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where the next look goes on; `None`: this was the end of the partition.
    pub next: Option<u16>,
    /// Buckets that seemed wrong; a write that came meanwhile may be all that it is.
    pub suspects: Vec<u16>,
}

/// What a check of one bucket found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// Records looked at.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Engine keys of records that are damaged. They stay where they are, and are not served.
    pub damaged: Vec<Bytes>,
    /// Sums were not those of the records: the disk lost or changed something, whether or not it is known what.
    pub differed: bool,
}

/// See [`Effect::Move`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MoveJob {
    /// Comes back in [`Input::Moved`].
    pub job: JobId,
    /// What to do.
    pub work: MoveWork,
}

/// What is done for partitions that move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MoveWork {
    /// Make everything that was written so far survive a power cut.
    Flush,
    /// Say of which partitions there are records here.
    Survey,
    /// Remove what is here of a partition, a part at a time.
    Drop {
        /// Which partition.
        partition: PartitionId,
        /// Only keyspaces of fewer copies; `None`: all of it at once.
        below: Option<u8>,
        /// Only engine keys after this one; empty: from the start.
        after: Bytes,
    },
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MoveOutcome {
    /// See [`MoveWork::Flush`].
    Flushed,
    /// Each partition with the copies of a keyspace that it has records of.
    Surveyed(Vec<(PartitionId, u8)>),
    /// See [`MoveWork::Drop`].
    Dropped {
        /// Records that were removed one by one.
        records: u64,
        /// Where to go on; `None`: nothing is left.
        next: Option<Bytes>,
    },
    /// The store could not; nothing was done.
    Failed,
}

/// See [`Effect::Seal`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealJob {
    /// Comes back in [`Input::Sealed`].
    pub job: JobId,
    /// What to do.
    pub work: SealWork,
}

/// What is done for seals.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SealWork {
    /// Say up to where each partition was purged: asked once, before anything else.
    Marks,
    /// Say whether any hint of this epoch is kept, or of one before. If not, make that survive a power cut.
    Drain {
        /// The epoch.
        epoch: Epoch,
    },
    /// Make everything that was written so far survive a power cut.
    Flush,
    /// Remove tombstones.
    Purge(Purge),
}

/// A part of a purge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Purge {
    /// Of which partition.
    pub partition: PartitionId,
    /// What its seal covers.
    pub seal: Mark,
    /// Keyspaces in which the last write wins: of others nothing is removed.
    pub keyspaces: Vec<KeyspaceId>,
    /// All records are looked at, for want of a mark.
    pub whole: bool,
    /// Only keys after this one; empty: from the start.
    pub after: Bytes,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SealOutcome {
    /// See [`SealWork::Marks`]: where there is none, the partition was never purged.
    Marks(Vec<(PartitionId, Mark)>),
    /// No such hint is kept.
    Drained {
        /// The least stamp of all that are.
        least: Option<Hlc>,
    },
    /// One is, for this owner.
    Keeps(NodeId),
    /// See [`SealWork::Flush`].
    Flushed,
    /// See [`SealWork::Purge`].
    Purged {
        /// Records that were removed.
        removed: u64,
        /// Where to go on; `None`: nothing is left, and the mark says so.
        next: Option<Bytes>,
    },
    /// The store could not; nothing was done.
    Failed,
}
