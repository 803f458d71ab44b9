//! What a process remembers of a record is what its disk holds.

use super::{Invariant, Verdict};
use crate::log::PARTITION_BITS;
use crate::site::Site;
use mks_logic::event::WriteJob;
use mks_logic::id::{Key, NodeId};

#[derive(Debug, Default)]
pub(super) struct Outlines;

fn look(site: &Site, node: NodeId, key: &Key) -> Verdict {
    let engine_key = key.engine_key(PARTITION_BITS);
    let disk = &site.machine(node).disk;
    match disk.remembered(&engine_key) {
        Some(digest) if !disk.is_stopped() && digest != disk.record(&engine_key).digest() => {
            Err(format!("{node} remembers another record of {key:?} than it holds"))
        }
        _ => Ok(()),
    }
}

impl Invariant for Outlines {
    fn name(&self) -> &'static str {
        "outlines"
    }

    fn committed(&mut self, site: &Site, node: NodeId, group: &[WriteJob]) -> Verdict {
        group.iter().try_for_each(|job| look(site, node, &job.key))
    }

    fn ended(&mut self, site: &Site) -> Verdict {
        let of = |id: NodeId| site.keys.iter().try_for_each(|key| look(site, id, key));
        site.machines.iter().filter(|m| m.node.is_some()).try_for_each(|m| of(m.id))
    }
}
