//! What moves: the change of the table that is under way, and this node's part of it.

use super::AdminService;
use crate::handle::ChangeView;
use crate::status;
use mks_logic::cluster::{Change, Standing};
use mks_logic::moves::{Moving, Phase, Way};
use mks_proto::v1::{MoveWay, MovesResponse, PartitionMove, TableChange};

impl AdminService {
    pub(super) fn moves(&self) -> MovesResponse {
        let (state, view) = (self.state(), self.handle.view.load());
        let leaving = state.members.iter().filter(|(_, member)| member.standing == Standing::Leaving);
        MovesResponse {
            node: self.handle.node.0,
            epoch: state.epoch.0,
            asked: state.asked,
            settled: state.settled,
            change: state.change.as_ref().map(|change| table_change(change, view.change)),
            moves: view.moves.iter().map(partition_move).collect(),
            leaving: leaving.map(|(node, _)| node.0).collect(),
            waits: status::waits(&self.handle, &state),
            keyspaces: state.recopied().map(|(keyspace, _)| keyspace.name.clone()).collect(),
        }
    }
}

fn table_change(change: &Change, view: Option<ChangeView>) -> TableChange {
    let left = change.waits.len() as u32;
    // The pump may not have heard of it yet.
    let view = view.filter(|view| view.id == change.id);
    TableChange {
        id: change.id,
        began: change.began.0,
        partitions: change.moving,
        left,
        closing: change.closing.is_some(),
        known_ms: view.map_or(0, |view| u64::try_from(view.since.elapsed().as_millis()).unwrap_or(u64::MAX)),
        left_then: view.map_or(left, |view| view.left_then),
    }
}

fn partition_move(moving: &Moving) -> PartitionMove {
    let way = match moving.way {
        Way::In => MoveWay::In,
        Way::Out => MoveWay::Out,
    };
    PartitionMove {
        partition: moving.partition.0.into(),
        way: way.into(),
        state: moving.phase.name().into(),
        peer: if let Phase::Comparing(peer) = moving.phase { peer.0 } else { 0 },
        compared: moving.compared.into(),
        needed: moving.needed.into(),
        records: moving.records,
        bytes: moving.bytes,
        error: moving.error.map_or_else(String::new, |error| error.to_string()),
    }
}
