//! A node whose pump is a map: everything of the surfaces is real, nothing behind them is.

use anyhow::Result;
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use mks::epoch_log::{EpochLog, LogStatus, ProposeError};
use mks::handle::{Call, Handle, OperatorCall, PeerView, PumpView, RepairCall, ScrubCall, ScrubView};
use mks::metrics::Metrics;
use mks::plugins::Plugins;
use mks::token::Tokens;
use mks_logic::cluster::{Addresses, Applied, Entry, Keyspace, Member, Standing, State};
use mks_logic::context::Context;
use mks_logic::event::{Answer, HintCount, OpError, Operation, Reply, Request};
use mks_logic::id::{Dot, Epoch, Incarnation, Key, KeyspaceId, NodeId, PartitionId, Place};
use mks_logic::limits::Limits;
use mks_logic::node::{DiskFault, FaultKind, ScrubFigures, SyncFigures};
use mks_logic::port::{
    self, Batch, Durability, ResolverHash, Role, ShadowState, ShadowStats, Store, StoreError, StoreStats, Table, Visit,
};
use mks_logic::ring::{Candidate, Ring};
use mks_logic::time::Hlc;
use mks_logic::version::Version;
use mks_proto::v1;
use mks_proto::v1::admin_client::AdminClient;
use mks_proto::v1::kv_client::KvClient;
use mks_sandbox::{Sandbox, SandboxOptions};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

pub(crate) const PARTITION_BITS: u8 = 4;
/// Keys that start so are answered when [`FakeNode::release`] says so.
pub(crate) const HELD: &[u8] = b"held";
/// A keyspace whose n is 1.
pub(crate) const SINGLE: &str = "single";
/// A causal keyspace.
pub(crate) const CARTS: &str = "carts";

/// Calls that the pump got and keeps.
#[derive(Default)]
struct Pump {
    data: BTreeMap<Key, Bytes>,
    held: Vec<Call>,
    seen: Vec<Request>,
    stamp: u64,
}

pub(crate) struct FakeNode {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub handle: Handle,
    pub log: Arc<FakeLog>,
    pump: Arc<Mutex<Pump>>,
    stop: watch::Sender<bool>,
    servers: Vec<JoinHandle<Result<()>>>,
}

/// One directory for all fake nodes, as each sandbox takes a moment to open.
fn plugins() -> Arc<Plugins> {
    static PLUGINS: OnceLock<(tempfile::TempDir, Arc<Plugins>)> = OnceLock::new();
    let open = || {
        let home = tempfile::tempdir().unwrap();
        let options = SandboxOptions { directory: home.path().into(), ..SandboxOptions::default() };
        let plugins = Plugins::open(home.path(), Sandbox::new(options).unwrap()).unwrap();
        (home, Arc::new(plugins))
    };
    Arc::clone(&PLUGINS.get_or_init(open).1)
}

impl FakeNode {
    /// A node that is ready.
    pub(crate) async fn start() -> Self {
        Self::with(state(), 1, true).await
    }

    /// A node that still reads its records.
    pub(crate) async fn start_opening() -> Self {
        let node = Self::with(state(), 0, false).await;
        node.handle.opening.note(7);
        node
    }

    /// A node in a cluster that still forms.
    pub(crate) async fn start_forming() -> Self {
        let mut state = State { ring: None, keyspaces: BTreeMap::new(), ..state() };
        state.members.pop_last();
        Self::with(state, 0, true).await
    }

