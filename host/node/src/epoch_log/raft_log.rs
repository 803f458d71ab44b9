//! The epoch log itself: starting it, proposing entries, answering other nodes.

use super::codec::{decode, encode};
use super::identity::{Identity, count_opening, random_name};
use super::storage::{LogStore, Machine, TypeConfig};
use super::wire::{Join, Kind, Network, Propose, Proposed, Sealed, ServeError, Status, Wire, WireError};
use super::{EpochLog, LogStatus, ProposeError};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use mks_logic::cluster::{Addresses, Applied, Entry, Refusal, Standing, State, VOTERS_MAX};
use mks_logic::id::NodeId;
use mks_logic::port::{ResolverHash, Store, StoreError};
use openraft::error::{ClientWriteError, RaftError};
use openraft::raft::InstallSnapshotRequest;
use openraft::{BasicNode, Config, Raft, RaftMetrics, ServerState, SnapshotPolicy};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{error, info, warn};

/// Proposals and joins that one node serves at the same time; the rest hear "busy".
const SERVED_MAX: usize = 64;
/// Largest honest control message, bytes: a piece of a snapshot, or an entry with a ring of 16,384 x 5 owners.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Largest snapshot that a node takes, bytes. The largest state (rings, members and keyspaces at their limits) is 2
/// MiB.
const SNAPSHOT_BYTES_MAX: u64 = 16 << 20;
/// One piece of a snapshot on the wire, bytes.
const SNAPSHOT_PIECE_BYTES: u64 = 1 << 20;
/// Entries between two snapshots, and entries kept behind a snapshot for followers that lag.
const SNAPSHOT_EVERY: u64 = 500;
const ENTRIES_KEPT: u64 = 200;
/// How long a proposal looks for a leader, and waits for its answer.
const LEADER_WAIT: Duration = Duration::from_secs(6);
const CONFIRM_WAIT: Duration = Duration::from_secs(6);
/// A leader that heard no majority for this long takes no proposals.
const QUORUM_SILENCE_MAX_MS: u64 = 3_000;
/// Pause between two looks for a leader.
const RETRY: Duration = Duration::from_millis(100);

/// What a log needs to start.
pub struct Options {
    /// This node.
    pub node: NodeId,
    /// Its store: the log lies in [`mks_logic::port::Table::Log`] and the identity in `Meta`.
    pub store: Arc<dyn Store>,
    /// Calls to other nodes.
    pub wire: Arc<dyn Wire>,
    /// Where this node listens, as other nodes shall call it.
    pub addresses: Addresses,
    /// See [`mks_logic::cluster::Member::zone`].
    pub zone: String,
    /// See [`mks_logic::cluster::Member::weight`].
    pub weight: u32,
    /// With an empty data directory: found a cluster. With any other it has no effect.
    pub bootstrap: bool,
    /// Peer addresses of any nodes of the cluster; our own may be among them.
    pub join: Vec<String>,
    /// Partitions of a cluster that is founded here: 2^bits.
    pub partition_bits: u8,
    /// Members that a cluster founded here waits for before it makes its ring.
    pub expect: u32,
    /// Name and code of the resolver of the first keyspace of a cluster founded here.
    pub resolver: (String, ResolverHash),
    /// How long one slice of writes lasts; the leader ends it.
    pub epoch_period: Duration,
    /// While this node leads, whoever joins a formed cluster is accepted at once.
    pub auto_accept: bool,
    /// Raft's clockwork.
    pub timing: Timing,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("node", &self.node).field("join", &self.join).finish_non_exhaustive()
    }
}

/// Raft's clockwork, milliseconds. The defaults bear two busy cores and a slow disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats. Also what one call to append entries may take.
    pub heartbeat_ms: u64,
    /// Shortest silence after which a follower stands for election.
    pub election_ms: u64,
    /// The silence is drawn from a window this wide.
    pub election_window_ms: u64,
    /// Each rank waits this much longer, so that two nodes seldom stand at the same moment.
    pub stagger_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat_ms: 200, election_ms: 700, election_window_ms: 300, stagger_ms: 100 }
    }
}

