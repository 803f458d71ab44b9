//! What was acknowledged is there once the trouble is over, also where no owner was in reach when it was written: other
//! nodes stood in, whatever crashed since, and have handed it over.

use super::{Invariant, Replied, Verdict};
use crate::log::PARTITION_BITS;
use crate::site::Site;
use mks_logic::context::Context;
use mks_logic::id::NodeId;
use mks_logic::limits::Limits;
use mks_logic::port::Durability;
use mks_logic::request::Answer;
use mks_logic::time::Hlc;

#[derive(Debug, Default)]
pub(super) struct Handover {
    /// Key, stamp, owners that held it when it was acknowledged, and in a causal keyspace what its writer knows.
    acked: Vec<(usize, Hlc, u8, Option<Context>)>,
}

impl Invariant for Handover {
    fn name(&self) -> &'static str {
        "handover"
    }

    fn replied(&mut self, site: &Site, replied: &Replied<'_>) -> Verdict {
        let Some(asked) = replied.asked else { return Ok(()) };
        let synced = asked.request.durability.unwrap_or(site.plan.durability) == Durability::Sync;
        if synced || !site.plan.loses_power() {
            let written = |(_, key, reply): &(usize, usize, _)| match reply {
                Ok(Answer::Written { written, acks, context, .. }) => Some((*key, *written, *acks, context.clone())),
                _ => None,
            };
            self.acked.extend(replied.parts.iter().filter_map(written));
        }
        Ok(())
    }

    fn settled(&mut self, site: &Site) -> Verdict {
        // Owners whose queues are as short as some plans make them refuse hints again and again.
        let busy = site.plan.limits.disk_jobs_max < Limits::default().disk_jobs_max;
        for (key, written, acks, context) in &self.acked {
            // A tombstone has settled it, and is gone since.
            if site.is_purged(*key, *written) {
                continue;
            }
            let key = &site.keys[*key];
            let engine_key = key.engine_key(PARTITION_BITS);
            let holds = |owner: &NodeId| {
                let record = site.machine(*owner).disk.record(&engine_key);
                context.as_ref().map_or_else(|| record.latest() >= Some(*written), |c| record.context().includes(c))
            };
            let excused = busy && *acks == 0;
            if !excused && !site.owners(key).iter().any(holds) {
                return Err(format!(
                    "no owner of {key:?} holds {written:?}, which was acknowledged, nor anything later"
                ));
            }
        }
        Ok(())
    }
}