    async fn with(state: State, incarnation: u64, opened: bool) -> Self {
        let (calls, front_door) = mpsc::channel(4_096);
        let (operators, operator_queue) = mpsc::channel(4);
        let shown = Arc::new(ArcSwap::from_pointee(state.clone()));
        let log = FakeLog::new(state, Arc::clone(&shown));
        let peer = |node, alive, clock_offset_ms| PeerView {
            node: NodeId(node),
            alive,
            linked: alive,
            clock_offset_ms,
            owed: HintCount::default(),
            needs_sync: 0,
        };
        let view = PumpView {
            incarnation: Incarnation(incarnation),
            hears_clocks: true,
            peers: vec![peer(2, true, -3), peer(3, false, 900)],
            ..PumpView::default()
        };
        let handle = Handle {
            node: NodeId(1),
            limits: Arc::new(Limits::default()),
            metrics: Metrics::new(),
            epoch_log: log.clone(),
            state: shown,
            view: Arc::new(ArcSwap::from_pointee(view)),
            store: Arc::new(Figures),
            adapter: "fjall".into(),
            builtin: Arc::new(vec![
                builtin("first-write-wins", 2, Role::Resolver),
                builtin("keep-siblings", 3, Role::Resolver),
                builtin("lww", 1, Role::Resolver),
                builtin("cart-merge", 5, Role::Merger),
                builtin("pn-counter", 4, Role::DataType),
            ]),
            plugins: plugins(),
            tokens: Arc::new(Tokens::new(&[1; 32])),
            calls,
            operators,
            opening: Arc::default(),
        };
        if opened {
            handle.opening.finish();
        }
        let pump = Arc::new(Mutex::new(Pump::default()));
        tokio::spawn(run(front_door, pump.clone()));
        tokio::spawn(operate(operator_queue, handle.view.clone()));
        let (stop, _) = watch::channel(false);
        let (grpc, http) = (listener().await, listener().await);
        let addresses = (grpc.local_addr().unwrap(), http.local_addr().unwrap());
        let servers = vec![
            tokio::spawn(mks::grpc::serve(grpc, handle.clone(), stopped(stop.subscribe()))),
            tokio::spawn(mks::http::serve(http, handle.clone(), stopped(stop.subscribe()))),
        ];
        Self { grpc: addresses.0, http: addresses.1, handle, log, pump, stop, servers }
    }

    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await)
    }

    pub(crate) async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel().await)
    }

    /// Requests that reached the pump so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.pump.lock().unwrap().seen.clone()
    }

    pub(crate) fn held(&self) -> usize {
        self.pump.lock().unwrap().held.len()
    }

    /// Answers what is held, the last one first. Returns how many there were.
    pub(crate) fn release(&self) -> usize {
        let mut pump = self.pump.lock().unwrap();
        let held = std::mem::take(&mut pump.held);
        let count = held.len();
        for call in held.into_iter().rev() {
            let reply = pump.reply(&call.request);
            call.waiter.answer(reply);
        }
        count
    }

    /// Begins to stop; [`Self::stopped`] waits for the end.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) async fn stopped(self) {
        self.stop();
        for server in self.servers {
            server.await.unwrap().unwrap();
        }
    }
}

/// Waits until `condition` holds; a test that waits for something else than time needs no more.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came true: {what}");
}