/// Why a log did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The directory is somebody else's.
    #[error("this data directory belongs to node {}, not to node {}; use the id or the directory that fits", .directory_of.0, .node.0)]
    OtherNode {
        /// Whose it is.
        directory_of: NodeId,
        /// Who we are.
        node: NodeId,
    },
    /// An empty directory, and nothing was said about what to do with it.
    #[error(
        "the data directory is empty and belongs to no cluster; start the first node with --bootstrap and all others \
         with --join and the address of any node"
    )]
    NoCluster,
    /// The nodes that it was told to join are of another cluster.
    #[error(
        "this data directory belongs to cluster {ours:032x}, and {address}, which it was told to join, to {theirs:032x}; \
         give the node an empty directory, or addresses of its own cluster"
    )]
    OtherCluster {
        /// Who said so.
        address: String,
        /// Ours.
        ours: u128,
        /// Theirs.
        theirs: u128,
    },
    /// A second cluster would be founded beside the one that is there.
    #[error(
        "{address} belongs to the cluster {cluster:032x} already, and this data directory is empty: founding another \
         cluster would split yours; start without --bootstrap to join it"
    )]
    AlreadyFounded {
        /// Who said so.
        address: String,
        /// Which one.
        cluster: u128,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gave no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Entropy(String),
    /// Raft refused.
    #[error("the epoch log can't start: {0}")]
    Raft(String),
}

/// The epoch log over Raft: see [`EpochLog`]. It runs until [`RaftLog::shutdown`] or until it is dropped.
pub struct RaftLog {
    core: Arc<Core>,
    tasks: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for RaftLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftLog").field("node", &self.core.options.node).finish_non_exhaustive()
    }
}

/// What the log and its tasks share.
pub(super) struct Core {
    pub(super) options: Options,
    pub(super) raft: Raft<TypeConfig>,
    pub(super) state: watch::Receiver<Arc<State>>,
    pub(super) identity: Mutex<Identity>,
    /// The cluster of [`Self::identity`], for those who wait for it. Zero: none yet.
    pub(super) cluster: watch::Sender<u128>,
    /// Random name of this process's opening of the data directory.
    pub(super) opening: u128,
    /// How often the data directory was opened, this time included.
    pub(super) opened: u64,
    /// Joins go through the leader one at a time.
    pub(super) admissions: tokio::sync::Mutex<()>,
    fenced: watch::Sender<Option<Fence>>,
    served: Semaphore,
}

/// Why this process must not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fence {
    /// Its operator asked for it: the node has handed over what it held, and is no member any more.
    #[error(
        "{0} has left this cluster, and other nodes hold everything that it held; its data directory is of no use any more"
    )]
    Left(NodeId),
    /// Something is wrong: another process has its id or directory, it was refused, or the log can't go on.
    #[error("{0}")]
    MustStop(String),
}

/// Why a leader's write was not confirmed.
pub(super) enum WriteError {
    /// Not the leader, or without a majority: the entry is not in the log.
    NotNow,
    /// Nobody knows.
    Unconfirmed,
}

