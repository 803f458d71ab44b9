//! Once the trouble is over, everything that was asked of the members is done; all owners of a key hold the same after
//! they have compared what they hold; and nobody else holds any of it.

use super::{Invariant, Verdict};
use crate::log::PARTITION_BITS;
use crate::site::{Phase, Site};

#[derive(Debug, Default)]
pub(super) struct Moves;

impl Invariant for Moves {
    fn name(&self) -> &'static str {
        "moves"
    }

    fn settled(&mut self, site: &Site) -> Verdict {
        site.settled()
    }

    fn ended(&mut self, site: &Site) -> Verdict {
        if site.phase != Phase::Liveness || !site.plan.moves() {
            return Ok(());
        }
        site.settled()?;
        for key in &site.keys {
            let (owners, engine_key) = (site.owners(key), key.engine_key(PARTITION_BITS));
            let digest = |node: &_| site.machine(*node).disk.record(&engine_key).digest();
            let digests: Vec<u64> = owners.iter().map(digest).collect();
            if digests.windows(2).any(|pair| pair[0] != pair[1]) {
                return Err(format!("the owners {owners:?} of {key:?} hold {digests:x?}"));
            }
            let holds = |machine: &&crate::machine::Machine| !machine.disk.record(&engine_key).is_empty();
            if let Some(other) = site.present().filter(holds).find(|machine| !owners.contains(&machine.id)) {
                return Err(format!("{} holds {key:?}, which {owners:?} own", other.id));
            }
        }
        Ok(())
    }
}