pub(crate) fn key(partition_key: impl Into<Bytes>) -> Option<v1::Key> {
    Some(v1::Key { partition_key: partition_key.into(), ..v1::Key::default() })
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

fn builtin(name: &str, byte: u8, role: Role) -> (String, ResolverHash, Role) {
    (name.into(), ResolverHash([byte; 32]), role)
}

async fn run(mut front_door: mpsc::Receiver<Call>, pump: Arc<Mutex<Pump>>) {
    while let Some(call) = front_door.recv().await {
        let mut pump = pump.lock().unwrap();
        pump.seen.push(call.request.clone());
        if first_key(&call.request).partition_key.starts_with(HELD) {
            pump.held.push(call);
        } else {
            let reply = pump.reply(&call.request);
            call.waiter.answer(reply);
        }
    }
}

async fn operate(mut queue: mpsc::Receiver<OperatorCall>, view: Arc<ArcSwap<PumpView>>) {
    while let Some(call) = queue.recv().await {
        match call {
            OperatorCall::Repair(call) => repair(call, &view),
            OperatorCall::Scrub(call) => scrub(call, &view),
        }
    }
}

/// Finds two owners to compare with, mends one, and is done.
fn repair(RepairCall { partition, started }: RepairCall, view: &ArcSwap<PumpView>) {
    let before = SyncFigures { mended: 5, clean: 2, ..SyncFigures::default() };
    let mended = if partition.is_some() { 6 } else { 7 };
    let now = SyncFigures { mended, clean: 4, records_sent: 3, ..before };
    view.store(Arc::new(PumpView { sync: now, ..PumpView::clone(&view.load()) }));
    let _ = started.send(SyncFigures { demanded: 2, ..before });
}

/// Knew of one damaged record, and finds another one in the last partition.
fn scrub(ScrubCall { partition, started }: ScrubCall, view: &ArcSwap<PumpView>) {
    let fault = |partition, key, mended_ms| DiskFault {
        place: Place { partition: PartitionId(partition), bucket: 7 },
        key: Some(key),
        kind: FaultKind::Damaged,
        found_ms: 1_000,
        mended_ms,
    };
    let before = ScrubFigures { damaged: 1, mended: 1, records: 50, partitions: 16, ..ScrubFigures::default() };
    let figures = ScrubFigures { damaged: 2, waiting: 1, records: 80, ..before };
    let faults = vec![fault(1, 0xA, Some(2_000)), fault(partition.map_or(15, |p| p.0), 0xB, None)];
    let scrub = ScrubView { figures, faults };
    view.store(Arc::new(PumpView { scrub, ..PumpView::clone(&view.load()) }));
    let _ = started.send(ScrubFigures { demanded: 16, ..before });
}

fn first_key(request: &Request) -> &Key {
    match &request.operation {
        Operation::Batch { items } => &items[0].key,
        other => other.key().expect("all others are about one key"),
    }
}

impl Pump {
    fn reply(&mut self, request: &Request) -> Reply {
        match &request.operation {
            Operation::Put { key, value } => self.write(key, Some(value)),
            Operation::Delete { key } => self.write(key, None),
            Operation::Get { key } => Ok(Answer::Found { versions: self.versions(key)?, context: context(key, 7) }),
            Operation::Apply { .. } => {
                self.stamp += 1;
                Ok(Answer::Applied { written: Hlc(self.stamp), acks: 2, hints: 0, reply: Some("done".into()) })
            }
            Operation::View { question, .. } if question.is_empty() => Ok(Answer::Viewed { answer: None }),
            Operation::View { question, .. } => Ok(Answer::Viewed { answer: Some(question.clone()) }),
            Operation::Batch { items } => {
                let replies = items.iter().map(|item| self.write(&item.key, item.value.as_ref())).collect();
                Ok(Answer::Batch { replies })
            }
        }
    }

    fn write(&mut self, key: &Key, value: Option<&Bytes>) -> Reply {
        fault(key)?;
        self.stamp += 1;
        match value {
            Some(value) => drop(self.data.insert(key.clone(), value.clone())),
            None => drop(self.data.remove(key)),
        }
        Ok(Answer::Written { written: Hlc(self.stamp), acks: 2, hints: 0, context: context(key, 9) })
    }

    fn versions(&self, key: &Key) -> Result<Vec<Version>, OpError> {
        fault(key)?;
        let Some(value) = self.data.get(key) else { return Ok(Vec::new()) };
        let version = |counter, value: &Bytes| Version {
            dot: Dot { node: NodeId(1), incarnation: Incarnation(1), counter },
            written: Hlc(counter),
            epoch: Epoch(1),
            expires_ms: 0,
            digest: 0,
            value: Some(value.clone()),
        };
        let mut versions = vec![version(7, value)];
        if key.partition_key.starts_with(b"siblings") {
            versions.push(version(5, &Bytes::from_static(b"other")));
        }
        Ok(versions)
    }
}

/// What a causal keyspace says that its clients know: writes up to a counter.
pub(crate) fn context(key: &Key, upto: u64) -> Option<Context> {
    let dot = |counter| Dot { node: NodeId(1), incarnation: Incarnation(1), counter };
    (key.keyspace == KeyspaceId(3)).then(|| (5..=upto).map(dot).collect())
}

/// Keys that name a fault get it.
fn fault(key: &Key) -> Result<(), OpError> {
    match &key.partition_key[..] {
        b"timeout" => Err(OpError::Timeout { write: true, acks: 1, needed: 2, owners: 3, hints: 0 }),
        b"lost" => Err(OpError::QuorumLost {
            write: true,
            acks: 1,
            needed: 2,
            owners: 3,
            hints: 0,
            refused: "disk full".into(),
        }),
        b"busy" => Err(OpError::Busy { operations: 9 }),
        b"no-owner" => Err(OpError::NoOwner),
        b"under-way" => Err(OpError::UnderWay),
        b"crowded" => Err(OpError::TooManySiblings { max: 64, acks: 0, needed: 2, owners: 3, causal: true }),
        b"owner-refused" => Err(OpError::NotNamed { refused: "its disk is full".into() }),
        _ => Ok(()),
    }
}

fn state() -> State {
    let candidates: Vec<_> = (1..=3).map(|id| Candidate { node: NodeId(id), zone: "", weight: 100 }).collect();
    let member = |id: u64| {
        let address = |port: u64| format!("10.0.0.{id}:{port}");
        let addresses = Addresses { client: address(7600), peer: address(7601), http: address(7602) };
        let incarnation = Incarnation(id);
        let id = u128::from(id);
        (
            NodeId(id as u64),
            Member {
                directory: id,
                opening: id,
                incarnation,
                addresses,
                zone: String::new(),
                weight: 100,
                standing: Standing::Up,
                opened: 0,
            },
        )
    };
    State {
        cluster: 0xC0FFEE,
        epoch: Epoch(4),
        partition_bits: PARTITION_BITS,
        expect: 3,
        members: (1..=3).map(member).collect(),
        ring: Some(Ring::solve(PARTITION_BITS, 3, &candidates, None).unwrap()),
        keyspaces: [
            (KeyspaceId(1), keyspace("default", 3)),
            (KeyspaceId(2), keyspace(SINGLE, 1)),
            (KeyspaceId(3), Keyspace { causal: true, ..keyspace(CARTS, 3) }),
        ]
        .into(),
        keyspace_next: 4,
        ..State::default()
    }
}

fn keyspace(name: &str, n: u8) -> Keyspace {
    let (resolver, resolver_hash, role) = builtin("lww", 1, Role::Resolver);
    let quorum = n / 2 + 1;
    Keyspace {
        name: name.into(),
        n,
        r: quorum,
        w: quorum,
        durability: Durability::Os,
        ttl_ms: 0,
        resolver,
        resolver_hash,
        causal: false,
        quarantined: false,
        role,
    }
}

/// An epoch log of one: it applies what is proposed, at once.
pub(crate) struct FakeLog {
    state: watch::Sender<Arc<State>>,
    /// What the pump of a real node would show of it.
    shown: Arc<ArcSwap<State>>,
    /// Who leads; without a leader proposals fail.
    pub leader: Mutex<Option<NodeId>>,
}

impl FakeLog {
    fn new(state: State, shown: Arc<ArcSwap<State>>) -> Arc<Self> {
        Arc::new(Self { state: watch::channel(Arc::new(state)).0, shown, leader: Mutex::new(Some(NodeId(2))) })
    }
}

impl EpochLog for FakeLog {
    fn propose(&self, entry: Entry) -> BoxFuture<'_, Result<Applied, ProposeError>> {
        Box::pin(async move {
            if self.leader.lock().unwrap().is_none() {
                return Err(ProposeError::NoLeader { voters: vec![NodeId(1), NodeId(2), NodeId(3)] });
            }
            let mut state = State::clone(&self.state.borrow());
            let applied = state.apply(&entry)?;
            let state = Arc::new(state);
            self.shown.store(Arc::clone(&state));
            self.state.send_replace(state);
            Ok(applied)
        })
    }

    fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    fn status(&self) -> LogStatus {
        let voters = vec![NodeId(1), NodeId(2), NodeId(3)];
        LogStatus { leader: *self.leader.lock().unwrap(), term: 5, applied: 17, voters, learners: Vec::new() }
    }
}

/// A store that is asked for its figures only.
struct Figures;

impl port::Read for Figures {
    fn get(&self, _: Table, _: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }

    fn scan(&self, _: Table, _: &[u8], _: Option<&[u8]>, _: Visit<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Store for Figures {
    fn apply(&self, _: Batch, _: Durability) -> Result<(), StoreError> {
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn port::Read + Send + '_> {
        Box::new(Self)
    }

    fn stats(&self) -> StoreStats {
        let shadow = Some(ShadowStats {
            engine: "rocksdb",
            state: ShadowState::Failed,
            reason: "it is damaged".into(),
            ..ShadowStats::default()
        });
        StoreStats {
            engine: "memory",
            records_estimate: 12,
            disk_bytes: 34,
            batches: 5,
            fsyncs: 6,
            stall_us: 7,
            shadow,
        }
    }
}
