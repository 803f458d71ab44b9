//! A handful of nodes with one key, on a loopback network of their own.

use crate::hosts::Hosts;
use crate::node::{Node, PATIENCE};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tempfile::TempDir;

/// Clusters that run at the same time: more only make each other slow, and patience has an end.
const CLUSTERS_AT_ONCE_MAX: u32 = 2;

/// How a node of a test is set up, beyond what all of them share.
#[derive(Clone, Debug)]
pub struct NodeSetup {
    /// Found the cluster instead of joining one.
    pub bootstrap: bool,
    /// Ids of the nodes whose peer addresses it is given.
    pub seeds: Vec<u64>,
    /// Nodes that must have joined before the ring is made; counts where `bootstrap` is set.
    pub expect: u32,
    /// Name or path of the storage adapter, or a list of them as TOML.
    pub adapter: String,
    /// More TOML, for sections that the harness does not write itself.
    pub more: String,
}

impl Default for NodeSetup {
    fn default() -> Self {
        Self { bootstrap: false, seeds: Vec::new(), expect: 1, adapter: "fjall".into(), more: String::new() }
    }
}

impl NodeSetup {
    /// The node that founds a cluster of `expect` members.
    #[must_use]
    pub fn founder(expect: u32) -> Self {
        Self { bootstrap: true, expect, ..Self::default() }
    }

    /// A node that joins through the nodes with these ids.
    #[must_use]
    pub fn joiner(seeds: &[u64]) -> Self {
        Self { seeds: seeds.to_vec(), ..Self::default() }
    }

    /// The same with another storage adapter.
    #[must_use]
    pub fn with_adapter(mut self, adapter: &str) -> Self {
        adapter.clone_into(&mut self.adapter);
        self
    }

    /// The same with more TOML.
    #[must_use]
    pub fn with(mut self, toml: &str) -> Self {
        writeln!(self.more, "{toml}").expect("a string grows");
        self
    }
}

/// Nodes that share a key. Dropping it kills them, and shows their logs if the test failed.
#[derive(Debug)]
pub struct Cluster {
    // Fields drop in this order: processes end before their files go and before the next cluster's turn.
    nodes: Vec<Node>,
    directory: TempDir,
    hosts: Option<Hosts>,
    /// The first three bytes of all addresses.
    network: [u8; 3],
    _turn: Turn,
}

impl Cluster {
    /// A cluster without nodes.
    #[must_use]
    pub fn empty() -> Self {
        let turn = Turn::wait();
        Self::on(free_network(), None, turn)
    }

    /// A cluster of `count` nodes that serve, each on a host of its own: see [`Hosts`].
    ///
    /// # Errors
    /// Why there are no such hosts here.
    pub fn on_hosts(count: u8, setup: impl Fn(NodeSetup) -> NodeSetup) -> Result<Self, String> {
        let turn = Turn::wait();
        let hosts = Hosts::make(count)?;
        let mut cluster = Self::on(hosts.network(), Some(hosts), turn);
        for id in 1..=u64::from(count) {
            let first = if id == 1 { NodeSetup::founder(count.into()) } else { NodeSetup::joiner(&[1]) };
            cluster.add(id, &setup(first)).start();
        }
        cluster.wait_ready();
        Ok(cluster)
    }

    fn on(network: [u8; 3], hosts: Option<Hosts>, turn: Turn) -> Self {
        let directory = TempDir::with_prefix("mks-test-").expect("there is a writable temporary directory");
        let cluster = Self { nodes: Vec::new(), directory, hosts, network, _turn: turn };
        let key: String =
            (0..32_u8).map(|byte| format!("{:02x}", byte.wrapping_mul(37) ^ cluster.network[2])).collect();
        std::fs::write(cluster.key_path(), key).expect("the test's directory is writable");
        make_private(&cluster.key_path());
        cluster
    }

    /// A cluster of `count` nodes that serve: node 1 founded it, the others joined all at once.
    #[must_use]
    pub fn of(count: u32) -> Self {
        Self::with(&vec!["fjall"; count as usize])
    }

    /// What an operator waits for before he stops the next node: this one is back in the eyes of another.
    ///
    /// # Panics
    /// When it is not within [`PATIENCE`].
    pub async fn wait_back(&self, id: u64) {
        self.eventually("the node is back", async |cluster| {
            let other = 1 + id % 3;
            let members = cluster.node(other).client().members().await;
            members.is_ok_and(|members| members.iter().all(|m| m.node == other || (m.alive && m.linked)))
        })
        .await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }

    /// As [`Cluster::of`], with more lines in each config.
    #[must_use]
    pub fn configured(count: u32, config: &str) -> Self {
        let mut cluster = Self::empty();
        for id in 1..=u64::from(count) {
            let setup = if id == 1 { NodeSetup::founder(count) } else { NodeSetup::joiner(&[1]) };
            cluster.add(id, &setup.with(config)).start();
        }
        cluster.wait_ready();
        cluster
    }

    /// As [`Cluster::of`], with a storage adapter for each node.
    #[must_use]
    pub fn with(adapters: &[&str]) -> Self {
        let mut cluster = Self::empty();
        let count = u32::try_from(adapters.len()).expect("tests have few nodes");
        for (id, adapter) in (1..).zip(adapters) {
            let setup = if id == 1 { NodeSetup::founder(count) } else { NodeSetup::joiner(&[1]) };
            cluster.add(id, &setup.with_adapter(adapter)).start();
        }
        cluster.wait_ready();
        cluster
    }

