//! Nothing grows beyond its limit.

use super::{Invariant, Verdict};
use crate::site::Site;
use mks_logic::event::Effect;
use mks_logic::id::NodeId;
use mks_logic::replica::SIBLINGS_MAX;

#[derive(Debug, Default)]
pub(super) struct Bounds;

impl Invariant for Bounds {
    fn name(&self) -> &'static str {
        "bounds"
    }

    fn stepped(&mut self, site: &Site, node: NodeId, _effects: &[Effect]) -> Verdict {
        let Some(process) = &site.machine(node).node else { return Ok(()) };
        let (load, limits) = (process.load(), &site.plan.limits);
        // One owner's repair may be several versions, which are jobs for our own disk where it is we. A request that
        // comes to an idle node may exceed the limit alone; a batch counts itself beside its items.
        let batch = site.keys.len() + 1;
        let operations = limits.operations_max.max(batch) + 1;
        let fits = load.operations <= operations
            && load.jobs <= limits.disk_jobs_max + SIBLINGS_MAX
            && load.early <= limits.early_messages_max;
        let fits = fits && load.lingering <= limits.lingering_max && load.hint_jobs <= limits.disk_jobs_max + 64;
        let fits = fits && load.repairs <= limits.repairs_max + SIBLINGS_MAX;
        let fits = fits && load.deadlines == load.operations + load.lingering && load.awaiting_epoch <= load.operations;
        if fits { Ok(()) } else { Err(format!("{node} holds {load:?}")) }
    }
}
