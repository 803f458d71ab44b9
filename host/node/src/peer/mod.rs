//! Streams between nodes: one long-lived gRPC stream for each ordered pair, carrying batches of messages.
//!
//! A frame is whatever lies in the outbox when the wire is free, never a wait. The pump gets whole frames; the codec
//! between protobuf and `logic::message` is in `convert`.

pub mod convert;
mod link;
mod server;
mod wire;

pub use link::{Link, LinkParts};
pub use server::{ControlPlane, serve};
pub use wire::PeerWire;

use mks_logic::id::NodeId;
use tonic::metadata::{MetadataMap, MetadataValue};

/// A frame may hold a batch of the largest values, and a little more.
const FRAME_BYTES_LIMIT: usize = 64 << 20;

const FROM: &str = "mks-node";
const PROOF: &str = "mks-proof";

/// What makes two nodes of one cluster trust each other's streams.
///
/// The proof shows that the caller knows the cluster key; it does not encrypt. Between machines, run the peer port on
/// a network that strangers can't read.
#[derive(Clone)]
pub struct Trust {
    me: NodeId,
    key: [u8; 32],
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Trust {
    /// Trust between all who hold `cluster_key`.
    #[must_use]
    pub fn new(me: NodeId, cluster_key: &[u8; 32]) -> Self {
        Self { me, key: blake3::derive_key("my-key-store 1 peer stream proof", cluster_key) }
    }

    fn proof(&self, from: NodeId) -> String {
        blake3::keyed_hash(&self.key, &from.0.to_be_bytes()).to_hex().to_string()
    }

    /// Signs an outgoing call.
    fn sign(&self, metadata: &mut MetadataMap) {
        metadata.insert(FROM, MetadataValue::from(self.me.0));
        if let Ok(proof) = MetadataValue::try_from(self.proof(self.me)) {
            metadata.insert(PROOF, proof);
        }
    }

    /// Who calls, if the caller knows the key.
    fn check(&self, metadata: &MetadataMap) -> Result<NodeId, tonic::Status> {
        let refused =
            || tonic::Status::unauthenticated("this port is for nodes of this cluster: the cluster key differs");
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
        let from = text(FROM).and_then(|id| id.parse().ok()).map(NodeId).ok_or_else(refused)?;
        let given = text(PROOF).ok_or_else(refused)?;
        // `Hash` compares in constant time.
        let given = blake3::Hash::from_hex(given).map_err(|_| refused())?;
        let right = blake3::keyed_hash(&self.key, &from.0.to_be_bytes());
        if given == right { Ok(from) } else { Err(refused()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_holders_of_the_key_are_believed_and_only_about_themselves() {
        let mine = Trust::new(NodeId(1), &[7; 32]);
        let mut metadata = MetadataMap::new();
        mine.sign(&mut metadata);
        assert_eq!(Trust::new(NodeId(2), &[7; 32]).check(&metadata).ok(), Some(NodeId(1)));
        assert!(Trust::new(NodeId(2), &[8; 32]).check(&metadata).is_err());
        metadata.insert(FROM, MetadataValue::from(3));
        assert!(Trust::new(NodeId(2), &[7; 32]).check(&metadata).is_err());
        assert!(mine.check(&MetadataMap::new()).is_err());
    }
}
