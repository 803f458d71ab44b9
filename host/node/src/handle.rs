//! How the surfaces (gRPC, HTTP) talk to the one pump that runs the node's logic.

use crate::epoch_log::EpochLog;
use crate::metrics::Metrics;
use crate::plugins::Plugins;
use crate::token::{Seals, Tokens};
use arc_swap::ArcSwap;
use mks_logic::cluster::State;
use mks_logic::event::{HintCount, OpError, Reply, Request};
use mks_logic::id::{Incarnation, NodeId, PartitionId};
use mks_logic::limits::Limits;
use mks_logic::moves::Moving;
use mks_logic::node::{DiskFault, ScrubFigures, Sealing, SyncFigures};
use mks_logic::port::{ResolverHash, Role, Store, StoreStats};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Where a reply goes.
#[derive(Debug)]
pub enum Waiter {
    /// One caller waits for one reply.
    One(oneshot::Sender<Reply>),
    /// A session collects replies out of order under the client's own numbers.
    Session {
        /// The client's number of the operation.
        id: u64,
        /// What its reply's contexts are sealed with.
        seals: Seals,
        /// The session's outbox; its bound is the session's window.
        replies: mpsc::UnboundedSender<(u64, Seals, Reply)>,
    },
}

impl Waiter {
    /// Delivers the reply; a waiter that went away is no error.
    pub fn answer(self, reply: Reply) {
        match self {
            Self::One(sender) => drop(sender.send(reply)),
            Self::Session { id, seals, replies } => drop(replies.send((id, seals, reply))),
        }
    }
}

/// A request on its way to the pump.
#[derive(Debug)]
pub struct Call {
    /// What the client asks.
    pub request: Request,
    /// Who waits.
    pub waiter: Waiter,
}

/// An operator who wants everything equal now, on the way to the pump.
#[derive(Debug)]
pub struct RepairCall {
    /// Left out: all partitions that the node owns.
    pub partition: Option<PartitionId>,
    /// Told when it has begun: the figures of before, with what there is to do as `demanded`.
    pub started: oneshot::Sender<SyncFigures>,
}

/// An operator who wants to know now whether this node's disk holds what was written, on the way to the pump.
#[derive(Debug)]
pub struct ScrubCall {
    /// Left out: all partitions that the node owns.
    pub partition: Option<PartitionId>,
    /// Told when it has begun: the figures of before, with the partitions there are to look at as `demanded`.
    pub started: oneshot::Sender<ScrubFigures>,
}

/// What operators ask of the pump.
#[derive(Debug)]
pub enum OperatorCall {
    /// Compare with the other owners.
    Repair(RepairCall),
    /// Look at the disk.
    Scrub(ScrubCall),
}

/// What a node knows of another one, for status pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Who.
    pub node: NodeId,
    /// What gossip says.
    pub alive: bool,
    /// Whether the peer stream is up.
    pub linked: bool,
    /// Its hybrid clock minus our wall clock when its last frame arrived, milliseconds.
    pub clock_offset_ms: i64,
    /// Writes that this node keeps for it.
    pub owed: HintCount,
    /// Partitions of both that need a comparison, because writes are missing that no hint stands for.
    pub needs_sync: u32,
}

/// What the pump publishes about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PumpView {
    /// Ours; zero while the epoch log has not granted it.
    pub incarnation: Incarnation,
    /// Another member's clock was heard, if there is another one.
    pub hears_clocks: bool,
    /// All other members.
    pub peers: Vec<PeerView>,
    /// Operations that this node coordinates now.
    pub operations: u64,
    /// Comparisons with other owners.
    pub sync: SyncFigures,
    /// Looks at this node's own disk.
    pub scrub: ScrubView,
    /// Partitions on their way in or out of this node.
    pub moves: Vec<Moving>,
    /// How far it is with seals.
    pub sealing: Option<Sealing>,
    /// The change of the table that is under way.
    pub change: Option<ChangeView>,
}

/// Since when this node knows of a change, and how far that was then: from that follows when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeView {
    /// See [`mks_logic::cluster::Change::id`].
    pub id: u64,
    /// When this node heard of it.
    pub since: Instant,
    /// Partitions that were not cut over then.
    pub left_then: u32,
}

