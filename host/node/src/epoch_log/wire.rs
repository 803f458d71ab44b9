//! What the nodes of the epoch log say to each other, and the little that it needs from the network.
//!
//! Every message is one unary call: a kind, a body, an answer. Who may call at all is settled below, by the cluster
//! key. Raft's own messages name the cluster besides, so that a node that strayed in from another one changes nothing.

use super::codec::{CodecError, decode, encode};
use super::storage::TypeConfig;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use mks_logic::cluster::{Addresses, Applied, Entry, Refusal, State};
use mks_logic::id::{Incarnation, NodeId};
use openraft::error::{RPCError, RaftError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{BasicNode, RaftNetwork, RaftNetworkFactory};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A node that can't be reached is tried again after this long, milliseconds.
const UNREACHABLE_BACKOFF_MS: u64 = 200;

/// Calls to other nodes: the peer module does it over gRPC, tests in memory.
pub trait Wire: Send + Sync + 'static {
    /// Sends one call to `address` and waits for the answer, `timeout` at most.
    fn call<'a>(
        &'a self,
        address: &'a str,
        kind: Kind,
        body: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, WireError>>;
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It was never delivered: nothing happened there.
    #[error("can't reach {address}: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// As the network says it.
        reason: String,
    },
    /// No answer came in time: nobody knows what happened there.
    #[error("no answer in time")]
    Timeout,
    /// The other node answered with an error: see [`ServeError`].
    #[error("{0}")]
    Refused(String),
}

/// What the body of a call is. The numbers are part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Raft: entries, or a heartbeat.
    Append = 1,
    /// Raft: a candidate asks for a vote.
    Vote = 2,
    /// Raft: a piece of a snapshot.
    Snapshot = 3,
    /// An entry on its way to the leader.
    Propose = 4,
    /// A node wants in, for the first time or again.
    Join = 5,
    /// Who are you?
    Status = 6,
}

impl TryFrom<u32> for Kind {
    type Error = ServeError;

    fn try_from(kind: u32) -> Result<Self, ServeError> {
        let all = [Self::Append, Self::Vote, Self::Snapshot, Self::Propose, Self::Join, Self::Status];
        all.into_iter().find(|known| *known as u32 == kind).ok_or(ServeError::UnknownKind(kind))
    }
}

/// Reads `body` as a call of this kind and forgets it: for those who try bytes that nobody would send.
///
/// # Errors
/// [`ServeError::Malformed`].
#[doc(hidden)]
pub fn try_read(kind: Kind, body: &[u8]) -> Result<(), ServeError> {
    fn read<T: DeserializeOwned>(body: &[u8]) -> Result<(), ServeError> {
        Ok(decode::<T>("control message", body).map(drop)?)
    }
    match kind {
        Kind::Append => read::<Sealed<AppendEntriesRequest<TypeConfig>>>(body),
        Kind::Vote => read::<Sealed<VoteRequest<u64>>>(body),
        Kind::Snapshot => read::<Sealed<InstallSnapshotRequest<TypeConfig>>>(body),
        Kind::Propose => read::<Propose>(body),
        Kind::Join => read::<Join>(body),
        Kind::Status => Ok(()),
    }
}

/// Why a call was not served. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// A kind that this version does not know.
    #[error("unknown control message of kind {0}; is the other node of a newer version?")]
    UnknownKind(u32),
    /// The body is no message of that kind.
    #[error("malformed control message: {0}")]
    Malformed(String),
    /// The body is larger than any honest one.
    #[error("a control message of {bytes} bytes, the limit is {max}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The sender belongs to another cluster, or this node to none yet.
    #[error("this node belongs to {ours}, the message to {theirs}")]
    OtherCluster {
        /// For people.
        ours: String,
        /// For people.
        theirs: String,
    },
    /// More calls than this node serves at a time.
    #[error("busy with {0} control calls, try again")]
    Busy(usize),
    /// Raft can't go on here.
    #[error("the epoch log of this node has stopped: {0}")]
    Stopped(String),
}

