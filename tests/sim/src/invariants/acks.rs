//! An acknowledgement is true at the moment it is given: the version, or one above it, is on that many owners' disks,
//! as durable as was asked, and that many are W at least.

use super::{Invariant, Replied, Verdict};
use crate::log::PARTITION_BITS;
use crate::site::Site;
use mks_logic::port::Durability;
use mks_logic::request::Answer;

#[derive(Debug, Default)]
pub(super) struct Acks;

impl Invariant for Acks {
    fn name(&self) -> &'static str {
        "acks"
    }

    fn replied(&mut self, site: &Site, replied: &Replied<'_>) -> Verdict {
        let Some(asked) = replied.asked else { return Ok(()) };
        let synced = asked.request.durability.unwrap_or(site.plan.durability) == Durability::Sync;
        for (_, key, reply) in &replied.parts {
            let Ok(Answer::Written { written, acks, context }) = reply else { continue };
            if *acks < site.plan.quorums.2 {
                return Err(format!("{acks} acks, W is {}", site.plan.quorums.2));
            }
            if !synced && site.plan.loses_power() {
                continue;
            }
            let key = &site.keys[*key];
            let engine_key = key.engine_key(PARTITION_BITS);
            let holds = |disk: &crate::disk::Disk| {
                // What the disk itself destroyed was there when its owner said so.
                if disk.is_hurt(&engine_key) {
                    return true;
                }
                let record = if synced { disk.synced_record(&engine_key) } else { disk.record(&engine_key) };
                // In a causal keyspace: it holds the write, or knows that it is superseded.
                context.as_ref().map_or_else(|| record.latest() >= Some(*written), |c| record.context().includes(c))
            };
            let holders = site.owners(key).iter().filter(|id| holds(&site.machine(**id).disk)).count();
            if holders < usize::from(*acks) {
                return Err(format!("{acks} acks from {}, {holders} holders of {written:?} of {key:?}", replied.node));
            }
        }
        Ok(())
    }
}
