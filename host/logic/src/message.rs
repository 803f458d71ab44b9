//! What nodes say to each other about data. How it travels is the business of the room above.

use crate::context::Context;
use crate::exchange::{SyncAnswer, SyncAsk};
use crate::id::{Epoch, Incarnation, Key, NodeId};
use crate::port::{Durability, TypeError};
use crate::record::Record;
use crate::request::{Reply, Request};
use crate::time::Hlc;
use crate::version::Version;
use bytes::Bytes;

/// Matches an answer to its question. Chosen by whoever asks, meaningless to whoever answers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tag(pub u64);

/// One message. The clock of the sender rides on every frame, beside the messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Coordinator to owner: merge this version into your record.
    Write {
        /// Comes back in [`Message::Written`].
        tag: Tag,
        /// Which record.
        key: Key,
        /// What to merge.
        version: Version,
        /// Dots that the version supersedes.
        past: Context,
        /// A client's write of this moment: refuse it if the record holds a later stamp.
        fresh: bool,
        /// What the answer must promise.
        durability: Durability,
    },
    /// Coordinator to a node that does not own the key: keep this write for an owner that is away, and hand it over.
    Keep {
        /// Comes back in [`Message::Written`].
        tag: Tag,
        /// Who shall have it in the end.
        owner: NodeId,
        /// Which record.
        key: Key,
        /// What to merge.
        version: Version,
        /// Dots that the version supersedes.
        past: Context,
        /// What the answer must promise.
        durability: Durability,
    },
    /// The answer.
    Written {
        /// From the question.
        tag: Tag,
        /// What the owner, or the node that stands in for it, did.
        outcome: WriteOutcome,
    },
    /// Coordinator to owner: what do you hold?
    Read {
        /// Comes back in [`Message::Found`].
        tag: Tag,
        /// Which record.
        key: Key,
        /// The coordinator's epoch.
        epoch: Epoch,
        /// How much of it.
        want: Want,
    },
    /// The answer.
    Found {
        /// From the question.
        tag: Tag,
        /// What the owner holds.
        outcome: ReadOutcome,
    },
    /// A node that does not own the key hands the client's request to one that does. Forwarded once, never twice.
    Forward {
        /// Comes back in [`Message::Forwarded`].
        tag: Tag,
        /// What the client asked.
        request: Request,
        /// How long the client will still wait, milliseconds.
        remaining_ms: u64,
        /// Whoever knows what became of it, if it was sent before: this opening of the other node and no later one, or
        /// nothing is done. Zero: any.
        incarnation: Incarnation,
    },
    /// The answer.
    Forwarded {
        /// From the question.
        tag: Tag,
        /// What the client shall hear.
        reply: Reply,
    },
    /// Owner to owner: let us compare what we hold. See the module `sync`.
    Sync {
        /// Comes back in [`Message::Synced`].
        tag: Tag,
        /// The question.
        ask: SyncAsk,
    },
    /// The answer.
    Synced {
        /// From the question.
        tag: Tag,
        /// The answer.
        answer: SyncAnswer,
    },
}

impl Message {
    /// True when somebody waits for it on the other side, and asks again if it does not come.
    #[must_use]
    pub const fn is_answer(&self) -> bool {
        match self {
            Self::Written { .. } | Self::Found { .. } | Self::Forwarded { .. } | Self::Synced { .. } => true,
            Self::Write { .. } | Self::Keep { .. } | Self::Read { .. } => false,
            Self::Forward { .. } | Self::Sync { .. } => false,
        }
    }
}

/// How much of a record a read wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// All of it.
    Record,
    /// Its hash, to be compared with another owner's record.
    Digest,
}

/// What an owner did with a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteOutcome {
    /// The version, or one that supersedes it, is in the record, at the durability asked for.
    Held,
    /// The same of this node's own disk, which gave the version its counter. No peer ever says this.
    Minted {
        /// See [`crate::id::Dot::counter`].
        counter: u64,
    },
    /// The same of an operation on a data type: this is what it became. No peer ever says this.
    Applied {
        /// See [`crate::id::Dot::counter`].
        counter: u64,
        /// The new state.
        state: Bytes,
        /// What the operation saw, there and at its coordinator: its version takes the place of that.
        past: Context,
        /// What the client is told.
        reply: Option<Bytes>,
    },
    /// The data type did not do the operation: nothing was written. No peer ever says this.
    NotApplied(TypeError),
    /// The record holds a later stamp than this fresh write: not an ack, write again above it.
    StaleStamp {
        /// The latest stamp there.
        latest: Hlc,
    },
    /// The write is from an epoch that is no longer taken.
    StaleEpoch {
        /// The owner's epoch.
        current: Epoch,
    },
    /// The owner can't, and says why. Nothing was written.
    Refused(Refused),
}

impl WriteOutcome {
    /// True when the owner has it.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        matches!(self, Self::Held | Self::Minted { .. } | Self::Applied { .. })
    }
}

/// What an owner found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadOutcome {
    /// The record; an absent one is the empty record.
    Record(Record),
    /// The hash of the record.
    Digest(u64),
    /// The read is from an epoch that is no longer taken, or from one in which this was an owner.
    StaleEpoch {
        /// The owner's epoch.
        current: Epoch,
    },
    /// The owner can't, and says why.
    Refused(Refused),
}

/// Why an owner did not do it. Nothing changed there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum Refused {
    /// It does not own the partition in its epoch.
    #[error("it does not own the partition")]
    NotOwner,
    /// It does not know the keyspace yet.
    #[error("it does not know the keyspace yet")]
    UnknownKeyspace,
    /// The stamp is further ahead of its clock, or its record's of the coordinator's, than is allowed.
    #[error("a stamp is too far ahead of a clock")]
    StampFromFuture,
    /// The value is not what the coordinator hashed.
    #[error("the value arrived damaged")]
    Damaged,
    /// Its queues are full.
    #[error("it is busy")]
    Busy,
    /// Its disk is full.
    #[error("its disk is full")]
    DiskFull,
    /// Its store failed.
    #[error("its store failed")]
    Store,
    /// The key holds as many siblings as are allowed: its writers do not say what they have seen, or its resolver
    /// fails.
    #[error("too many siblings")]
    TooManySiblings,
    /// So many openings of nodes wrote to the key, or left gaps in what is known of it, that no more are kept apart.
    #[error("the key's causal context is too large")]
    ContextTooLarge,
    /// The disk has damaged what it held of the key. The other owners' record will take its place.
    #[error("its record of the key is damaged")]
    DamagedRecord,
    /// Its epoch is closed: what there is of it lies on the owners' disks, and this is a late copy.
    #[error("it is a late copy of what all owners have settled")]
    Closed,
    /// It keeps as many writes for other nodes as it may.
    #[error("it keeps as many writes for other nodes as it may")]
    HintsFull,
}

impl Refused {
    /// True when the same question may meet a better answer later.
    #[must_use]
    pub fn passes(self) -> bool {
        match self {
            Self::UnknownKeyspace | Self::StampFromFuture | Self::Busy => true,
            Self::DiskFull | Self::Store | Self::DamagedRecord | Self::HintsFull => true,
            Self::NotOwner | Self::Damaged | Self::Closed => false,
            Self::TooManySiblings | Self::ContextTooLarge => false,
        }
    }
}