impl From<CodecError> for ServeError {
    fn from(error: CodecError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// A message between members: whose cluster, and what.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sealed<T> {
    pub(super) cluster: u128,
    pub(super) message: T,
}

/// See [`Kind::Propose`]. It is not handed on again: one hop, or the sender asks somebody else.
pub(super) type Propose = Sealed<Entry>;

/// The answer to [`Kind::Propose`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Proposed {
    /// The entry is in the log at `index`, and this is what applying it gave.
    Applied { result: Result<Applied, Refusal>, index: u64 },
    /// Not the leader, or a leader without a majority. The entry is not in the log.
    NotNow,
    /// It is in the log of a leader that could not confirm it in time.
    Unconfirmed,
}

/// See [`Kind::Join`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Join {
    /// Zero for a directory that belongs to none yet.
    pub(super) cluster: u128,
    pub(super) node: NodeId,
    pub(super) directory: u128,
    pub(super) opening: u128,
    pub(super) addresses: Addresses,
    pub(super) zone: String,
    pub(super) weight: u32,
    /// It came through a member that is not the leader, and is not handed on again.
    pub(super) handed_on: bool,
    /// See [`mks_logic::cluster::Member::opened`].
    pub(super) opened: u64,
}

/// The answer to [`Kind::Join`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Joined {
    /// In.
    In { cluster: u128, incarnation: Incarnation },
    /// Never, and why.
    Refused(Refused),
    /// Not yet, and why.
    Later(String),
}

/// Why a node can't join, whatever it tries.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
pub(super) enum Refused {
    #[error(
        "this data directory belongs to cluster {theirs:032x}, the nodes it was told to join are cluster {ours:032x}; \
         give the node an empty directory, or the addresses of its own cluster"
    )]
    OtherCluster { ours: u128, theirs: u128 },
    #[error(transparent)]
    Entry(#[from] Refusal),
}

/// The answer to [`Kind::Status`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Status {
    pub(super) node: NodeId,
    /// Zero: none yet.
    pub(super) cluster: u128,
}

/// The network as openraft sees it.
pub(super) struct Network {
    pub(super) wire: Arc<dyn Wire>,
    /// Ours; zero while we have none, when nothing is sent.
    pub(super) cluster: watch::Receiver<u128>,
    pub(super) state: watch::Receiver<Arc<State>>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Connection {
        Connection {
            wire: Arc::clone(&self.wire),
            cluster: self.cluster.clone(),
            state: self.state.clone(),
            target: NodeId(target),
            first_address: node.addr.clone(),
        }
    }
}

/// Calls from Raft to one other node.
pub(super) struct Connection {
    wire: Arc<dyn Wire>,
    cluster: watch::Receiver<u128>,
    state: watch::Receiver<Arc<State>>,
    target: NodeId,
    /// As Raft's membership has it: used until the state knows better.
    first_address: String,
}

type CallError<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl Connection {
    async fn call<M, A, E>(&self, kind: Kind, message: M, option: &RPCOption) -> Result<A, CallError<E>>
    where
        M: Serialize,
        A: DeserializeOwned,
        E: std::error::Error,
    {
        let address = match self.state.borrow().members.get(&self.target) {
            Some(member) => member.addresses.peer.clone(),
            None => self.first_address.clone(),
        };
        let cluster = *self.cluster.borrow();
        let body = encode("control message", &Sealed { cluster, message }).map_err(|e| unreachable(&e))?;
        let answer = self.wire.call(&address, kind, body, option.hard_ttl()).await;
        decode("control answer", &answer.map_err(|e| unreachable(&e))?).map_err(|e| unreachable(&e))
    }
}

/// Whatever went wrong, Raft shall wait a moment and try again: all of its messages may be repeated.
fn unreachable<E: std::error::Error>(error: &(impl std::error::Error + 'static)) -> CallError<E> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl RaftNetwork<TypeConfig> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError> {
        self.call(Kind::Append, rpc, &option).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, CallError<openraft::error::InstallSnapshotError>> {
        self.call(Kind::Snapshot, rpc, &option).await
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, CallError> {
        self.call(Kind::Vote, rpc, &option).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(Duration::from_millis(UNREACHABLE_BACKOFF_MS)))
    }
}