/// What a node found out about its own disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubView {
    /// In figures.
    pub figures: ScrubFigures,
    /// The latest lies of the disk, the oldest first.
    pub faults: Vec<DiskFault>,
}

/// How far a node is with the sums over its records: it serves when it has them.
#[derive(Debug, Default)]
pub struct Opening {
    records: AtomicU64,
    done: AtomicBool,
}

impl Opening {
    /// So many records were read.
    pub fn note(&self, records: u64) {
        self.records.store(records, Ordering::Relaxed);
    }

    /// They are there.
    pub fn finish(&self) {
        self.done.store(true, Ordering::Release);
    }

    /// Whether they are there.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Records that were read for them.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }
}

/// A running node, as its surfaces see it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    /// This node.
    pub node: NodeId,
    /// The bounds that requests are checked against.
    pub limits: Arc<Limits>,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// Cluster configuration: proposals and who leads.
    pub epoch_log: Arc<dyn EpochLog>,
    /// The latest state of the epoch log.
    pub state: Arc<ArcSwap<State>>,
    /// What the pump publishes a few times a second.
    pub view: Arc<ArcSwap<PumpView>>,
    /// The engine, for its figures only.
    pub store: Arc<dyn Store>,
    /// Name of the storage adapter that opened the engine.
    pub adapter: Arc<str>,
    /// Resolvers and data types that are part of this node.
    pub builtin: Arc<Vec<(String, ResolverHash, Role)>>,
    /// The plugins of this node.
    pub plugins: Arc<Plugins>,
    /// Seals and opens context tokens.
    pub tokens: Arc<Tokens>,
    /// The pump's front door; full means busy.
    pub calls: mpsc::Sender<Call>,
    /// Operators' way to the pump.
    pub operators: mpsc::Sender<OperatorCall>,
    /// The pump starts when this is done.
    pub opening: Arc<Opening>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Handle {
    /// What turns contexts in the reply to this request into tokens.
    #[must_use]
    pub fn seals(&self, request: &Request) -> Seals {
        Seals::of(&self.tokens, &self.state.load(), request)
    }

    /// Asks and waits. The pump answers every request within its deadline.
    ///
    /// # Errors
    /// Those of the operation; [`OpError::Busy`] when the front door is full or the node is stopping.
    pub async fn call(&self, request: Request) -> Reply {
        let (sender, receiver) = oneshot::channel();
        self.submit(request, Waiter::One(sender));
        receiver.await.unwrap_or(Err(OpError::Busy { operations: 0 }))
    }

    /// Asks on behalf of `waiter`, which is answered exactly once, at once if the front door is full.
    pub fn submit(&self, request: Request, waiter: Waiter) {
        // The pump starts when the cluster is known: before that nobody would answer.
        if let Some((joined, expected)) = self.state.load().forming() {
            waiter.answer(Err(OpError::Forming { joined, expected }));
            return;
        }
        if !self.opening.is_done() {
            waiter.answer(Err(OpError::NotAdmitted));
            return;
        }
        if let Err(refused) = self.calls.try_send(Call { request, waiter }) {
            let (mpsc::error::TrySendError::Full(call) | mpsc::error::TrySendError::Closed(call)) = refused;
            call.waiter.answer(Err(OpError::Busy { operations: self.calls.max_capacity() as u64 }));
        }
    }

    /// Starts a comparison with every other owner: [`RepairCall::started`]. `None` when too many want that at the same
    /// time, or the node is stopping.
    pub async fn repair(&self, partition: Option<PartitionId>) -> Option<SyncFigures> {
        let (started, figures) = oneshot::channel();
        self.operators.try_send(OperatorCall::Repair(RepairCall { partition, started })).ok()?;
        figures.await.ok()
    }

    /// Starts a look at this node's own records: [`ScrubCall::started`]. `None` as for [`Self::repair`].
    pub async fn scrub(&self, partition: Option<PartitionId>) -> Option<ScrubFigures> {
        let (started, figures) = oneshot::channel();
        self.operators.try_send(OperatorCall::Scrub(ScrubCall { partition, started })).ok()?;
        figures.await.ok()
    }

    /// The engine's figures.
    #[must_use]
    pub fn store_stats(&self) -> StoreStats {
        self.store.stats()
    }
}