impl RaftLog {
    /// Opens the log of a data directory and starts to take part: founds a cluster, joins one, or comes back to its
    /// own.
    ///
    /// Returns at once with the state that the disk holds; joining goes on in the background until it works or is
    /// refused for good, which [`RaftLog::fenced`] tells. Calls from other nodes go to [`RaftLog::serve`].
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(options: Options) -> Result<Arc<Self>, StartError> {
        let mut identity = Identity::open(options.store.as_ref(), options.node)?;
        if identity.cluster == 0 {
            if options.bootstrap {
                if let Some((address, cluster)) = other_cluster(&options, 0).await {
                    return Err(StartError::AlreadyFounded { address, cluster });
                }
                identity = Identity { cluster: random_name()?, founder: true, ..identity };
                identity.save(options.store.as_ref())?;
            } else if options.join.iter().all(|address| *address == options.addresses.peer) {
                return Err(StartError::NoCluster);
            }
        } else if let Some((address, theirs)) = other_cluster(&options, identity.cluster).await {
            return Err(StartError::OtherCluster { address, ours: identity.cluster, theirs });
        }
        let opened = count_opening(options.store.as_ref())?;
        let log = LogStore::open(Arc::clone(&options.store)).await?;
        let machine = Machine::open(Arc::clone(&options.store)).await?;
        let state = machine.watch();
        let cluster = watch::Sender::new(identity.cluster);
        let network = Network { wire: Arc::clone(&options.wire), cluster: cluster.subscribe(), state: state.clone() };
        let config = config(&options, &state.borrow())?;
        let raft = Raft::new(options.node.0, Arc::new(config), network, log, machine)
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        if identity.founder && !raft.is_initialized().await.map_err(|error| StartError::Raft(error.to_string()))? {
            let first = BasicNode::new(options.addresses.peer.clone());
            let members = std::collections::BTreeMap::from([(options.node.0, first)]);
            raft.initialize(members).await.map_err(|error| StartError::Raft(error.to_string()))?;
            info!(cluster = format!("{:032x}", identity.cluster), "founding a cluster");
        }
        let core = Arc::new(Core {
            options,
            raft,
            state,
            identity: Mutex::new(identity),
            cluster,
            opening: random_name()?,
            opened,
            admissions: tokio::sync::Mutex::new(()),
            fenced: watch::Sender::new(None),
            served: Semaphore::new(SERVED_MAX),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(super::admission::join(Arc::clone(&core)));
        tasks.spawn(super::steward::run(Arc::clone(&core)));
        tasks.spawn(watch_fences(Arc::clone(&core)));
        Ok(Arc::new(Self { core, tasks: Mutex::new(tasks) }))
    }

    /// Answers a call of another node; `from` is its address, for the log.
    ///
    /// # Errors
    /// [`ServeError`] when the call makes no sense here; nothing changed then. Count it, and tell the caller.
    pub async fn serve(&self, from: &str, kind: u32, body: Bytes) -> Result<Bytes, ServeError> {
        let answer = self.core.serve(Kind::try_from(kind)?, body).await;
        if let Err(error) = &answer {
            tracing::debug!(from, kind, %error, "a control call was refused");
        }
        answer.map(Bytes::from)
    }

    /// Random name of this process's opening of the data directory: compare with
    /// [`mks_logic::cluster::Member::opening`] to know whether our incarnation is granted.
    #[must_use]
    pub fn opening(&self) -> u128 {
        self.core.opening
    }

    /// Who the data directory is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.core.identity()
    }

    /// `Some` once this process must stop. It never goes back to `None`.
    #[must_use]
    pub fn fenced(&self) -> watch::Receiver<Option<Fence>> {
        self.core.fenced.subscribe()
    }

    /// Stops taking part. What was confirmed is on the disk; nothing else is lost.
    pub async fn shutdown(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        if let Err(error) = self.core.raft.shutdown().await {
            warn!(%error, "the epoch log did not stop cleanly");
        }
    }
}

impl EpochLog for RaftLog {
    fn propose(&self, entry: Entry) -> BoxFuture<'_, Result<Applied, ProposeError>> {
        Box::pin(self.core.propose(entry))
    }

    fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.core.state.clone()
    }

    fn status(&self) -> LogStatus {
        let metrics = self.core.metrics();
        let membership = metrics.membership_config.membership();
        LogStatus {
            leader: metrics.current_leader.map(NodeId),
            term: metrics.current_term,
            applied: metrics.last_applied.map_or(0, |applied| applied.index),
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
        }
    }
}