    /// Adds a node; nothing is started.
    pub fn add(&mut self, id: u64, setup: &NodeSetup) -> &mut Node {
        assert!(self.nodes.iter().all(|node| node.id() != id), "node {id} exists already");
        self.nodes.push(self.make(id, &format!("node-{id}"), setup));
        self.nodes.last_mut().expect("it was just added")
    }

    /// A node that is not part of the list: it may have an id that is taken, and another directory.
    #[must_use]
    pub fn stranger(&self, id: u64, directory: &str, setup: &NodeSetup) -> Node {
        self.make(id, directory, setup)
    }

    fn make(&self, id: u64, directory: &str, setup: &NodeSetup) -> Node {
        // A node of the list lives at its id, a stranger at the far end of the network.
        let listed = directory == format!("node-{id}");
        let host = u8::try_from(id).expect("tests have small node ids") + if listed { 0 } else { 100 };
        let mut node = Node::new(id, self.host(host), self.directory.path().join(directory));
        if let Some(hosts) = &self.hosts {
            node.set_namespace(hosts.namespace(host));
        }
        node.configure(&self.config(&node, setup));
        node
    }

    fn host(&self, host: u8) -> Ipv4Addr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, host)
    }

    /// Another setup for a node that exists; counts from its next start.
    pub fn reconfigure(&mut self, id: u64, setup: &NodeSetup) {
        let text = self.config(self.node(id), setup);
        self.node_mut(id).configure(&text);
    }

    fn config(&self, node: &Node, setup: &NodeSetup) -> String {
        let seeds: Vec<String> = setup
            .seeds
            .iter()
            .map(|&id| format!("\"{}:{}\"", self.host(id as u8), node.peer_address().port()))
            .collect();
        let is_list = setup.adapter.starts_with('[');
        let adapter = if is_list { setup.adapter.clone() } else { format!("{:?}", setup.adapter) };
        format!(
            "[node]\nid = {}\ndata_dir = {:?}\n\
             [listen]\nclient = \"{}\"\npeer = \"{}\"\nhttp = \"{}\"\n\
             [cluster]\nkey_file = {:?}\nbootstrap = {}\njoin = [{}]\nexpect = {}\n\
             [storage]\nadapter = {}\n{}",
            node.id(),
            node.data_dir(),
            node.client_address(),
            node.peer_address(),
            node.http_address(),
            self.key_path(),
            setup.bootstrap,
            seeds.join(", "),
            setup.expect,
            adapter,
            setup.more,
        )
    }

    /// The cables between its nodes.
    ///
    /// # Panics
    /// When they share this machine's loopback.
    #[must_use]
    pub fn hosts(&self) -> &Hosts {
        self.hosts.as_ref().expect("the cluster was made with `on_hosts`")
    }

    /// The file with the cluster's key.
    #[must_use]
    pub fn key_path(&self) -> PathBuf {
        self.path("cluster.key")
    }

    /// A path in the test's own directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The node with this id.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn node(&self, id: u64) -> &Node {
        self.nodes.iter().find(|node| node.id() == id).expect("the test added this node")
    }

    /// See [`Cluster::node`].
    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id() == id).expect("the test added this node")
    }

    /// All nodes.
    pub fn nodes(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.iter_mut()
    }

    /// Waits until all nodes serve.
    pub fn wait_ready(&mut self) {
        self.nodes.iter_mut().for_each(Node::wait_ready);
    }

    /// Client addresses of all nodes, as `--addr` takes them.
    #[must_use]
    pub fn addresses(&self) -> String {
        let all: Vec<String> = self.nodes.iter().map(|node| node.client_address().to_string()).collect();
        all.join(",")
    }

    /// Waits until `check` holds.
    ///
    /// # Panics
    /// When it does not within [`PATIENCE`]; `what` says what was waited for.
    pub async fn eventually(&self, what: &str, mut check: impl AsyncFnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !check(self).await {
            assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- the log of node {} ends with\n{}", node.id(), node.log_tail());
            }
        }
    }
}

/// The key file may be read by its owner only; nodes refuse others.
fn make_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, private).expect("the file was just written");
}

/// A network in 127.0.0.0/8 that nobody uses: parallel tests and test runs must not meet.
fn free_network() -> [u8; 3] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(number < 250, "no free loopback network is left");
        let network = [127, 1 + (std::process::id() % 250) as u8, 1 + number as u8];
        let probe = (Ipv4Addr::new(network[0], network[1], network[2], 1), 7401);
        if TcpListener::bind(probe).is_ok() {
            return network;
        }
    }
}

/// The right to run a cluster; see [`CLUSTERS_AT_ONCE_MAX`].
#[derive(Debug)]
struct Turn(());

static RUNNING: Mutex<u32> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, u32> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turn {
    fn wait() -> Self {
        let mut running = lock();
        while *running >= CLUSTERS_AT_ONCE_MAX {
            running = FREED.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *lock() -= 1;
        FREED.notify_one();
    }
}
