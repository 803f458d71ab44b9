//! Everything of a run that invariants may look at.

use crate::history::History;
use crate::log::Log;
use crate::machine::Machine;
use crate::plan::Plan;
use mks_logic::cluster::State;
use mks_logic::id::{Key, NodeId};
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
    /// The state in which the run began; the ring is as it was.
    pub birth: Arc<State>,
    /// All keys of the run.
    pub keys: Vec<Key>,
    /// What clients did and saw.
    pub history: History,
    /// Requests without a reply.
    pub waiting: usize,
    /// When faults were over; `u64::MAX` before.
    pub healed_us: u64,
}

impl Site {
    /// Who owns a key.
    #[must_use]
    pub fn owners(&self, key: &Key) -> &[NodeId] {
        self.birth.owners(key.place(self.birth.partition_bits).partition, self.plan.quorums.0)
    }

    /// One machine.
    #[must_use]
    pub fn machine(&self, id: NodeId) -> &Machine {
        &self.machines[id.0 as usize - 1]
    }
}
