//! Everything that can wake a node, and everything it can do: two closed enums on one screen.

use crate::cluster::State;
use crate::exchange::{Found, Work};
use crate::id::{Incarnation, Key, NodeId, PartitionId};
use crate::message::{Message, ReadOutcome, Want, WriteOutcome};
use crate::port::{Durability, ResolverHash};
pub use crate::request::{Answer, Item, OpError, Operation, Reply, Request};
use crate::time::Hlc;
use crate::version::Version;
use alloc::sync::Arc;
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
    /// The epoch log moved on.
    Cluster(Arc<State>),
    /// [`crate::node::Node::next_wake`] has come.
    Tick,
    /// A comparison's reading is done: see [`Effect::Compare`].
    Compared { job: JobId, found: Found },
    /// An operator wants this partition (`None`: all) compared with its other owners now, its open epoch as well.
    Repair { partition: Option<PartitionId> },
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
    /// Tell the client.
    Reply { ticket: Ticket, reply: Reply },
    /// Read for a comparison with another owner: `sync::found`, then [`Input::Compared`].
    Compare { job: JobId, work: Work },
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
    /// Refuse it if the record holds a later stamp.
    pub fresh: bool,
    /// What must be true before [`Input::Written`].
    pub durability: Durability,
    /// The code that settles siblings of this keyspace.
    pub resolver: ResolverHash,
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
