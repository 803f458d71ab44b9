//! Every node that applied an entry of the epoch log is in the same state; epochs never go back; and no owner takes a
//! fresh write from before the epoch that came before its own.

use super::{Invariant, Verdict, carried};
use crate::site::Site;
use mks_logic::cluster::State;
use mks_logic::event::Effect;
use mks_logic::id::{Epoch, Incarnation, NodeId};
use mks_logic::time::Hlc;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Epochs {
    /// By the number of applied entries.
    states: BTreeMap<usize, Arc<State>>,
    /// By process: a power cut may bring the next one back to what the disk had synced.
    latest: BTreeMap<(NodeId, u128), Epoch>,
    /// The epoch in which each write set out; its clock tells attempts of one dot apart.
    stamped: BTreeMap<(NodeId, Incarnation, Hlc), Epoch>,
}

impl Invariant for Epochs {
    fn name(&self) -> &'static str {
        "epochs"
    }

    fn learned(&mut self, site: &Site, node: NodeId) -> Verdict {
        let machine = site.machine(node);
        let known = self.states.entry(machine.applied).or_insert_with(|| Arc::clone(&machine.state));
        if *known != machine.state {
            return Err(format!("{node} is in another state than others after {} entries", machine.applied));
        }
        let latest = self.latest.entry((node, machine.opening)).or_default();
        if *latest > machine.state.epoch {
            return Err(format!("{node} went from {latest} back to {}", machine.state.epoch));
        }
        *latest = machine.state.epoch;
        Ok(())
    }

    fn stepped(&mut self, site: &Site, node: NodeId, effects: &[Effect]) -> Verdict {
        let epoch = site.machine(node).state.epoch;
        for effect in effects {
            let Some((_, version, fresh)) = carried(effect) else { continue };
            let attempt = (version.dot.node, version.dot.incarnation, version.written);
            if version.dot.node == node {
                self.stamped.entry(attempt).or_insert(version.epoch);
            }
            let stamped = self.stamped.get(&attempt).copied().unwrap_or(version.epoch);
            if matches!(effect, Effect::Write(_)) && fresh && stamped.0 + 1 < epoch.0 {
                return Err(format!("{node} in {epoch} takes {:?} of {stamped}", version.dot));
            }
        }
        Ok(())
    }
}
