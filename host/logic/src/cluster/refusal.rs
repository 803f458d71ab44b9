//! Why an entry is refused, in words that say what to do instead.

use crate::id::{Epoch, NodeId};
use crate::port::ResolverHash;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Why an entry changes nothing. The state is as before.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// Asked of a cluster that was not born, or born twice.
    #[error("{0}")]
    Order(String),
    /// Another data directory has this node id.
    #[error(
        "node id {node} belongs to another data directory; give this node an id of its own, or its old directory back"
    )]
    IdTaken {
        /// Which id.
        node: NodeId,
    },
    /// Another process opened the same data directory later.
    #[error("another process has opened the data directory of {node} since; this one must stop")]
    Superseded {
        /// Whose directory.
        node: NodeId,
    },
    /// The node left the cluster.
    #[error(
        "{node} has left this cluster, and its id is not given again; start it with an empty data directory under a new \
         node id"
    )]
    Removed {
        /// Who.
        node: NodeId,
    },
    /// The data directory is an old copy of what it was.
    #[error(
        "the data directory of {node} is an old copy: it was opened {known} times, and this copy knows of {opened}. It \
         would bring back what was overwritten and deleted since; start with an empty data directory under a new node \
         id, and let it replace {node}"
    )]
    RolledBack {
        /// Whose.
        node: NodeId,
        /// What the copy says.
        opened: u64,
        /// What was said before.
        known: u64,
    },
    /// No such member.
    #[error("there is no member {node}; `node list` shows those that exist")]
    NodeUnknown {
        /// Who.
        node: NodeId,
    },
    /// Something has changed since the plan was made.
    #[error("the plan was made in epoch {}, and now it is {}; look at a new plan", seen.0, now.0)]
    Stale {
        /// The epoch of the plan.
        seen: Epoch,
        /// The epoch now.
        now: Epoch,
    },
    /// The definition contradicts itself or the cluster.
    #[error("{0}")]
    Invalid(String),
    /// A keyspace of that name exists.
    #[error("a keyspace named {0:?} exists already; `keyspace alter` changes it")]
    KeyspaceExists(String),
    /// No keyspace of that name.
    #[error("there is no keyspace named {0:?}; `keyspace list` shows those that exist")]
    KeyspaceUnknown(String),
    /// No such plugin.
    #[error("there is no plugin {0}; `plugin list` shows those that exist, `plugin install` adds one")]
    PluginUnknown(String),
    /// The name and the version belong to other code.
    #[error(
        "{plugin} is installed already, and is other code ({hash:?}): a name and a version are one code, for ever; give \
         yours another version"
    )]
    PluginExists {
        /// `name@version`.
        plugin: String,
        /// What it is.
        hash: ResolverHash,
    },
    /// A keyspace can't do without.
    #[error("{plugin} settles the conflicts of {}; give them another resolver first", keyspaces.join(", "))]
    PluginUsed {
        /// `name@version`.
        plugin: String,
        /// Who uses it.
        keyspaces: Vec<String>,
    },
    /// Not all members have it.
    #[error("{plugin} is not armed yet: {} must fetch, check and compile it first", listed(waits))]
    PluginNotArmed {
        /// `name@version`.
        plugin: String,
        /// Who has not.
        waits: Vec<NodeId>,
    },
    /// It must not run.
    #[error("{plugin} is quarantined: {reason}; `plugin alter --release` lets it run again")]
    PluginQuarantined {
        /// `name@version`.
        plugin: String,
        /// Why.
        reason: String,
    },
}

fn listed(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
