//! What a disk damaged does not stay so: once the trouble is over, the record is what the other owners hold again.

use super::{Invariant, Verdict};
use crate::site::{Phase, Site};

#[derive(Debug, Default)]
pub(super) struct Scrub;

impl Invariant for Scrub {
    fn name(&self) -> &'static str {
        "scrub"
    }

    fn ended(&mut self, site: &Site) -> Verdict {
        let hurt = |machine: &&crate::machine::Machine| machine.disk.is_flipped();
        match site.present().find(hurt) {
            Some(machine) if site.phase == Phase::Liveness => {
                Err(format!("{} still holds a damaged record", machine.id))
            }
            _ => Ok(()),
        }
    }
}
