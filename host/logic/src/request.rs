//! What clients ask and what they hear.

use crate::context::Context;
use crate::id::{Key, KeyspaceId};
use crate::port::{Durability, TypeError};
use crate::time::Hlc;
use crate::version::Version;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// What a client asks, with everything that it may choose per request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// R of a read or W of a write; `None`: the keyspace's.
    pub quorum: Option<u8>,
    /// For writes; `None`: the keyspace's.
    pub durability: Option<Durability>,
    /// How long the client waits, milliseconds; `None`: the node's default.
    pub deadline_ms: Option<u64>,
    /// For puts, milliseconds; `None`: the keyspace's, zero: for ever.
    pub ttl_ms: Option<u64>,
    /// Chosen by the client, so that sending a write again to the same node is answered and not applied again.
    pub request_id: Option<u128>,
    /// For a put or a delete in a causal keyspace: what its writer has seen, and supersedes. Items of a batch have
    /// their own. `None`: nothing.
    pub context: Option<Context>,
    /// For writes: other nodes may stand in for owners that are away, and count towards W (a sloppy quorum). Until they
    /// have handed the write over, a quorum read may miss it.
    pub sloppy: bool,
    /// Distinct zones that those who answer must lie in; a node without a zone is one by itself. `None`: any.
    pub node_confirms: Option<u8>,
}

impl Request {
    /// An operation with everything else left to the keyspace and the node.
    #[must_use]
    pub const fn new(operation: Operation) -> Self {
        Self {
            operation,
            quorum: None,
            durability: None,
            deadline_ms: None,
            ttl_ms: None,
            request_id: None,
            context: None,
            sloppy: false,
            node_confirms: None,
        }
    }
}

/// The operations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Store a value.
    Put { key: Key, value: Bytes },
    /// Read a value.
    Get { key: Key },
    /// Remove a value.
    Delete { key: Key },
    /// Several puts and deletes. Each item stands alone: there is no atomicity across keys.
    Batch { items: Vec<Item> },
    /// Change a value as the keyspace's data type knows to.
    Apply { key: Key, operation: Bytes },
    /// Ask the keyspace's data type about a value. The empty question asks for all of it.
    View { key: Key, question: Bytes },
}

impl Operation {
    /// The key, if it is about a single one.
    #[must_use]
    pub const fn key(&self) -> Option<&Key> {
        match self {
            Self::Put { key, .. } | Self::Get { key } | Self::Delete { key } => Some(key),
            Self::Apply { key, .. } | Self::View { key, .. } => Some(key),
            Self::Batch { .. } => None,
        }
    }

    /// True when it changes nothing.
    #[must_use]
    pub const fn reads(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::View { .. })
    }
}

/// One write of a batch: `None` deletes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// Which record.
    pub key: Key,
    /// The new value.
    pub value: Option<Bytes>,
    /// See [`Request::context`].
    pub context: Option<Context>,
}

/// What the client hears.
pub type Reply = Result<Answer, OpError>;

/// A good answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The write is on `acks` owners at least, and `hints` other nodes keep it for owners that do not have it.
    Written {
        /// Its stamp.
        written: Hlc,
        /// Owners that certainly hold it.
        acks: u8,
        /// In causal keyspaces what its writer knows now: what it had seen, and this write.
        context: Option<Context>,
        /// Other nodes that certainly keep it for an owner: zero, unless the request was sloppy.
        hints: u8,
    },
    /// What R owners agree on. No version: the key is absent. Several: siblings that no resolver settled.
    Found {
        /// Without tombstones and expired versions.
        versions: Vec<Version>,
        /// In causal keyspaces: what a reader of this has seen.
        context: Option<Context>,
    },
    /// The operation is on `acks` owners at least, and `hints` other nodes keep it for owners that do not have it.
    Applied {
        /// The stamp of its version.
        written: Hlc,
        /// Owners that certainly hold it.
        acks: u8,
        /// See [`Answer::Written`].
        hints: u8,
        /// What the data type says. `None`: nothing, or the request was sent again and this is not known any more.
        reply: Option<Bytes>,
    },
    /// What the data type says of the value that R owners agree on; `None`: the key is absent.
    Viewed {
        /// In the type's own words.
        answer: Option<Bytes>,
    },
    /// One reply per item, in order.
    Batch {
        /// Each as if it had been asked alone.
        replies: Vec<Reply>,
    },
}

