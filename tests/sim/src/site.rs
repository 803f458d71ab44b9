//! Everything of a run that invariants may look at.

use crate::history::History;
use crate::log::Log;
use crate::machine::Machine;
use crate::plan::Plan;
use mks_logic::cluster::{Standing, State};
use mks_logic::id::{Epoch, Key, NodeId};
use mks_logic::node::Node;
use mks_logic::time::Hlc;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Load under faults.
    Safety,
    /// Faults are over.
    Settling,
    /// Everything must work.
    Liveness,
}

/// Everything that invariants may look at.
#[derive(Debug)]
pub struct Site {
    /// True time, microseconds.
    pub now_us: u64,
    /// What the run is made of.
    pub plan: Plan,
    /// Where it is.
    pub phase: Phase,
    /// By node id, from 1.
    pub machines: Vec<Machine>,
    /// The epoch log.
    pub log: Log,
    /// The state in which the run began.
    pub birth: Arc<State>,
    /// All keys of the run.
    pub keys: Vec<Key>,
    /// What clients did and saw.
    pub history: History,
    /// Requests without a reply.
    pub waiting: usize,
    /// A machine was lost for good, or declared so.
    pub buried: bool,
    /// The least W that the keyspace has had.
    pub w_least: u8,
    /// That part of the time in which nothing happened, microseconds.
    pub leaped_us: u64,
    /// The latest stamp of a tombstone that was purged, by the position of its key.
    pub purged: BTreeMap<usize, Hlc>,
    /// The epoch up to which everything must be sealed in the end.
    pub seal_goal: Option<Epoch>,
    /// When faults were over; `u64::MAX` before.
    pub healed_us: u64,
    /// When all nodes were asked for all keys at the end, where they are; `u64::MAX` before.
    pub last_looks_us: u64,
}

impl Site {
    /// Who owns a key, in any table, as the epoch log has it now.
    #[must_use]
    pub fn owners(&self, key: &Key) -> Vec<NodeId> {
        let state = &self.log.state;
        state.tables(key.place(state.partition_bits).partition, key.keyspace).all()
    }

    /// Whether a write of the key at that position was settled by a tombstone that is purged.
    #[must_use]
    pub fn is_purged(&self, key: usize, written: Hlc) -> bool {
        self.purged.get(&key).is_some_and(|purged| written <= *purged)
    }

    /// Machines that are not off for good.
    pub fn present(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| !machine.gone)
    }

    /// What is asked for of the members is done, everywhere; or what is not.
    ///
    /// # Errors
    /// Who or what it waits for.
    pub fn settled(&self) -> Result<(), String> {
        let state = &self.log.state;
        if state.change.is_some() || state.is_unsettled() || !state.wanted.is_empty() {
            return Err(format!(
                "{:?} is under way, of {} wishes {} are done, and {:?} is wanted",
                state.change, state.asked, state.settled, state.wanted
            ));
        }
        if let Some((node, member)) = state.members.iter().find(|(_, member)| member.standing == Standing::Leaving) {
            return Err(format!("{node} is still {}", member.standing.name()));
        }
        if let Some(machine) = self.present().find(|machine| state.removed.contains_key(&machine.id)) {
            return Err(format!("{} has not heard that it is no member any more", machine.id));
        }
        for machine in self.present() {
            let moves = machine.node.as_ref().map(Node::moves).unwrap_or_default();
            // Entries of other kinds come all the time.
            let behind = (machine.state.changes, machine.state.change.is_some()) != (state.changes, false);
            if behind || !moves.is_empty() {
                return Err(format!("{} still moves {moves:?}", machine.id));
            }
        }
        Ok(())
    }

    /// One machine.
    #[must_use]
    pub fn machine(&self, id: NodeId) -> &Machine {
        &self.machines[id.0 as usize - 1]
    }
}
