//! From a checked config to a serving node, and back down again in order.
//!
//! Up: the data directory and its lock, the sandbox, the store through its adapter, sockets, the epoch log, the
//! surfaces; and once the cluster is known, gossip, the disk threads and the pump. Down: the surfaces first, so that
//! nobody asks; then the pump, so that what was answered is written; then the epoch log.

mod storage;

use crate::clock::{NodeClock, wall_ms};
use crate::config::{Config, JoinPolicy};
use crate::disk::{Disk, DiskParts, SharedDigests, SharedOutlines};
use crate::epoch_log::{EpochLog, Fence, Options as RaftOptions, RaftLog, Timing};
use crate::gossip;
use crate::handle::{Call, Handle, Opening, OperatorCall, PumpView};
use crate::metrics::{Metrics, disk_faults, shadow_samples};
use crate::net::Stopping;
use crate::peer::{self, ControlPlane, LinkParts, PeerWire, Trust};
use crate::plugins::{self, Plugins};
use crate::pump::{self, Ended, Event, PumpParts};
use crate::token::Tokens;
use crate::{grpc, http};
use anyhow::{Context as _, anyhow};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use mks_logic::cluster::{Addresses, Entry, State};
use mks_logic::digest::DigestTable;
use mks_logic::id::NodeId;
use mks_logic::node::{Node, NodeOptions};
use mks_logic::port::ResolverHash;
use mks_sandbox::Sandbox;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::Opened;
pub(crate) use storage::lock;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// The resolver of the first keyspace.
const DEFAULT_RESOLVER: &str = "lww";
/// Requests that wait for the pump at most: a few turns of it.
const CALLS_MAX: usize = 4_096;
/// Operators that wait for the pump at most.
const OPERATORS_MAX: usize = 16;
/// Events that wait for the pump at most; each is a group.
const EVENTS_MAX: usize = 4_096;
/// How often a start that reads or copies every record says how far it is.
const OPENING_SAID: Duration = Duration::from_secs(5);
/// Threads that read the disk.
const READERS: usize = 1;
/// 2^17 outlines: 1 MiB to begin with, about 25 MiB when all of them are taken.
const OUTLINE_BITS: u8 = 17;

/// Runs a node until SIGTERM, SIGINT, or a reason of its own to stop.
///
/// # Errors
/// Everything that keeps a node from starting or makes it stop, in words for its operator.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(signals(stop.clone()));
    let _lock = lock(&config.node.data_dir)?;
    let key = *config.cluster_key()?.bytes();
    let metrics = Metrics::new();
    let (sandbox, plugins) = storage::sandbox(&config, &metrics)?;
    let Some(opened) = storage::open(&config, &sandbox, &metrics, stopped.clone()).await? else {
        return Ok(());
    };
    let sockets = Sockets::bind(&config).await?;
    let trust = Trust::new(config.node.id, &key);
    let log = RaftLog::start(raft_options(&config, &sockets.addresses, &opened, &trust)).await?;
    tracing::info!(
        node = %config.node.id, client = %sockets.addresses.client, peer = %sockets.addresses.peer,
        http = %sockets.addresses.http, engine = opened.store.stats().engine, adapter = opened.adapter,
        "the node is up"
    );
    let booted = Booted { config, key, metrics, sandbox, plugins, opened, trust, log, stop, stopped };
    let ended = booted.serve(sockets, &mut tasks).await;
    tasks.shutdown().await;
    ended
}

/// The listeners, bound before anything is promised, and what the roster shall say of them.
struct Sockets {
    client: TcpListener,
    peer: TcpListener,
    http: TcpListener,
    gossip: UdpSocket,
    addresses: Addresses,
}

impl Sockets {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        let listen = &config.listen;
        let client = bind("clients", listen.client).await?;
        let peer = bind("other nodes", listen.peer).await?;
        let http = bind("HTTP", listen.http).await?;
        let peer_address = peer.local_addr()?;
        let gossip = UdpSocket::bind(peer_address).map_err(|error| taken("gossip (UDP)", peer_address, error))?;
        let addresses = listen.advertised(client.local_addr()?, peer_address, http.local_addr()?);
        Ok(Self { client, peer, http, gossip, addresses })
    }
}

async fn bind(whom: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| taken(whom, address, error))
}