/// Why there is no good answer, and what was left behind.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpError {
    /// The cluster has no ring yet.
    #[error("the cluster is forming: {joined} of {expected} nodes have joined; try again shortly")]
    Forming { joined: u32, expected: u32 },
    /// This node may not write yet: the epoch log has not granted its incarnation, or it has not heard another member's
    /// clock since it started.
    #[error(
        "this node has just started and can't coordinate writes yet: it waits for its incarnation from the epoch log, or for \
         the clock of another node; ask another node"
    )]
    NotAdmitted,
    /// No such keyspace.
    #[error("there is no keyspace {0}")]
    UnknownKeyspace(KeyspaceId),
    /// The request contradicts itself or a limit.
    #[error("{0}")]
    Invalid(String),
    /// Beyond a limit of size.
    #[error("{what} is {bytes} bytes, the limit is {max}")]
    TooLarge { what: &'static str, bytes: u64, max: u64 },
    /// The node has as much to do as it can hold. Nothing was started.
    #[error("this node is busy with {operations} operations; nothing was written, try again later or ask another node")]
    Busy { operations: u64 },
    /// Not enough owners answered in time.
    #[error(
        "{acks} of the {needed} owners needed (of {owners}) answered in time{}; {}",
        stand_ins(*.hints),
        if *.write { "a write may be on more of them, sending it again with the same request id to this node is safe" }
        else { "nothing was changed" }
    )]
    Timeout { write: bool, acks: u8, needed: u8, owners: u8, hints: u8 },
    /// So many owners refused that the quorum cannot be reached.
    #[error(
        "only {acks} of the {needed} owners needed (of {owners}) did it{}, the others refused ({refused}); {}",
        stand_ins(*.hints),
        if *.write { "the write is on those" } else { "nothing was changed" }
    )]
    QuorumLost { write: bool, acks: u8, needed: u8, owners: u8, hints: u8, refused: String },
    /// A write that says nothing of what it has seen, where it must.
    #[error(
        "a delete in this keyspace removes what its writer has seen and nothing else: read the key, and send the \
         delete with the context of that answer; nothing was removed"
    )]
    ContextNeeded,
    /// The key has as many siblings as it may.
    #[error(
        "the key has {max} siblings, and no more are kept: {} ({})",
        unsettled(*.causal),
        if *.acks == 0 { "nothing was written".into() } else { alloc::format!("this write is on {acks} owners") }
    )]
    TooManySiblings { max: u32, acks: u8, needed: u8, owners: u8, causal: bool },
    /// The keyspace's data type did not do it. Nothing was written.
    #[error("{error}; nothing was written")]
    Type { error: TypeError },
    /// In a causal keyspace the node that coordinates a write must take it first, and this one can't.
    #[error(
        "this owner can't take the write itself ({refused}), so it can't name it; nothing was written, ask another node"
    )]
    NotNamed { refused: String },
    /// No owner of the key can be reached from this node.
    #[error("no owner of this key can be reached from this node; nothing was written")]
    NoOwner,
    /// The same request id is being worked on.
    #[error(
        "a request with this id is still under way on this node; nothing new was started, ask again for its outcome"
    )]
    UnderWay,
    /// This node's clock and the others' differ by more than is allowed, so its stamps would be refused.
    #[error(
        "this node's clock is {offset_ms} ms off the other nodes' clocks; nothing was written, ask another node and mend the clock"
    )]
    ClockOff { offset_ms: i64 },
}

/// How siblings become one.
const fn unsettled(causal: bool) -> &'static str {
    if causal {
        "read it, settle them, and write with the context of that answer"
    } else {
        "the keyspace's resolver, which should have settled them, fails or is in quarantine, and `mks status` says so. \
         Alter the keyspace to another one, or let it run again: `mks plugin alter NAME --release`"
    }
}

/// What an error says of nodes that stand in for owners.
fn stand_ins(hints: u8) -> String {
    match hints {
        0 => String::new(),
        1 => ", and 1 other node keeps it for an owner".into(),
        hints => alloc::format!(", and {hints} other nodes keep it for owners"),
    }
}
