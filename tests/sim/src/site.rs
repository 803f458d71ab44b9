//! Everything of a run that invariants may look at.

use crate::history::History;
use crate::log::Log;
use crate::machine::Machine;
use crate::plan::Plan;
use mks_logic::cluster::{Standing, State};
use mks_logic::id::{Key, NodeId};
use mks_logic::node::Node;
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
        state.tables(key.place(state.partition_bits).partition, self.plan.quorums.0).all()
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
        if state.change.is_some() || state.is_unsettled() {
            return Err(format!(
                "{:?} is under way, of {} wishes {} are done",
                state.change, state.asked, state.settled
            ));
        }
        if let Some((node, member)) = state.members.iter().find(|(_, member)| member.standing == Standing::Leaving) {
            return Err(format!("{node} is still {}", member.standing.name()));
        }
        for machine in self.present() {
            let moves = machine.node.as_ref().map(Node::moves).unwrap_or_default();
            if machine.applied < self.log.entries.len() || !moves.is_empty() {
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
