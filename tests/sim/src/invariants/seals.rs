//! What was purged comes back nowhere: when a tombstone goes, no member holds anything that it had superseded, nor gets
//! it later. And once the trouble is over, every partition is sealed, and no tombstone is left that its seal covers.

use super::{Invariant, Verdict};
use crate::log::PARTITION_BITS;
use crate::machine::Machine;
use crate::site::Site;
use mks_logic::event::WriteJob;
use mks_logic::id::NodeId;
use mks_logic::note::tombstone;
use mks_logic::outline::Outline;
use mks_logic::record::Record;
use mks_logic::time::Hlc;

#[derive(Debug, Default)]
pub(super) struct Seals;

fn older(record: &Record, stamp: Hlc) -> bool {
    record.versions().iter().any(|version| version.written < stamp && !version.is_tombstone())
}

impl Invariant for Seals {
    fn name(&self) -> &'static str {
        "seals"
    }

    fn committed(&mut self, site: &Site, node: NodeId, group: &[WriteJob]) -> Verdict {
        if site.purged.is_empty() || !site.log.state.has_living(node) {
            return Ok(());
        }
        for key in group.iter().map(|job| &job.key) {
            let purged = site.keys.iter().position(|known| known == key).and_then(|at| site.purged.get(&at));
            let Some(stamp) = purged else { continue };
            let record = site.machine(node).disk.record(&key.engine_key(PARTITION_BITS));
            if older(&record, *stamp) {
                return Err(format!(
                    "{node} has {record:?} of {key:?} again, which a tombstone of {stamp:?} had removed"
                ));
            }
        }
        Ok(())
    }

    fn purged(&mut self, site: &Site, node: NodeId, key: usize, stamp: Hlc) -> Verdict {
        let engine_key = site.keys[key].engine_key(PARTITION_BITS);
        let holds = |machine: &&Machine| {
            let disk = &machine.disk;
            older(&disk.record(&engine_key), stamp) || older(&disk.synced_record(&engine_key), stamp)
        };
        let members = site.machines.iter().filter(|machine| site.log.state.has_living(machine.id));
        match members.clone().find(holds) {
            Some(other) => Err(format!(
                "{node} purges a tombstone of {stamp:?} of {:?}, and {} still holds what it supersedes",
                site.keys[key], other.id
            )),
            None => Ok(()),
        }
    }

    fn ended(&mut self, site: &Site) -> Verdict {
        if site.seal_goal.is_none() {
            return Ok(());
        }
        if let Some(waits) = site.unsealed() {
            return Err(waits);
        }
        if site.plan.workload.is_causal() {
            return Ok(());
        }
        for key in &site.keys {
            let seal = site.log.state.sealed(key.place(PARTITION_BITS).partition);
            for owner in site.owners(key) {
                let outline = Outline::of(&site.machine(owner).disk.record(&key.engine_key(PARTITION_BITS)));
                let left = tombstone(&outline.rows).filter(|row| seal.covers(row.epoch, row.written));
                if let Some(row) = left {
                    return Err(format!("{owner} holds {row:?} of {key:?}, which the seal of {seal:?} covers"));
                }
            }
        }
        Ok(())
    }
}
