//! Once the trouble is over, hints are paid and all owners of a key hold the same, as long as no hint was lost: by a
//! dead coordinator, a full disk, or a verdict that a failing resolver did not give. Writes that nobody had
//! acknowledged when they failed are owed to nobody either: seeds whose owners refuse for being busy, or for a clock,
//! are left out.

use super::{Invariant, Verdict};
use crate::fault::{Fault, FaultSet};
use crate::log::PARTITION_BITS;
use crate::site::{Phase, Site};
use mks_logic::limits::Limits;

/// Faults after which anti-entropy alone could make owners equal.
const BEYOND_HINTS: [Fault; 12] = [
    Fault::Members,
    Fault::Copies,
    Fault::Kill,
    Fault::PowerCut,
    Fault::Blackout,
    Fault::DiskFull,
    Fault::DiskError,
    Fault::DiskSync,
    Fault::BitFlip,
    Fault::Skew,
    Fault::Jump,
    Fault::Resolver,
];

#[derive(Debug, Default)]
pub(super) struct Convergence;

impl Invariant for Convergence {
    fn name(&self) -> &'static str {
        "convergence"
    }

    fn ended(&mut self, site: &Site) -> Verdict {
        let beyond = BEYOND_HINTS.iter().fold(FaultSet::default(), |set, fault| set.with(*fault));
        let busy = site.plan.limits.disk_jobs_max < Limits::default().disk_jobs_max;
        if busy || site.phase != Phase::Liveness || site.plan.faults.without(beyond) != site.plan.faults {
            return Ok(());
        }
        let nodes = || site.machines.iter().filter_map(|machine| machine.node.as_ref());
        if nodes().any(|node| node.figures().hints_dropped.iter().any(|dropped| *dropped > 0)) {
            return Ok(());
        }
        for (node, machine) in nodes().zip(&site.machines) {
            if let Some((owner, owed)) = node.hints().next() {
                return Err(format!("{} still owes {owner} {} writes", machine.id, owed.count));
            }
        }
        for key in &site.keys {
            let engine_key = key.engine_key(PARTITION_BITS);
            let digests: Vec<u64> =
                site.owners(key).iter().map(|owner| site.machine(*owner).disk.record(&engine_key).digest()).collect();
            if digests.windows(2).any(|pair| pair[0] != pair[1]) {
                return Err(format!("the owners {:?} of {key:?} hold {digests:x?}", site.owners(key)));
            }
        }
        Ok(())
    }
}