impl Core {
    pub(super) fn metrics(&self) -> RaftMetrics<u64, BasicNode> {
        self.raft.metrics().borrow().clone()
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers the cluster that took us in; from now on Raft's messages of that cluster are taken.
    pub(super) async fn adopt(self: &Arc<Self>, cluster: u128) -> Result<(), StoreError> {
        let identity = Identity { cluster, ..self.identity() };
        let (store, saved) = (Arc::clone(&self.options.store), identity.clone());
        tokio::task::spawn_blocking(move || saved.save(store.as_ref()))
            .await
            .unwrap_or_else(|error| Err(StoreError::Fatal(error.to_string())))?;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
        self.cluster.send_replace(cluster);
        Ok(())
    }

    /// This process must stop.
    pub(super) fn fence(&self, fence: Fence) {
        self.fenced.send_if_modified(|fenced| {
            let first = fenced.is_none();
            if first {
                match &fence {
                    Fence::Left(_) => info!("{fence}"),
                    Fence::MustStop(_) => error!("this node must stop: {fence}"),
                }
                *fenced = Some(fence);
            }
            first
        });
    }

    pub(super) fn is_leader(&self) -> bool {
        self.metrics().state == ServerState::Leader
    }

    /// Where the leader listens, unless it is this node or unknown.
    pub(super) fn leader_address(&self) -> Option<String> {
        let metrics = self.metrics();
        let leader = metrics.current_leader.filter(|&leader| leader != self.options.node.0)?;
        let known = self.state.borrow().members.get(&NodeId(leader)).map(|member| member.addresses.peer.clone());
        known.or_else(|| metrics.membership_config.membership().get_node(&leader).map(|node| node.addr.clone()))
    }

    /// Calls another node and reads its answer.
    pub(super) async fn call<A: DeserializeOwned>(
        &self,
        address: &str,
        kind: Kind,
        message: &impl Serialize,
        limit: Duration,
    ) -> Result<A, WireError> {
        let refused = |error: super::codec::CodecError| WireError::Refused(error.to_string());
        let body = encode("control message", message).map_err(refused)?;
        let answer = timeout(limit, self.options.wire.call(address, kind, body, limit));
        decode("control answer", &answer.await.unwrap_or(Err(WireError::Timeout))?).map_err(refused)
    }

    /// Writes an entry as the leader.
    pub(super) async fn write(&self, entry: Entry) -> Result<(Result<Applied, Refusal>, u64), WriteError> {
        let metrics = self.metrics();
        let alone = metrics.membership_config.membership().voter_ids().count() == 1;
        let silent = metrics.millis_since_quorum_ack.is_none_or(|silence| silence > QUORUM_SILENCE_MAX_MS);
        if metrics.state != ServerState::Leader || (silent && !alone) {
            return Err(WriteError::NotNow);
        }
        match timeout(CONFIRM_WAIT, self.raft.client_write(entry)).await {
            Ok(Ok(done)) => Ok((done.data, done.log_id.index)),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(WriteError::NotNow),
            Ok(Err(_)) | Err(_) => Err(WriteError::Unconfirmed),
        }
    }

    async fn propose(&self, entry: Entry) -> Result<Applied, ProposeError> {
        let deadline = Instant::now() + LEADER_WAIT;
        loop {
            let proposed = if self.is_leader() {
                match self.write(entry.clone()).await {
                    Ok((result, index)) => Proposed::Applied { result, index },
                    Err(WriteError::NotNow) => Proposed::NotNow,
                    Err(WriteError::Unconfirmed) => Proposed::Unconfirmed,
                }
            } else if let Some(leader) = self.leader_address() {
                let message = Propose { cluster: *self.cluster.borrow(), message: entry.clone() };
                match self.call(&leader, Kind::Propose, &message, CONFIRM_WAIT + RETRY).await {
                    Ok(proposed) => proposed,
                    Err(WireError::Unreachable { .. } | WireError::Refused(_)) => Proposed::NotNow,
                    Err(WireError::Timeout) => Proposed::Unconfirmed,
                }
            } else {
                Proposed::NotNow
            };
            match proposed {
                Proposed::Applied { result, index } => {
                    let here = self.raft.wait(Some(CONFIRM_WAIT));
                    here.applied_index_at_least(Some(index), "proposed").await.map_err(|_| ProposeError::Timeout)?;
                    return Ok(result?);
                }
                Proposed::Unconfirmed => return Err(ProposeError::Timeout),
                Proposed::NotNow if Instant::now() < deadline => sleep(RETRY).await,
                Proposed::NotNow => {
                    let voters = self.metrics().membership_config.membership().voter_ids().map(NodeId).collect();
                    return Err(ProposeError::NoLeader { voters });
                }
            }
        }
    }

    async fn serve(self: &Arc<Self>, kind: Kind, body: Bytes) -> Result<Vec<u8>, ServeError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(ServeError::TooLarge { bytes: body.len() as u64, max: BODY_BYTES_MAX as u64 });
        }
        match kind {
            Kind::Append => answer(&self.raft.append_entries(self.unseal(&body)?).await.map_err(stopped)?),
            Kind::Vote => answer(&self.raft.vote(self.unseal(&body)?).await.map_err(stopped)?),
            Kind::Snapshot => {
                let piece: InstallSnapshotRequest<TypeConfig> = self.unseal(&body)?;
                let bytes = piece.offset.saturating_add(piece.data.len() as u64);
                if bytes > SNAPSHOT_BYTES_MAX {
                    return Err(ServeError::TooLarge { bytes, max: SNAPSHOT_BYTES_MAX });
                }
                answer(&self.raft.install_snapshot(piece).await.map_err(stopped)?)
            }
            Kind::Propose => {
                let _permit = self.served.try_acquire().map_err(|_| ServeError::Busy(SERVED_MAX))?;
                let proposed = match self.write(self.unseal(&body)?).await {
                    Ok((result, index)) => Proposed::Applied { result, index },
                    Err(WriteError::NotNow) => Proposed::NotNow,
                    Err(WriteError::Unconfirmed) => Proposed::Unconfirmed,
                };
                answer(&proposed)
            }
            Kind::Join => {
                let _permit = self.served.try_acquire().map_err(|_| ServeError::Busy(SERVED_MAX))?;
                let join: Join = decode("join", &body)?;
                answer(&super::admission::receive(self, join).await)
            }
            Kind::Status => answer(&Status { node: self.options.node, cluster: *self.cluster.borrow() }),
        }
    }

    /// Reads a message between members, and refuses one of another cluster.
    ///
    /// A node that no cluster has taken in refuses all of them: with a lost disk and an old id it would vote without
    /// remembering that it voted before.
    fn unseal<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ServeError> {
        let Sealed { cluster, message } = decode("control message", body)?;
        let ours = *self.cluster.borrow();
        if ours == 0 || ours != cluster {
            let name = |cluster| if cluster == 0 { "no cluster".to_owned() } else { format!("cluster {cluster:032x}") };
            return Err(ServeError::OtherCluster { ours: name(ours), theirs: name(cluster) });
        }
        Ok(message)
    }
}

