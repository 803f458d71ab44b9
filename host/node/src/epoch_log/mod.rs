//! The replicated log of cluster configuration. Everybody else sees the trait [`EpochLog`]; Raft is behind it.
//!
//! openraft is named in this folder only. In reading order: [`storage`] keeps Raft's log, vote, state and snapshots in
//! the node's own store; [`wire`] says what nodes send each other; [`raft_log`] is the log itself; `admission` brings a
//! node in, for the first time or again; `steward` is what the leader does unasked.
//!
//! What is absent: data. A key, a value or a hint never enters this log.

mod admission;
mod codec;
mod identity;
pub mod raft_log;
mod steward;
pub mod storage;
pub mod wire;

pub use identity::Identity;
pub use raft_log::{Fence, Options, RaftLog, StartError, Timing};
pub use wire::{Kind, ServeError, Wire, WireError};

use futures_util::future::BoxFuture;
use mks_logic::cluster::{Applied, Entry, Refusal, State};
use mks_logic::id::NodeId;
use std::sync::Arc;
use tokio::sync::watch;

/// The log, as the rest of the node sees it: the same entries in the same order on every member.
pub trait EpochLog: Send + Sync {
    /// Adds an entry, from any node: it finds the leader itself. Returns when the entry is applied here.
    fn propose(&self, entry: Entry) -> BoxFuture<'_, Result<Applied, ProposeError>>;

    /// The latest state, now and whenever it changes.
    fn watch(&self) -> watch::Receiver<Arc<State>>;

    /// For status pages.
    fn status(&self) -> LogStatus;
}

/// See [`EpochLog::status`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// Who leads; `None` while nobody does.
    pub leader: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// Index of the last entry applied here.
    pub applied: u64,
    /// Members whose votes count.
    pub voters: Vec<NodeId>,
    /// Members that only follow.
    pub learners: Vec<NodeId>,
}

/// Why an entry did not make it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The state machine said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No majority of voters answers; reads and writes of data go on, configuration waits.
    #[error(
        "no leader: a majority of the voters ({voters:?}) must be up to change the configuration; data is still served"
    )]
    NoLeader {
        /// Whose majority is missing.
        voters: Vec<NodeId>,
    },
    /// It took too long; the entry may still be applied later.
    #[error("the configuration change was not confirmed in time and may still happen; check before asking again")]
    Timeout,
}
