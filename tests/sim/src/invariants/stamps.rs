//! A write is stamped above every write of its key that was acknowledged before it began, and what an owner has synced
//! never gets older. Where causality decides, stamps do not matter; and writes of a sloppy quorum that other nodes
//! stood in for met no quorum of owners: clocks alone put them in order.

use super::{Invariant, Replied, Verdict};
use crate::log::PARTITION_BITS;
use crate::site::Site;
use mks_logic::event::{Effect, MoveJob, MoveWork, WriteJob};
use mks_logic::id::NodeId;
use mks_logic::request::Answer;
use mks_logic::time::Hlc;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Stamps {
    /// Per owner and engine key.
    synced: BTreeMap<(NodeId, Vec<u8>), Hlc>,
    /// Per key, when a write was acknowledged, and the latest stamp that was until then. Both rise.
    acked: BTreeMap<usize, Vec<(u64, Hlc)>>,
}

impl Invariant for Stamps {
    fn name(&self) -> &'static str {
        "stamps"
    }

    fn stepped(&mut self, _site: &Site, node: NodeId, effects: &[Effect]) -> Verdict {
        for effect in effects {
            // What is not owned any more may go.
            if let Effect::Move(MoveJob { work: MoveWork::Drop { partition, .. }, .. }) = effect {
                self.synced.retain(|(owner, key), _| *owner != node || !key.starts_with(&partition.0.to_be_bytes()));
            }
        }
        Ok(())
    }

    fn committed(&mut self, site: &Site, node: NodeId, group: &[WriteJob]) -> Verdict {
        if site.plan.workload.is_causal() {
            return Ok(());
        }
        for job in group {
            let key = job.key.engine_key(PARTITION_BITS);
            let disk = &site.machine(node).disk;
            if disk.is_hurt(&key) {
                continue;
            }
            let latest = disk.synced_record(&key).latest().unwrap_or_default();
            let known = self.synced.entry((node, key)).or_default();
            let position = site.keys.iter().position(|key| *key == job.key);
            if latest < *known && !position.is_some_and(|at| site.is_purged(at, *known)) {
                return Err(format!("{node} held {known:?} of {:?}, now {latest:?}", job.key));
            }
            *known = latest;
        }
        Ok(())
    }

    fn replied(&mut self, site: &Site, replied: &Replied<'_>) -> Verdict {
        if site.plan.workload.is_causal() {
            return Ok(());
        }
        for (at, key, reply) in &replied.parts {
            let Ok(Answer::Written { written, hints: 0, .. }) = reply else { continue };
            let event = &site.history.events[*at];
            let acked = self.acked.entry(*key).or_default();
            let before = acked.partition_point(|(when, _)| *when < event.began);
            if let Some((_, above)) = before.checked_sub(1).map(|i| acked[i]).filter(|(_, above)| above >= written) {
                let key = &site.keys[*key];
                return Err(format!("{key:?}: {written:?} is acknowledged, {above:?} was before it began"));
            }
            if event.ended.is_some() {
                let latest = acked.last().map_or(Hlc::ZERO, |(_, latest)| *latest).max(*written);
                acked.push((site.now_us, latest));
            }
        }
        Ok(())
    }
}