fn answer(message: &impl Serialize) -> Result<Vec<u8>, ServeError> {
    Ok(encode("control answer", message)?)
}

fn stopped(error: impl std::error::Error) -> ServeError {
    ServeError::Stopped(error.to_string())
}

/// A seed that is of another cluster than `ours` (zero: of any), and which one. A founder that lost its disk would
/// split its cluster otherwise, and a directory from elsewhere would go on with its old cluster as if nothing had been
/// said.
/// Seeds that don't answer soon are not waited for.
async fn other_cluster(options: &Options, ours: u128) -> Option<(String, u128)> {
    let limit = Duration::from_millis(options.timing.election_ms);
    let ask = async |address: &String| {
        let asked = timeout(limit, options.wire.call(address, Kind::Status, Vec::new(), limit)).await;
        let status: Option<Status> = asked.ok().and_then(Result::ok).and_then(|body| decode("status", &body).ok());
        status.filter(|status| status.cluster != 0 && status.cluster != ours).map(|s| (address.clone(), s.cluster))
    };
    let seeds = options.join.iter().filter(|address| **address != options.addresses.peer);
    futures_util::future::join_all(seeds.map(ask)).await.into_iter().flatten().next()
}

fn config(options: &Options, state: &State) -> Result<Config, StartError> {
    let place = state.members.keys().position(|node| *node == options.node);
    let rank = place.map_or(options.node.0 as usize, |place| place) % VOTERS_MAX;
    let timing = options.timing;
    let election_timeout_min = timing.election_ms + timing.stagger_ms * rank as u64;
    Config {
        cluster_name: "epoch log".to_owned(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min,
        election_timeout_max: election_timeout_min + timing.election_window_ms,
        install_snapshot_timeout: CONFIRM_WAIT.as_millis() as u64,
        snapshot_max_chunk_size: SNAPSHOT_PIECE_BYTES,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        replication_lag_threshold: 2 * SNAPSHOT_EVERY,
        max_payload_entries: 64,
        ..Config::default()
    }
    .validate()
    .map_err(|error| StartError::Raft(error.to_string()))
}

/// Stops the node when it has left, when its directory was opened by another process since, or when Raft can't go on.
async fn watch_fences(core: Arc<Core>) {
    let mut state = core.state.clone();
    let mut metrics = core.raft.metrics();
    let (mut granted, mut leaving) = (false, false);
    loop {
        let fence = fence_by(&core, &state.borrow_and_update(), &mut granted, &mut leaving);
        if let Some(fence) = fence {
            core.fence(fence);
        }
        if let Err(fatal) = &metrics.borrow_and_update().running_state {
            core.fence(Fence::MustStop(format!("the epoch log can't go on: {fatal}")));
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            changed = metrics.changed() => if changed.is_err() { return },
        }
    }
}

/// Why the state says that this process must stop. `granted`: it was a member before; `leaving`: it was asked to leave.
fn fence_by(core: &Core, state: &State, granted: &mut bool, leaving: &mut bool) -> Option<Fence> {
    let node = core.options.node;
    let Some(member) = state.members.get(&node) else {
        let removed = state.removed.contains_key(&node);
        let as_asked = *granted && *leaving;
        let fence =
            || if as_asked { Fence::Left(node) } else { Fence::MustStop(Refusal::Removed { node }.to_string()) };
        return removed.then(fence);
    };
    let fence = if member.directory != core.identity().directory {
        Some(Refusal::IdTaken { node })
    } else if *granted && member.opening != core.opening {
        Some(Refusal::Superseded { node })
    } else {
        None
    };
    *granted |= member.opening == core.opening;
    *leaving = member.standing == Standing::Leaving;
    fence.map(|refusal| Fence::MustStop(refusal.to_string()))
}

/// Waits for a change of the state, but not past `deadline`.
pub(super) async fn changed(state: &mut watch::Receiver<Arc<State>>, deadline: Instant) {
    if let Ok(Err(_)) = timeout_at(deadline, state.changed()).await {
        // The log has stopped; whoever waits is about to be stopped as well.
        tokio::time::sleep_until(deadline).await;
    }
}