fn taken(whom: &str, address: SocketAddr, error: std::io::Error) -> anyhow::Error {
    let hint = "choose another address in [listen], or stop what uses it";
    anyhow::Error::new(error).context(format!("can't listen for {whom} on {address}: {hint}"))
}

fn raft_options(config: &Config, addresses: &Addresses, opened: &Opened, trust: &Trust) -> RaftOptions {
    RaftOptions {
        node: config.node.id,
        store: Arc::clone(&opened.store),
        wire: Arc::new(PeerWire::new(trust.clone())),
        addresses: addresses.clone(),
        zone: config.node.zone.clone(),
        weight: config.node.weight,
        bootstrap: config.cluster.bootstrap,
        join: config.cluster.join.clone(),
        partition_bits: config.cluster.partition_bits,
        expect: config.cluster.expect,
        resolver: (DEFAULT_RESOLVER.to_owned(), builtin(DEFAULT_RESOLVER)),
        epoch_period: Duration::from_secs(config.cluster.epoch_period_s),
        auto_accept: config.cluster.join_policy == JoinPolicy::Auto,
        timing: Timing::default(),
    }
}

fn builtin(name: &str) -> ResolverHash {
    let all = Sandbox::builtin_resolvers();
    all.iter().find(|(known, _)| *known == name).expect("the default resolver is built into every binary").1
}

/// What the pump takes from.
struct Queues {
    event_queue: mpsc::Receiver<Event>,
    call_queue: mpsc::Receiver<Call>,
    operator_queue: mpsc::Receiver<OperatorCall>,
}

/// A node whose log runs.
struct Booted {
    config: Config,
    key: [u8; 32],
    metrics: Arc<Metrics>,
    sandbox: Arc<Sandbox>,
    plugins: Arc<Plugins>,
    opened: Opened,
    trust: Trust,
    log: Arc<RaftLog>,
    stop: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
}

