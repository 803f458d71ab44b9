//! A network in memory that can lose nodes, and nodes on it that can be restarted.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mks::epoch_log::{EpochLog, Kind, Options, ProposeError, RaftLog, StartError, Timing, Wire, WireError};
use mks_logic::cluster::{Addresses, Entry, Keyspace, State};
use mks_logic::id::{Incarnation, NodeId};
use mks_logic::port::{Durability, ResolverHash, Role, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Nothing in these tests takes nearly as long, even on a busy machine: longer means never.
const PATIENCE: Duration = Duration::from_secs(90);

/// Who listens where, and who is cut off.
#[derive(Default)]
pub(crate) struct Net {
    listening: Mutex<BTreeMap<String, Arc<RaftLog>>>,
    cut: Mutex<BTreeSet<String>>,
}

struct Link {
    net: Arc<Net>,
    from: String,
}

impl Wire for Link {
    fn call<'a>(
        &'a self,
        address: &'a str,
        kind: Kind,
        body: Vec<u8>,
        limit: Duration,
    ) -> BoxFuture<'a, Result<Bytes, WireError>> {
        Box::pin(async move {
            let gone = || WireError::Unreachable { address: address.to_owned(), reason: "cut off".to_owned() };
            let cut = |address: &str| self.net.cut.lock().unwrap().contains(address);
            if cut(address) || cut(&self.from) {
                return Err(gone());
            }
            let log = self.net.listening.lock().unwrap().get(address).cloned().ok_or_else(gone)?;
            let answer = timeout(limit, log.serve(&self.from, kind as u32, body.into())).await;
            if cut(address) || cut(&self.from) {
                return Err(WireError::Timeout);
            }
            answer.map_err(|_| WireError::Timeout)?.map_err(|error| WireError::Refused(error.to_string()))
        })
    }
}

pub(crate) fn address(node: u64) -> String {
    format!("node{node}:7002")
}

pub(crate) fn memory() -> Arc<dyn Store> {
    let options = mks_store::Options { engine: mks_store::Engine::Memory, ..mks_store::Options::default() };
    mks_store::open(&options).unwrap()
}

/// A cluster on one network; data directories outlive their nodes.
pub(crate) struct Cluster {
    pub(crate) net: Arc<Net>,
    pub(crate) expect: u32,
    pub(crate) epoch_period: Duration,
    pub(crate) auto_accept: bool,
    stores: BTreeMap<u64, Arc<dyn Store>>,
    pub(crate) logs: BTreeMap<u64, Arc<RaftLog>>,
}

impl Cluster {
    pub(crate) fn new(expect: u32) -> Self {
        let (net, stores, logs) = (Arc::default(), BTreeMap::new(), BTreeMap::new());
        Self { net, expect, epoch_period: Duration::from_secs(900), auto_accept: false, stores, logs }
    }

    pub(crate) fn store(&mut self, node: u64) -> Arc<dyn Store> {
        Arc::clone(self.stores.entry(node).or_insert_with(memory))
    }

    /// Node 1 founds; everybody knows everybody's address.
    pub(crate) fn options(&mut self, node: u64) -> Options {
        let at = |port: u16| format!("node{node}:{port}");
        Options {
            node: NodeId(node),
            store: self.store(node),
            wire: Arc::new(Link { net: Arc::clone(&self.net), from: address(node) }),
            addresses: Addresses { client: at(7001), peer: address(node), http: at(7003) },
            zone: String::new(),
            weight: 100,
            bootstrap: node == 1,
            join: (1..=u64::from(self.expect)).map(address).collect(),
            partition_bits: 6,
            expect: self.expect,
            resolver: ("lww".to_owned(), ResolverHash([1; 32])),
            epoch_period: self.epoch_period,
            auto_accept: self.auto_accept,
            timing: Timing { heartbeat_ms: 100, election_ms: 400, election_window_ms: 200, stagger_ms: 80 },
        }
    }

    pub(crate) async fn start(&mut self, node: u64) {
        let options = self.options(node);
        self.start_with(node, options).await.unwrap();
    }

    pub(crate) async fn start_with(&mut self, node: u64, options: Options) -> Result<(), StartError> {
        let address = options.addresses.peer.clone();
        let log = RaftLog::start(options).await?;
        self.net.listening.lock().unwrap().insert(address, Arc::clone(&log));
        self.logs.insert(node, log);
        Ok(())
    }

    /// As `kill -9` does it: nothing is said to anybody.
    pub(crate) async fn kill(&mut self, node: u64) {
        self.net.listening.lock().unwrap().remove(&address(node));
        if let Some(log) = self.logs.remove(&node) {
            log.shutdown().await;
        }
    }

    /// Nobody hears `node`, and it hears nobody.
    pub(crate) fn cut(&self, node: u64) {
        self.net.cut.lock().unwrap().insert(address(node));
    }

    pub(crate) fn mend(&self) {
        self.net.cut.lock().unwrap().clear();
    }

    pub(crate) fn state(&self, node: u64) -> Arc<State> {
        Arc::clone(&self.logs[&node].watch().borrow())
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        let leads = |(id, log): (&u64, &Arc<RaftLog>)| (log.status().leader == Some(NodeId(*id))).then_some(*id);
        self.logs.iter().find_map(leads)
    }

    /// All running nodes hold the same state, it is formed, and each has the incarnation of its present opening.
    pub(crate) async fn settled(&self) -> Arc<State> {
        self.settled_without(0).await
    }

    /// The same, for all nodes but one.
    pub(crate) async fn settled_without(&self, other: u64) -> Arc<State> {
        wait("all nodes hold the same formed state", || {
            let logs = || self.logs.iter().filter(|(id, _)| **id != other);
            let states: Vec<Arc<State>> = logs().map(|(&node, _)| self.state(node)).collect();
            let granted = logs().all(|(id, log)| {
                let member = states[0].members.get(&NodeId(*id));
                member.is_some_and(|member| member.opening == log.opening())
            });
            (granted && states[0].ring.is_some() && states.iter().all(|state| *state == states[0]))
                .then(|| states[0].clone())
        })
        .await
    }

    pub(crate) fn incarnations(&self, node: u64) -> BTreeMap<u64, Incarnation> {
        self.state(node).members.iter().map(|(id, member)| (id.0, member.incarnation)).collect()
    }
}

/// Looks until there is an answer.
pub(crate) async fn wait<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = look() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Proposes until the entry is in the log: an election, or a busy machine, may leave a single try unconfirmed.
pub(crate) async fn insist(log: &RaftLog, entry: Entry) {
    let started = Instant::now();
    let mut unconfirmed = false;
    loop {
        match log.propose(entry.clone()).await {
            Ok(_) => return,
            Err(ProposeError::Refused(_)) if unconfirmed => return,
            Err(ProposeError::Timeout | ProposeError::NoLeader { .. }) if started.elapsed() < PATIENCE => {
                unconfirmed = true;
            }
            Err(error) => panic!("{entry:?}: {error}"),
        }
    }
}

pub(crate) fn create(name: &str) -> Entry {
    let keyspace = Keyspace {
        name: name.to_owned(),
        n: 3,
        r: 2,
        w: 2,
        durability: Durability::Sync,
        ttl_ms: 0,
        resolver: "lww".to_owned(),
        resolver_hash: ResolverHash([1; 32]),
        causal: false,
        quarantined: false,
        role: Role::Resolver,
    };
    Entry::CreateKeyspace { keyspace }
}
