//! What a node keeps of the sums over its records is what its records say, whatever crashed.

use super::{Invariant, Verdict};
use crate::machine::Machine;
use crate::site::Site;
use mks_logic::digest::{Age, Digests as _, Range, recompute};
use mks_logic::id::{Epoch, PartitionId};

#[derive(Debug, Default)]
pub(super) struct Sums;

impl Invariant for Sums {
    fn name(&self) -> &'static str {
        "sums"
    }

    fn ended(&mut self, site: &Site) -> Verdict {
        // A record that can't be read counts for nothing when sums are computed, and for what it was when they are
        // kept, until a scrub has found it.
        let whole = |machine: &&Machine| machine.node.is_some() && !machine.disk.is_flipped();
        for machine in site.machines.iter().filter(whole) {
            let copies = machine.state.all_copies_max().collect();
            let Ok(said) = recompute(&machine.disk, copies) else { continue };
            for partition in (0..1 << machine.state.partition_bits).map(PartitionId) {
                let epoch = machine.state.epoch;
                for range in Age::ALL.map(|age| Range {
                    partition,
                    copies_min: 0,
                    epoch,
                    age,
                    purged: Epoch(0),
                    closed: Epoch(0),
                }) {
                    if machine.sums.sums(range) != said.sums(range) {
                        return Err(format!("{}: the sums of {range:?} are not those of its records", machine.id));
                    }
                }
            }
        }
        Ok(())
    }
}