impl Booted {
    async fn serve(mut self, sockets: Sockets, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
        let Sockets { client, peer, http, gossip, .. } = sockets;
        let (calls, call_queue) = mpsc::channel(CALLS_MAX);
        let (events, event_queue) = mpsc::channel(EVENTS_MAX);
        let (operators, operator_queue) = mpsc::channel(OPERATORS_MAX);
        let handle = self.handle(calls, operators);
        let (surfaces_stop, surfaces_stopped) = watch::channel(false);
        let stopping = Stopping::new(surfaces_stopped);
        let mut surfaces = JoinSet::new();
        surfaces.spawn(grpc::serve(client, handle.clone(), stopping.clone().wait()));
        surfaces.spawn(http::serve(http, handle.clone(), stopping.clone().wait()));
        let control: Arc<dyn ControlPlane> = Arc::new(Control(Arc::clone(&self.log)));
        let (peers_stop, peers_stopped) = watch::channel(false);
        tasks.spawn(peer::serve(
            peer,
            self.trust.clone(),
            Arc::clone(&self.metrics),
            events.clone(),
            (control, Arc::clone(self.plugins.components())),
            Stopping::new(peers_stopped),
        ));
        // The pump outlives the surfaces: it answers what they let finish.
        let (pump_stop, pump_stopped) = watch::channel(false);
        let ended = match self.cluster_known().await {
            Ok(Some(state)) => match self.digests(&state, &handle.opening).await {
                Ok(Some(digests)) => {
                    self.load_plugins(&state).await?;
                    let source = Arc::new(PeerWire::new(self.trust.clone()));
                    let log = Arc::clone(&self.log) as Arc<dyn EpochLog>;
                    tasks.spawn(plugins::keep(Arc::clone(&self.plugins), self.config.node.id, log, source));
                    let queues = Queues { event_queue, call_queue, operator_queue };
                    let parts = self.pump_parts(&handle, state, digests, gossip, events, queues)?;
                    let pump = tokio::spawn(pump::run(parts, pump_stopped));
                    self.until_stopped(pump, surfaces_stop, surfaces, pump_stop).await
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            },
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        self.log.shutdown().await;
        let _ = peers_stop.send(true);
        ended
    }

    fn handle(&self, calls: mpsc::Sender<Call>, operators: mpsc::Sender<OperatorCall>) -> Handle {
        let builtin = Sandbox::builtin_code().into_iter().map(|(name, hash, role)| (name.to_owned(), hash, role));
        let view = Arc::new(ArcSwap::from_pointee(PumpView::default()));
        let seen = Arc::clone(&view);
        self.metrics.register(Box::new(move || disk_faults(&seen.load().scrub.faults)));
        let state = Arc::new(ArcSwap::from(self.log.watch().borrow().clone()));
        let (seen, shadows) = (Arc::clone(&state), Arc::clone(self.plugins.shadows()));
        self.metrics.register(Box::new(move || shadow_samples(&shadows, &seen.load())));
        Handle {
            node: self.config.node.id,
            limits: Arc::new(self.config.limits.clone()),
            metrics: Arc::clone(&self.metrics),
            epoch_log: Arc::clone(&self.log) as Arc<dyn EpochLog>,
            state,
            view,
            store: Arc::clone(&self.opened.store),
            adapter: self.opened.adapter.as_str().into(),
            builtin: Arc::new(builtin.collect()),
            plugins: Arc::clone(&self.plugins),
            tokens: Arc::new(Tokens::new(&self.key)),
            calls,
            operators,
            opening: Arc::default(),
        }
    }

    /// What is on the disk can be asked before the first request comes.
    async fn load_plugins(&self, state: &Arc<State>) -> anyhow::Result<()> {
        let (plugins, state) = (Arc::clone(&self.plugins), Arc::clone(state));
        let loaded = tokio::task::spawn_blocking(move || plugins.load(&state));
        loaded.await.context("the thread that loads plugins died")
    }

    /// Waits until the epoch log says which cluster this is. `None` when the node is stopped before.
    async fn cluster_known(&mut self) -> anyhow::Result<Option<Arc<State>>> {
        let mut states = self.log.watch();
        let mut fenced = self.log.fenced();
        tokio::select! {
            state = states.wait_for(|state| state.cluster != 0) => Ok(Some(state.context("the epoch log ended")?.clone())),
            reason = fenced.wait_for(Option::is_some) => fence(reason.ok()).map_or(Ok(None), Err),
            _ = self.stopped.wait_for(|stop| *stop) => Ok(None),
        }
    }

    fn pump_parts(
        &self,
        handle: &Handle,
        state: Arc<State>,
        digests: SharedDigests,
        gossip: UdpSocket,
        events: mpsc::Sender<Event>,
        queues: Queues,
    ) -> anyhow::Result<PumpParts> {
        let me = self.config.node.id;
        let counted = Arc::clone(&self.metrics);
        let on_drop = Arc::new(move |reason| counted.gossip_dropped(reason));
        let (gossip, datagrams) =
            gossip::open(gossip, &self.key, me, state.cluster, on_drop).context("can't use the gossip socket")?;
        let digests = Arc::new(digests);
        let disk = DiskParts {
            store: Arc::clone(&self.opened.store),
            resolve: Arc::clone(&self.sandbox) as _,
            types: Arc::clone(&self.sandbox) as _,
            partition_bits: state.partition_bits,
            metrics: Arc::clone(&self.metrics),
            outlines: Arc::new(SharedOutlines::new(OUTLINE_BITS)),
            digests: Arc::clone(&digests) as _,
            mints: Arc::default(),
            shadows: Arc::clone(self.plugins.shadows()),
            sync_message_bytes_max: self.config.limits.sync_message_bytes_max,
            events: events.clone(),
        };
        let node = Node::new(NodeOptions {
            me,
            opening: self.log.opening(),
            limits: self.config.limits.clone(),
            gossip: self.config.gossip,
            seed: seed(self.log.opening()),
        });
        Ok(PumpParts {
            node,
            me,
            resolve: Arc::clone(&self.sandbox) as _,
            disk: Disk::start(&disk, READERS).context("can't start the disk threads")?,
            digests,
            shadows: Arc::clone(self.plugins.shadows()),
            links: LinkParts {
                trust: self.trust.clone(),
                metrics: Arc::clone(&self.metrics),
                events,
                clock: NodeClock::new(self.config.node.test_clock_offset_ms),
            },
            metrics: Arc::clone(&self.metrics),
            calls: queues.call_queue,
            operators: queues.operator_queue,
            events: queues.event_queue,
            states: self.log.watch(),
            proposals: proposals(Arc::clone(&self.log), me),
            gossip,
            datagrams,
            state: Arc::clone(&handle.state),
            view: Arc::clone(&handle.view),
        })
    }

    /// The sums over the records. Where there are none yet, or damaged ones, every record is read once, on a thread of
    /// its own. `None` when the node is stopped meanwhile.
    async fn digests(&self, state: &State, opening: &Arc<Opening>) -> anyhow::Result<Option<SharedDigests>> {
        let keyspaces: Vec<_> = state.all_copies_max().collect();
        let (store, opening, stopped) = (Arc::clone(&self.opened.store), Arc::clone(opening), self.stopped.clone());
        let open = move || {
            let (about, mut said) = (store.stats().records_estimate, Instant::now());
            let mut watch = |records| {
                opening.note(records);
                if said.elapsed() > OPENING_SAID {
                    said = Instant::now();
                    tracing::info!(records, about, "reading every record once, to compute the sums over them");
                }
                !*stopped.borrow()
            };
            let table = DigestTable::open_watched(&*store, keyspaces, &mut watch);
            opening.finish();
            table
        };
        let table = tokio::task::spawn_blocking(open).await.context("the thread that opens the sums died")?;
        let table = table.map_err(anyhow::Error::from).context("can't open the sums over the records")?;
        Ok(table.map(SharedDigests::new))
    }

    /// Serves until somebody or something says stop, then takes the surfaces down, then the pump.
    async fn until_stopped(
        &mut self,
        mut pump: tokio::task::JoinHandle<Ended>,
        surfaces_stop: watch::Sender<bool>,
        mut surfaces: JoinSet<anyhow::Result<()>>,
        pump_stop: watch::Sender<bool>,
    ) -> anyhow::Result<()> {
        let mut fenced = self.log.fenced();
        let early = tokio::select! {
            ended = &mut pump => Some(ended.context("the pump died")?.into()),
            reason = fenced.wait_for(Option::is_some) => fence(reason.ok()),
            Some(ended) = surfaces.join_next() => ended.context("a surface died")?.err(),
            _ = self.stopped.wait_for(|stop| *stop) => None,
        };
        tracing::info!("stopping: no new requests, finishing those under way");
        let _ = surfaces_stop.send(true);
        while surfaces.join_next().await.is_some() {}
        let _ = pump_stop.send(true);
        if !pump.is_finished() {
            drop(pump.await);
        }
        let _ = self.stop.send(true);
        early.map_or(Ok(()), Err)
    }
}

/// The error with which this process stops because the epoch log says so; none where that is what its operator wanted.
fn fence(fence: Option<watch::Ref<'_, Option<Fence>>>) -> Option<anyhow::Error> {
    match fence.and_then(|fence| fence.clone()) {
        Some(Fence::Left(_)) => None,
        Some(fence) => Some(fence.into()),
        None => Some(anyhow!("the epoch log has ended")),
    }
}

/// Half of the opening's random name: gossip needs randomness, not secrecy.
fn seed(opening: u128) -> u64 {
    (opening >> 64) as u64 ^ opening as u64
}

/// Hands control calls of other nodes to the epoch log.
struct Control(Arc<RaftLog>);

impl ControlPlane for Control {
    fn control(&self, from: NodeId, kind: u32, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move { self.0.serve(&from.to_string(), kind, body).await.map_err(|error| error.to_string()) })
    }
}

/// Says stop at the first SIGTERM or SIGINT.
async fn signals(stop: watch::Sender<bool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("can't listen for signals: SIGTERM will end this node without a goodbye");
        return;
    };
    tokio::select! {
        _ = term.recv() => tracing::info!("SIGTERM"),
        _ = int.recv() => tracing::info!("SIGINT"),
    }
    let _ = stop.send(true);
}

/// Entries of the epoch log that the logic wants and that wait for a leader.
const PROPOSALS_MAX: usize = 16;

/// Hands on to the epoch log what the logic wants in it, one after the other. What fails is asked for again.
fn proposals(log: Arc<RaftLog>, me: NodeId) -> mpsc::Sender<Entry> {
    let (proposals, mut queue) = mpsc::channel::<Entry>(PROPOSALS_MAX);
    tokio::spawn(async move {
        while let Some(entry) = queue.recv().await {
            if let Err(error) = log.propose(entry.signed(me.to_string(), wall_ms())).await {
                tracing::debug!(%error, "the epoch log did not take what this node says of its partitions");
            }
        }
    });
    proposals
}
