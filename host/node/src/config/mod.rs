//! What an operator may set: one TOML file, then environment variables, then flags; the later one wins.
//!
//! A setting that is unknown, of the wrong type or at odds with another refuses to start, with file, line and reason:
//! a typo must never become a default. `docs/mks.example.toml` shows every setting; a test keeps it complete.

mod adapter;
mod check;
mod secret;
mod source;

pub use adapter::{Adapter, AdapterChain, Link};
pub use secret::{ClusterKey, KeyError, read_key};
pub use source::{ConfigError, Flag, Problem, Sources};

use mks_logic::cluster::Addresses;
use mks_logic::id::NodeId;
use mks_logic::limits::Limits;
use mks_logic::member::GossipSettings;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The example file that documents every setting, as `mks config example` prints it.
pub const EXAMPLE: &str = include_str!("../../../../docs/mks.example.toml");

/// Everything one node is told at its start. [`Config::load`] is the way to get one that is checked.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// Where it listens, and how others find it.
    pub listen: Listen,
    /// The cluster it belongs to.
    pub cluster: Cluster,
    /// Its storage engine.
    pub storage: Storage,
    /// Its bounds.
    #[serde(with = "LimitFields")]
    pub limits: Limits,
    /// How it watches the others.
    #[serde(with = "GossipFields")]
    pub gossip: GossipSettings,
    /// What it writes about itself.
    pub log: Log,
    /// Figures for Prometheus.
    pub metrics: Metrics,
}

/// `[node]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Unique in the cluster, from 1 up; belongs to the data directory for ever. Zero stands for "not set".
    pub id: NodeId,
    /// Everything that the node keeps lies here. Empty stands for "not set".
    pub data_dir: PathBuf,
    /// Failure domain: owners of one partition lie in different zones where zones allow. Empty: a zone of its own.
    pub zone: String,
    /// Share of the data relative to other nodes; 100 is usual.
    pub weight: u32,
    /// Threads that serve requests. One is fastest where several nodes share few cores (docs/benchmarks.md).
    pub workers: usize,
    /// Added to the wall clock, milliseconds. For tests of skewed clocks only.
    pub test_clock_offset_ms: i64,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            id: NodeId(0),
            data_dir: PathBuf::new(),
            zone: String::new(),
            weight: 100,
            workers: 1,
            test_clock_offset_ms: 0,
        }
    }
}

/// `[listen]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// gRPC for clients.
    pub client: SocketAddr,
    /// gRPC for other nodes on TCP, gossip on the same port on UDP.
    pub peer: SocketAddr,
    /// HTTP: `/get`, `/set`, `/v1`, `/health`, `/ready`, `/metrics`.
    pub http: SocketAddr,
    /// Host name or IP under which others reach all three, with the ports above.
    pub advertise: Option<String>,
    /// `host:port` for `client` alone; wins over `advertise`.
    pub advertise_client: Option<String>,
    /// `host:port` for `peer` alone; wins over `advertise`.
    pub advertise_peer: Option<String>,
    /// `host:port` for `http` alone; wins over `advertise`.
    pub advertise_http: Option<String>,
}

/// Port of clients on a node that was not told another; also where the command line looks for one.
pub const CLIENT_PORT: u16 = 7400;

impl Default for Listen {
    fn default() -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            client: local(CLIENT_PORT),
            peer: local(CLIENT_PORT + 1),
            http: local(CLIENT_PORT + 2),
            advertise: None,
            advertise_client: None,
            advertise_peer: None,
            advertise_http: None,
        }
    }
}

impl Listen {
    /// What the roster says of this node, given where its sockets are bound (port 0 in the config becomes a real one).
    #[must_use]
    pub fn advertised(&self, client: SocketAddr, peer: SocketAddr, http: SocketAddr) -> Addresses {
        let name = |special: &Option<String>, bound: SocketAddr| match (special, &self.advertise) {
            (Some(address), _) => address.clone(),
            // An IPv6 host needs brackets beside a port.
            (None, Some(host)) if host.parse::<std::net::Ipv6Addr>().is_ok() => format!("[{host}]:{}", bound.port()),
            (None, Some(host)) => format!("{host}:{}", bound.port()),
            (None, None) => bound.to_string(),
        };
        Addresses {
            client: name(&self.advertise_client, client),
            peer: name(&self.advertise_peer, peer),
            http: name(&self.advertise_http, http),
        }
    }
}

