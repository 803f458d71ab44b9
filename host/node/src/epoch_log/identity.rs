//! Who a data directory is: made with it, kept in it, and checked at every start.

use super::codec::{decode, encode};
use super::raft_log::StartError;
use bytes::Bytes;
use mks_logic::id::NodeId;
use mks_logic::port::{Change, Durability, Store, StoreError, Table};
use rand::TryRng;
use rand::rngs::SysRng;
use serde::{Deserialize, Serialize};

const KEY: &[u8] = b"identity";
const OPENED_KEY: &[u8] = b"opened";

/// The facts about a data directory that never change, and its cluster, once it has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The node it belongs to.
    pub node: NodeId,
    /// Random name of the directory.
    pub directory: u128,
    /// The cluster it belongs to; zero until it has joined one.
    pub cluster: u128,
    /// The node that founded the cluster: it alone may start the first Raft group.
    pub founder: bool,
}

impl Identity {
    /// Reads the identity of a data directory; an empty one gets a new one.
    ///
    /// # Errors
    /// When the directory belongs to another node, when the store fails, or when there is no entropy.
    pub(super) fn open(store: &dyn Store, node: NodeId) -> Result<Self, StartError> {
        if let Some(bytes) = store.get(Table::Meta, KEY)? {
            let identity: Self = decode("identity", &bytes).map_err(StoreError::from)?;
            if identity.node != node {
                return Err(StartError::OtherNode { directory_of: identity.node, node });
            }
            return Ok(identity);
        }
        let identity = Self { node, directory: random_name()?, cluster: 0, founder: false };
        identity.save(store)?;
        Ok(identity)
    }

    /// Writes the identity; it is on the disk when this returns.
    pub(super) fn save(&self, store: &dyn Store) -> Result<(), StoreError> {
        let value = encode("identity", self)?.into();
        let change = Change::Put { table: Table::Meta, key: Bytes::from_static(KEY), value };
        store.apply(vec![change], Durability::Sync)
    }
}

/// Counts this opening of the data directory. The new number is on the disk when this returns, so that the cluster
/// never hears a number that a later opening could say again.
pub(super) fn count_opening(store: &dyn Store) -> Result<u64, StoreError> {
    let before: u64 = match store.get(Table::Meta, OPENED_KEY)? {
        Some(bytes) => decode("number of openings", &bytes)?,
        None => 0,
    };
    let opened = before.saturating_add(1);
    let value = encode("number of openings", &opened)?.into();
    let change = Change::Put { table: Table::Meta, key: Bytes::from_static(OPENED_KEY), value };
    store.apply(vec![change], Durability::Sync)?;
    Ok(opened)
}

/// A name that nobody else has, and never zero.
pub(super) fn random_name() -> Result<u128, StartError> {
    let mut bytes = [0; 16];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| StartError::Entropy(error.to_string()))?;
    Ok(u128::from_le_bytes(bytes).max(1))
}
