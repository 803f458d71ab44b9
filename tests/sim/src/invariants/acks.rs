//! An acknowledgement is true at the moment it is given: the version, or one above it, is on that many owners' disks, a
//! hint of it on that many others', as durable as was asked; and that many are W at least. Hints count only where the
//! client asked for that, and a node counts once.

use super::{Invariant, Replied, Verdict};
use crate::log::PARTITION_BITS;
use crate::machine::Machine;
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
            let Ok(Answer::Written { written, acks, hints, context }) = reply else { continue };
            let nodes = usize::from(acks + hints);
            if nodes < usize::from(site.w_least) {
                return Err(format!("{acks} acks and {hints} hints, W is {}", site.w_least));
            }
            if *hints > 0 && !asked.request.sloppy {
                return Err(format!("{hints} hints count, and nobody asked for that"));
            }
            // Of a request that is answered once more, what it wrote may be gone by now.
            if !synced && site.plan.loses_power() || site.is_purged(*key, *written) {
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
            let owners = site.owners(key);
            let keeps = |disk: &crate::disk::Disk| disk.hints(synced).iter().any(|hint| hint.written == *written);
            let others = site.machines.iter().filter(|machine| !owners.contains(&machine.id));
            if site.log.state.changes > 0 {
                // Those who took it may have handed it on by now.
                let any = |machine: &&Machine| holds(&machine.disk) || *hints > 0 && keeps(&machine.disk);
                let there = site.machines.iter().filter(any).count();
                if there < usize::from(site.w_least) && !site.buried {
                    return Err(format!(
                        "{acks} acks and {hints} hints, and {there} nodes hold {written:?} of {key:?}"
                    ));
                }
                continue;
            }
            let keepers = if *hints > 0 { others.filter(|machine| keeps(&machine.disk)).count() } else { 0 };
            let owners = owners.iter().filter(|id| holds(&site.machine(**id).disk)).count();
            if owners < usize::from(*acks) || owners + keepers < nodes {
                return Err(format!(
                    "{acks} acks and {hints} hints from {}, {owners} owners and {keepers} others hold {written:?} of {key:?}",
                    replied.node
                ));
            }
        }
        Ok(())
    }
}