/// `[cluster]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// File with the key that seals gossip and peer streams: see [`Config::cluster_key`].
    pub key_file: Option<PathBuf>,
    /// The key itself, 32 bytes as 64 hex digits or as base64. Better kept in a file.
    pub key: Option<ClusterKey>,
    /// Found a new cluster if the data directory is empty. On exactly one node, and never together with `join`.
    pub bootstrap: bool,
    /// Peer addresses (`host:port`) of some members; any one that answers will do.
    pub join: Vec<String>,
    /// Nodes that must have joined before the ring is made. Counts on the node that founds the cluster.
    pub expect: u32,
    /// The cluster has 2^bits partitions, for ever. Counts on the node that founds the cluster.
    pub partition_bits: u8,
    /// Time between two epochs, seconds.
    pub epoch_period_s: u64,
    /// What becomes of a node that joins a cluster that has formed. Counts on the node that leads the epoch log.
    pub join_policy: JoinPolicy,
}

/// `cluster.join_policy`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JoinPolicy {
    /// It owns nothing until an operator accepts it (`mks node accept`), or lets it take a dead node's place.
    #[default]
    Accept,
    /// It gets its share at once.
    Auto,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            key_file: None,
            key: None,
            bootstrap: false,
            join: Vec::new(),
            expect: 1,
            partition_bits: 8,
            epoch_period_s: 900,
            join_policy: JoinPolicy::Accept,
        }
    }
}

/// `[storage]`. Durability is not here: it belongs to the keyspace.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// The components in front of the engine. Another engine than before, or another form of values: the next start
    /// copies the store.
    pub adapter: AdapterChain,
    /// Adapters that wrote what is there and are no part of the chain any more: what the copy reads with.
    pub earlier: Vec<Link>,
    /// Names a second engine that takes the same batches, and is compared: how to try one. Nobody reads from it.
    pub shadow: Option<Link>,
    /// What the engine may use for its block cache and write buffers together, bytes. The adapter divides it.
    pub memory_bytes: u64,
    /// Free space that must stay on the disk, bytes. Below it writes are refused, reads go on.
    pub reserve_bytes: u64,
    /// Handed to the last adapter of the chain as they are; which ones exist is its business.
    pub options: BTreeMap<String, String>,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            adapter: AdapterChain::default(),
            earlier: Vec::new(),
            shadow: None,
            memory_bytes: 256 << 20,
            reserve_bytes: 256 << 20,
            options: BTreeMap::new(),
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// For whom log lines are.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,mks=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::People, level: "info".to_owned() }
    }
}

/// For whom log lines are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line each.
    #[default]
    People,
    /// One JSON object each.
    Json,
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Serve `/metrics` on the HTTP port.
    pub enabled: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[limits]`: the fields of [`Limits`], which itself knows nothing of files. The compiler keeps the two equal.
#[derive(Deserialize)]
#[serde(remote = "Limits", default = "Limits::default", deny_unknown_fields)]
struct LimitFields {
    key_bytes_max: usize,
    value_bytes_max: usize,
    batch_items_max: usize,
    batch_bytes_max: usize,
    operations_max: usize,
    operations_bytes_max: usize,
    deadline_default_ms: u64,
    deadline_max_ms: u64,
    hedge_after_ms: u64,
    hedge_after_min_ms: u64,
    stand_in_after_ms: u64,
    request_ids_max: usize,
    clock_offset_max_ms: u64,
    disk_jobs_max: usize,
    early_messages_max: usize,
    sync_period_ms: u64,
    sync_sessions_max: usize,
    sync_served_max: usize,
    sync_bytes_per_second: u64,
    sync_message_bytes_max: usize,
    sync_steps_max: u32,
    sync_answer_ms: u64,
    sync_quiet_ms: u64,
    scrub_period_ms: u64,
    scrub_bytes_per_second: u64,
    lingering_max: usize,
    lingering_bytes_max: usize,
    repair_after_ms: u64,
    repairs_max: usize,
    repairs_bytes_max: usize,
    hint_after_ms: u64,
    hint_bytes_per_owner_max: u64,
    hint_bytes_max: u64,
    hint_window_max: usize,
    hint_window_bytes_max: usize,
    hint_retry_ms: u64,
    needs_sync_max: usize,
    move_retry_ms: u64,
    seals: bool,
}

/// `[gossip]`: the fields of [`GossipSettings`], as above.
#[derive(Deserialize)]
#[serde(remote = "GossipSettings", default = "GossipSettings::default", deny_unknown_fields)]
struct GossipFields {
    probe_period_ms: u64,
    probe_timeout_ms: u64,
    suspicion_ms: u64,
    gossip_period_ms: u64,
    announce_period_ms: u64,
    fanout: u8,
}

#[cfg(test)]
mod tests;
