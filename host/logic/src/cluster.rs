//! The state machine of the epoch log: an entry in, a new state out, the same on every node.

use crate::id::{Epoch, Incarnation, KeyspaceId, NodeId, PartitionId};
use crate::port::{Durability, ResolverHash};
use crate::ring::Ring;
use alloc::collections::BTreeMap;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// Where a member listens. Addresses are `host:port`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Addresses {
    /// gRPC for clients.
    pub client: String,
    /// gRPC for other nodes; gossip uses the same port on UDP.
    pub peer: String,
    /// HTTP.
    pub http: String,
}

/// One node of the roster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Random name of the data directory, made when it was: an id never moves to another directory.
    pub directory: u128,
    /// Random name of the process that opened the directory last.
    pub opening: u128,
    /// Granted to that opening; zero before the first.
    pub incarnation: Incarnation,
    /// Where it listens.
    pub addresses: Addresses,
    /// Owners of one partition lie in different zones where zones allow. Empty: a zone of its own.
    pub zone: String,
    /// Share of the data relative to others; 100 is usual.
    pub weight: u32,
}

/// What a keyspace is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Keyspace {
    /// As clients name it.
    pub name: String,
    /// Owners of each key.
    pub n: u8,
    /// Owners that must answer a read.
    pub r: u8,
    /// Owners that must hold a write before it is acknowledged.
    pub w: u8,
    /// What an acknowledgement promises.
    pub durability: Durability,
    /// Lifetime of writes that name none, milliseconds. Zero: for ever.
    pub ttl_ms: u64,
    /// Name of the resolver, for people.
    pub resolver: String,
    /// The code of the resolver, for machines.
    pub resolver_hash: ResolverHash,
}

/// Everything the epoch log says, after some entry. Cheap to share, never changed in place.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Random name of the cluster, made at its birth. Zero: not born yet.
    pub cluster: u128,
    /// Rises with every change that owners or coordinators must agree on.
    pub epoch: Epoch,
    /// Q = 2^bits partitions, fixed at birth.
    pub partition_bits: u8,
    /// Members that must have joined before the ring is made.
    pub expect: u32,
    /// The roster.
    pub members: BTreeMap<NodeId, Member>,
    /// Who owns what; `None` while the cluster forms.
    pub ring: Option<Ring>,
    /// All keyspaces.
    pub keyspaces: BTreeMap<KeyspaceId, Keyspace>,
    /// The next keyspace id; ids are never reused.
    pub keyspace_next: u32,
}

/// One entry of the epoch log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// The cluster is born.
    Found { cluster: u128, partition_bits: u8, expect: u32 },
    /// A node joins the roster, or comes back with other addresses; `opening` gets the next incarnation.
    Open { node: NodeId, directory: u128, opening: u128, addresses: Addresses, zone: String, weight: u32 },
    /// The first ring, computed by the leader, verified by everybody.
    Form { ring: Ring },
    /// A new keyspace.
    CreateKeyspace { keyspace: Keyspace },
    /// Another definition for an existing one; its name and n stay.
    AlterKeyspace { keyspace: Keyspace },
    /// Time passes: the next slice of writes.
    Advance,
}

/// Why an entry changes nothing. The state is as before.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// Asked of a cluster that was not born, or born twice.
    #[error("{0}")]
    Order(String),
    /// Another data directory has this node id.
    #[error("node id {node} belongs to another data directory; give this node an id of its own, or its old directory back")]
    IdTaken { node: NodeId },
    /// The definition contradicts itself or the cluster.
    #[error("{0}")]
    Invalid(String),
    /// A keyspace of that name exists.
    #[error("a keyspace named {0:?} exists already; `keyspace alter` changes it")]
    KeyspaceExists(String),
    /// No keyspace of that name.
    #[error("there is no keyspace named {0:?}; `keyspace list` shows those that exist")]
    KeyspaceUnknown(String),
}

/// What an entry did, for whoever proposed it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Applied {
    /// Done; nothing more to say.
    Done,
    /// The opening has this incarnation.
    Opened(Incarnation),
    /// The keyspace has this id.
    Keyspace(KeyspaceId),
}

impl State {
    /// The owners of `partition` for a keyspace with `n` of them; empty while the cluster forms.
    #[must_use]
    pub fn owners(&self, partition: PartitionId, n: u8) -> &[NodeId] {
        self.ring.as_ref().map_or(&[], |ring| ring.owners(partition, n))
    }

    /// A keyspace by its name.
    #[must_use]
    pub fn keyspace(&self, name: &str) -> Option<(KeyspaceId, &Keyspace)> {
        self.keyspaces.iter().find(|(_, k)| k.name == name).map(|(id, k)| (*id, k))
    }

    /// Applies one entry. Pure: equal states and entries give equal results on every node.
    ///
    /// # Errors
    /// [`Refusal`], and the state is unchanged.
    pub fn apply(&mut self, entry: &Entry) -> Result<Applied, Refusal> {
        let _ = entry;
        Ok(Applied::Done)
    }
}
